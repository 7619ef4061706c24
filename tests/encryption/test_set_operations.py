"""Intersections and differences: of rows, never of ciphertexts."""

from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db.models import F, OuterRef, Q, QuerySet, Subquery

from encryption.descriptors import Ciphertext
from tests.fieldapp.factories import ChildFactory, NoteFactory
from tests.fieldapp.models import Child, Holder, Note, NoteProxy, Parent, Plain, Tenant

pytestmark = pytest.mark.django_db

REFUSED = r"fieldapp\.\w+\.\w+ is encrypted.*(intersection|difference)"


@pytest.fixture(autouse=True)
def note(tenant: Tenant, other_tenant: Tenant) -> Note:
    """Two notes with the same secret, of two tenants; a third with another."""
    note = NoteFactory(tenant=tenant, secret="aaa", note="first", data=[1])
    NoteFactory(tenant=other_tenant, secret="aaa", note="second", data=[1])
    NoteFactory(tenant=other_tenant, secret="bbb", note="third", data=[1])
    Holder.objects.create(note=note)
    Plain.objects.create(tenant=tenant, secret="aaa", note="first")
    return note


def _first() -> QuerySet[Note]:
    return Note.objects.filter(note="first")


def _second() -> QuerySet[Note]:
    return Note.objects.filter(note="second")


OF_SECRETS: dict[str, Any] = {
    "values_list": lambda: (_first().values_list("secret"), _second().values_list("secret")),
    "values": lambda: (_first().values("note", "data"), _second().values("note", "data")),
    "annotation": lambda: (
        _first().annotate(x=F("secret")).values("x"),
        _second().annotate(x=F("secret")).values("x"),
    ),
    "subquery": lambda: (
        Holder.objects.annotate(
            x=Subquery(Note.objects.filter(pk=OuterRef("note")).values("secret"))
        ).values("x"),
        Holder.objects.annotate(x=Subquery(_second().values("secret")[:1])).values("x"),
    ),
    "relation": lambda: (
        Tenant.objects.values_list("pk", "note__secret"),
        Tenant.objects.values_list("pk", "note__secret"),
    ),
    "with a plain column": lambda: (_first().values_list("secret"), Plain.objects.values("secret")),
    "a plain column with it": lambda: (
        Plain.objects.values("secret"),
        _first().values_list("secret"),
    ),
    "the second of three": lambda: (
        Plain.objects.values("secret"),
        Plain.objects.values("secret"),
        _first().values_list("secret"),
    ),
    "in a union": lambda: (
        _first().values("secret").union(_second().values("secret")),
        _second().values("secret"),
    ),
    "two secrets": lambda: (
        _first().values_list("pk", "secret"),
        _first().values_list("pk", "data"),
    ),
    "rows of two models": lambda: (Note.objects.all(), Plain.objects.all()),
    "keys of two models": lambda: (
        Note.objects.values_list("pk", "secret"),
        Parent.objects.values_list("pk", "secret"),
    ),
}


@pytest.mark.parametrize("querysets", OF_SECRETS.values(), ids=list(OF_SECRETS))
@pytest.mark.parametrize("operation", ["intersection", "difference"])
def test_a_comparison_of_ciphertexts_is_refused(operation: str, querysets: Any) -> None:
    one, *others = querysets()
    combined = getattr(one, operation)(*others)
    for evaluate in (list, lambda rows: rows.count(), lambda rows: rows.exists()):
        with pytest.raises(FieldError, match=REFUSED):
            evaluate(combined)


OF_ROWS: dict[str, Any] = {
    "instances": lambda: (Note.objects.all(), _first(), _second()),
    "proxies": lambda: (NoteProxy.objects.all(), _first(), _second()),
    "some columns": lambda: (
        Note.objects.only("note", "secret"),
        _first().only("note", "secret"),
        _second().only("note", "secret"),
    ),
    "keys": lambda: (
        Note.objects.values_list("pk", "secret"),
        _first().values_list("pk", "secret"),
        _second().values_list("pk", "secret"),
    ),
    "key and annotation": lambda: (
        Note.objects.annotate(x=F("data")).values("secret", "id", "x"),
        _first().annotate(x=F("data")).values("secret", "id", "x"),
        _second().annotate(x=F("data")).values("secret", "id", "x"),
    ),
    "columns of the first": lambda: (Note.objects.values("pk", "secret"), _first(), _second()),
    "plain columns": lambda: (
        Note.objects.values("note"),
        _first().values("note"),
        _second().values("note"),
    ),
    "related": lambda: (
        Note.objects.select_related("tenant"),
        _first().select_related("tenant"),
        _second().select_related("tenant"),
    ),
    "unions": lambda: (Note.objects.all(), _first().union(_first()), _second().union(_second())),
}


@pytest.mark.parametrize("querysets", OF_ROWS.values(), ids=list(OF_ROWS))
def test_rows_are_compared(querysets: Any) -> None:
    everything, first, second = querysets()
    assert (len(everything.intersection(first)), everything.intersection(first).count()) == (1, 1)
    assert len(everything.difference(first)) == 2
    assert len(everything.difference(first, second)) == everything.difference(first).count() - 1
    assert len(first.intersection(second)) == first.intersection(second).count() == 0
    assert len(first.difference(second)) == 1


def test_the_rows_of_an_intersection_are_read(note: Note) -> None:
    (read,) = Note.objects.all().intersection(_first())
    assert (read.secret, read.data) == ("aaa", [1])
    (row,) = Note.objects.values("pk", "secret").difference(Note.objects.exclude(pk=note.pk))
    assert type(row["secret"]) is Ciphertext
    assert row["secret"].decrypt(note.tenant_id) == "aaa"


def test_rows_with_related_rows_and_of_child_tables(tenant: Tenant) -> None:
    held = Holder.objects.select_related("note")
    (holder,) = held.intersection(held)
    assert holder.note
    assert holder.note.secret == "aaa"
    ChildFactory(tenant=tenant, secret="outer", inner="inner")
    for children in (
        Child.objects.all(),
        Child.objects.values("pk", "secret", "inner"),
        Child.objects.values("id", "secret"),
    ):
        assert len(children.intersection(children)) == 1
        assert len(children.difference(children)) == 0
    assert Child.objects.all().intersection(Child.objects.all()).get().inner == "inner"


def test_a_condition_on_a_secret_compares_none(tenant: Tenant) -> None:
    NoteFactory(tenant=tenant, secret=None, note="empty")
    held = Note.objects.filter(secret__isnull=False).values("note")
    assert len(Note.objects.values("note").difference(held)) == 1
    whether = Note.objects.values(x=Q(secret__isnull=True))
    assert len(whether.intersection(whether)) == 2
    tenants = Tenant.objects.filter(note__secret__isnull=False).values("name")
    assert len(tenants.difference(Plain.objects.values("secret"))) == 2


def test_unions_are_as_ever(note: Note) -> None:
    assert len(_first().values("secret").union(_second().values("secret"))) == 2
    assert len(_first().values("secret").union(Plain.objects.values("secret"))) == 2
    both = _first().values("pk").intersection(Note.objects.values("pk"))
    assert len(both.union(_second().values("pk"))) == 2
