"""Queries that would compare, order or compute with ciphertexts."""

from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db import connection, models
from django.db.models import (
    Avg,
    Case,
    Count,
    Exists,
    ExpressionWrapper,
    F,
    FilteredRelation,
    Max,
    OuterRef,
    Q,
    Subquery,
    Sum,
    TextField,
    Value,
    Variance,
    When,
    Window,
)
from django.db.models.functions import Cast, Coalesce, Concat, Lower, RowNumber, Upper
from django.test.utils import isolate_apps

from encryption.fields import EncryptedTextField
from tests.encryption.database import everything, refused, stored
from tests.fieldapp.factories import NoteFactory, VaultFactory
from tests.fieldapp.models import Child, Holder, Note, NoteProxy, Plain, Tenant, UuidTenant, Vault

pytestmark = pytest.mark.django_db

WAY_OUT = r"fieldapp\.\w+\.(secret|data) is encrypted.*Only isnull can"


@pytest.fixture(autouse=True)
def note(tenant: Tenant) -> Note:
    note = NoteFactory(tenant=tenant, secret="s", data={"a": 1}, note="n")
    Holder.objects.create(note=note)
    return note


LOOKUPS = [
    "exact",
    "iexact",
    "contains",
    "icontains",
    "in",
    "gt",
    "gte",
    "lt",
    "lte",
    "startswith",
    "istartswith",
    "endswith",
    "iendswith",
    "range",
    "regex",
    "iregex",
    "date",
    "year",
    "has_key",
    "has_keys",
    "has_any_keys",
    "contained_by",
    "search",
    "a",
    "0",
    "lower",
    "length",
]


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("name", ["secret", "data"])
class TestLookups:
    def test_filter_exclude_and_get_refuse_it(self, name: str, lookup: str) -> None:
        value: Any = ["s", "t"] if lookup in ("in", "range", "has_keys", "has_any_keys") else "s"
        condition = {f"{name}__{lookup}": value}
        for method in (Note.objects.filter, Note.objects.exclude, Note.objects.get):
            with pytest.raises(FieldError, match=WAY_OUT):
                method(**condition)

    def test_so_they_do_through_relations(self, name: str, lookup: str) -> None:
        value: Any = ["s", "t"] if lookup in ("in", "range", "has_keys", "has_any_keys") else "s"
        for manager, path in ((Holder.objects, "note__"), (Tenant.objects, "note__")):
            with pytest.raises(FieldError, match=WAY_OUT):
                manager.filter(**{f"{path}{name}__{lookup}": value})


@pytest.mark.parametrize(
    "value", ["s", "", 0, {"a": 1}, [], ["s"], True, False, b"bytes", object()]
)
def test_no_value_can_be_compared_with(value: Any) -> None:
    for name in ("secret", "data"):
        for method in (Note.objects.filter, Note.objects.exclude, Note.objects.get):
            with pytest.raises(FieldError, match=WAY_OUT):
                method(**{name: value})


def test_the_message_does_not_repeat_the_value() -> None:
    with pytest.raises(FieldError) as caught:
        Note.objects.get(secret="the password")
    assert "the password" not in str(caught.value)


def test_isnull_works() -> None:
    NoteFactory(secret=None, data=None)
    for name in ("secret", "data"):
        assert Note.objects.filter(**{f"{name}__isnull": True}).count() == 1
        assert Note.objects.filter(**{f"{name}__isnull": False}).get().secret == "s"
        assert Note.objects.filter(**{name: None}).get().secret is None
        assert Note.objects.exclude(**{name: None}).get().secret == "s"
        assert Note.objects.exclude(**{f"{name}__isnull": True}).get().secret == "s"
        assert Note.objects.filter(**{f"{name}__exact": None}).count() == 1
    assert Holder.objects.filter(note__secret__isnull=False).count() == 1
    assert Tenant.objects.filter(note__secret__isnull=True).count() == 1
    assert Note.objects.filter(Q(secret__isnull=True) | Q(note="n")).count() == 2
    assert Note.objects.aggregate(n=Count("pk", filter=Q(secret__isnull=False))) == {"n": 1}
    with pytest.raises(ValueError, match="isnull"):
        list(Note.objects.filter(secret__isnull="yes"))


def test_an_empty_text_is_not_null() -> None:
    empty = NoteFactory(secret="", data="")
    assert empty in Note.objects.filter(secret__isnull=False, data__isnull=False)


CONDITIONS: dict[str, Any] = {
    "Q": lambda: Note.objects.filter(Q(secret="s")),
    "not Q": lambda: Note.objects.filter(~Q(secret="s")),
    "or": lambda: Note.objects.filter(Q(note="n") | Q(secret="s")),
    "xor": lambda: Note.objects.filter(Q(note="n") ^ Q(secret="s")),
    "When": lambda: Note.objects.annotate(x=Case(When(secret="s", then=Value(1)))),
    "aggregate filter": lambda: Note.objects.annotate(x=Count("pk", filter=Q(secret="s"))),
    "FilteredRelation": lambda: Tenant.objects.annotate(
        x=FilteredRelation("note", condition=Q(note__secret="s"))
    ).filter(x__note="n"),
    "its F": lambda: Note.objects.filter(secret=F("secret")),
    "another F": lambda: Note.objects.filter(secret=F("note")),
    "OuterRef": lambda: Tenant.objects.filter(Exists(Note.objects.filter(secret=OuterRef("name")))),
    "annotation": lambda: Note.objects.annotate(x=F("secret")).filter(x="s"),
    "alias": lambda: Note.objects.alias(x=F("secret")).filter(x="s"),
    "function": lambda: Note.objects.annotate(x=Upper("secret")).filter(x="S"),
    "aggregate": lambda: Tenant.objects.annotate(x=Max("note__secret")).filter(x="s"),
    "Subquery": lambda: Holder.objects.annotate(
        x=Subquery(Note.objects.filter(pk=OuterRef("note")).values("secret"))
    ).filter(x="s"),
    "get_or_create": lambda: [Note.objects.get_or_create(secret="s")],
    "update_or_create": lambda: [Note.objects.update_or_create(secret="s", defaults={})],
}
ON_THE_RIGHT: dict[str, Any] = {
    "F": lambda: Note.objects.filter(note=F("secret")),
    "exclude": lambda: Note.objects.exclude(note=F("secret")),
    "F over a relation": lambda: Holder.objects.filter(note__note=F("note__secret")),
    "contains": lambda: Note.objects.filter(note__contains=F("secret")),
    "function": lambda: Note.objects.filter(note=Upper(F("secret"))),
    "two functions": lambda: Note.objects.filter(note=Lower(Upper("secret"))),
    "Concat": lambda: Note.objects.filter(note=Concat(F("secret"), Value("x"))),
    "Coalesce": lambda: Note.objects.filter(note=Coalesce("secret", "note")),
    "list": lambda: Note.objects.filter(note__in=[F("secret"), "n"]),
    "range": lambda: Note.objects.filter(note__range=(F("secret"), "n")),
    "or": lambda: Note.objects.filter(Q(note="x") | ~Q(note=F("secret"))),
    "OuterRef": lambda: Note.objects.filter(Exists(Note.objects.filter(note=OuterRef("secret")))),
    "values": lambda: Note.objects.filter(note__in=Note.objects.values("secret")),
    "values_list": lambda: Note.objects.filter(
        note__in=Note.objects.values_list("secret", flat=True)
    ),
    "not in values": lambda: Note.objects.exclude(note__in=Note.objects.values("secret")),
    "Subquery": lambda: Note.objects.filter(note=Subquery(Note.objects.values("secret")[:1])),
    "When": lambda: Note.objects.annotate(x=Case(When(note=F("secret"), then=Value(1)))),
    "aggregate filter": lambda: [Note.objects.aggregate(x=Count("pk", filter=Q(note=F("secret"))))],
    "count": lambda: [Note.objects.filter(note=F("secret")).count()],
    "exists": lambda: [Note.objects.filter(note=F("secret")).exists()],
    "update": lambda: [Note.objects.filter(note=F("secret")).update(note="x")],
    "delete": lambda: [Note.objects.filter(note=F("secret")).delete()],
    "having": lambda: Tenant.objects.annotate(x=Max("note__note")).filter(x=F("note__secret")),
}


#: Of a model without any secret: nothing in the outer query knows of one.
SECRETS = Note.objects.values("secret")
FROM_ANOTHER_MODEL: dict[str, Any] = {
    "values": lambda: Plain.objects.filter(secret__in=SECRETS),
    "values_list": lambda: Plain.objects.filter(
        note__in=Note.objects.values_list("secret", flat=True)
    ),
    "not in values": lambda: Plain.objects.exclude(note__in=SECRETS),
    "union": lambda: Plain.objects.filter(secret__in=SECRETS.union(SECRETS)),
    "function": lambda: Plain.objects.filter(
        note__in=Note.objects.annotate(x=Upper("secret")).values("x")
    ),
    "equal": lambda: Plain.objects.filter(secret=SECRETS[:1]),
    "Subquery": lambda: Plain.objects.filter(secret__gt=Subquery(SECRETS[:1])),
    "Subquery as text": lambda: Plain.objects.annotate(
        x=Subquery(SECRETS[:1], output_field=TextField())
    ).filter(x="s"),
    "F": lambda: Plain.objects.annotate(x=Subquery(SECRETS[:1])).filter(secret=F("x")),
    "When": lambda: Plain.objects.annotate(
        x=Case(When(secret__in=SECRETS, then=Value(1)), default=Value(0))
    ),
    "aggregate filter": lambda: [
        Plain.objects.aggregate(x=Count("pk", filter=Q(secret__in=SECRETS)))
    ],
    "order": lambda: Plain.objects.annotate(x=Subquery(SECRETS[:1])).order_by("x"),
    "descending order": lambda: Plain.objects.annotate(x=Subquery(SECRETS[:1])).order_by("-x"),
    "order by a Subquery": lambda: Plain.objects.order_by(Subquery(SECRETS[:1])),
    "nested": lambda: Tenant.objects.filter(
        pk__in=Plain.objects.filter(note__in=SECRETS).values("tenant")
    ),
    "update": lambda: [Plain.objects.filter(secret__in=SECRETS).update(note="x")],
    "delete": lambda: [Plain.objects.filter(secret__in=SECRETS).delete()],
    "count": lambda: [Plain.objects.filter(secret__in=SECRETS).count()],
}


@pytest.mark.parametrize("query", FROM_ANOTHER_MODEL.values(), ids=list(FROM_ANOTHER_MODEL))
def test_a_comparison_with_a_subquery_is_refused(query: Any, tenant: Tenant) -> None:
    Plain.objects.create(tenant=tenant, secret="s", note="n")
    with refused(FieldError, match=WAY_OUT):
        list(query())
    assert Plain.objects.get().note == "n"


SUBQUERIES: dict[str, Any] = {
    "its value": lambda: Plain.objects.annotate(x=Subquery(SECRETS[:1])),
    "is null": lambda: Plain.objects.annotate(x=Subquery(SECRETS[:1])).filter(x__isnull=False),
    "key": lambda: Plain.objects.filter(
        tenant__in=Note.objects.filter(secret__isnull=False).values("tenant")
    ),
    "count": lambda: Plain.objects.exclude(
        pk__in=Note.objects.values("note").annotate(x=Count("secret")).filter(x=9).values("x")
    ),
    "Exists": lambda: Plain.objects.filter(Exists(SECRETS)),
    "order by another": lambda: Plain.objects.annotate(
        x=Subquery(SECRETS[:1]), y=Subquery(Note.objects.values("note")[:1])
    ).order_by("y", "note"),
    "whether it is null": lambda: Plain.objects.annotate(
        x=Subquery(Note.objects.annotate(x=Q(secret__isnull=True)).values("x")[:1])
    ).filter(x=False),
}


@pytest.mark.parametrize("query", SUBQUERIES.values(), ids=list(SUBQUERIES))
def test_other_subqueries_work(query: Any, tenant: Tenant) -> None:
    Plain.objects.create(tenant=tenant, note="n")
    (found,) = query()
    assert found.note == "n"
    if hasattr(found, "x"):
        assert found.x is False or found.x.decrypt(tenant.pk) == "s"


@pytest.mark.parametrize("query", CONDITIONS.values(), ids=list(CONDITIONS))
def test_a_condition_on_it_is_refused(query: Any) -> None:
    with refused(FieldError, match="is encrypted"):
        list(query())
    assert Note.objects.count() == 1


@pytest.mark.parametrize("query", ON_THE_RIGHT.values(), ids=list(ON_THE_RIGHT))
def test_a_comparison_with_it_is_refused(query: Any) -> None:
    with refused(FieldError, match="is encrypted"):
        list(query())
    assert Note.objects.get().note == "n"


ORDERS: dict[str, Any] = {
    "ascending": lambda: Note.objects.order_by("secret"),
    "descending": lambda: Note.objects.order_by("-secret"),
    "data": lambda: Note.objects.order_by("data"),
    "second": lambda: Note.objects.order_by("pk", "secret"),
    "F": lambda: Note.objects.order_by(F("secret")),
    "nulls last": lambda: Note.objects.order_by(F("secret").desc(nulls_last=True)),
    "function": lambda: Note.objects.order_by(Lower("secret")),
    "Coalesce": lambda: Note.objects.order_by(Coalesce("secret", "note").asc()),
    "Case": lambda: Note.objects.order_by(Case(When(note="n", then=F("secret")))),
    "annotation": lambda: Note.objects.annotate(x=F("secret")).order_by("x"),
    "descending annotation": lambda: Note.objects.annotate(x=F("secret")).order_by("-x"),
    "annotated function": lambda: Note.objects.annotate(x=Upper("secret")).order_by("x"),
    "alias": lambda: Note.objects.alias(x=F("secret")).order_by("x"),
    "relation": lambda: Holder.objects.order_by("note__secret"),
    "reverse relation": lambda: Tenant.objects.order_by("-note__secret"),
    "relation's annotation": lambda: Holder.objects.annotate(x=F("note__secret")).order_by("x"),
    "values": lambda: Note.objects.values("secret").order_by("secret"),
    "union": lambda: (
        Note.objects.values_list("pk", "secret")
        .union(Note.objects.values_list("pk", "secret"))
        .order_by("secret")
    ),
    "in a subquery": lambda: Tenant.objects.annotate(
        x=Subquery(Note.objects.order_by("secret").values("pk")[:1])
    ),
    "latest": lambda: [Note.objects.latest("secret")],
    "earliest": lambda: [Note.objects.earliest("secret")],
    "reverse": lambda: Note.objects.order_by("secret").reverse(),
    "first": lambda: [Note.objects.order_by("secret").first()],
    "slice": lambda: Note.objects.order_by("secret")[:1],
    "window": lambda: Note.objects.annotate(x=Window(RowNumber(), order_by="secret")),
    "window, descending": lambda: Note.objects.annotate(
        x=Window(RowNumber(), order_by=F("secret").desc())
    ),
}


@pytest.mark.parametrize("query", ORDERS.values(), ids=list(ORDERS))
def test_ordering_by_it_is_refused(query: Any) -> None:
    with pytest.raises(FieldError, match="is encrypted"):
        list(query())


GROUPS: dict[str, Any] = {
    "group": lambda: Note.objects.values("secret").annotate(n=Count("pk")),
    "group of two": lambda: Note.objects.values("tenant", "secret").annotate(n=Count("pk")),
    "group by an annotation": lambda: Note.objects.values(x=F("secret")).annotate(n=Count("pk")),
    "group over a relation": lambda: Holder.objects.values("note__secret").annotate(n=Count("pk")),
    "another row's key": lambda: Tenant.objects.values("pk", "note__secret").annotate(
        n=Count("note")
    ),
    "having": lambda: Note.objects.values("secret").annotate(n=Count("pk")).filter(n__gt=1),
    "count once": lambda: [Note.objects.aggregate(n=Count("secret", distinct=True))],
    "count once over a relation": lambda: Tenant.objects.annotate(
        n=Count("note__secret", distinct=True)
    ),
    "count distinct": lambda: [Note.objects.values("secret").distinct().count()],
    "partition": lambda: Note.objects.annotate(n=Window(Count("pk"), partition_by="secret")),
    "partition by two": lambda: Note.objects.annotate(
        n=Window(Count("pk"), partition_by=["note", F("secret")])
    ),
    "sum": lambda: [Note.objects.aggregate(x=Sum("secret"))],
    "average": lambda: [Note.objects.aggregate(x=Avg("secret"))],
    "variance": lambda: [Note.objects.aggregate(x=Variance("secret"))],
}


@pytest.mark.parametrize("query", GROUPS.values(), ids=list(GROUPS))
def test_grouping_by_it_is_refused(note: Note, query: Any) -> None:
    with pytest.raises(FieldError, match="is encrypted"):
        list(query())


def test_other_groups_work(note: Note) -> None:
    held = Note.objects.annotate(n=Count("holders")).get()
    assert (held.n, held.secret) == (1, "s")
    (row,) = Note.objects.values("pk", "secret").annotate(n=Count("holders"))
    assert row["secret"].decrypt(note.tenant_id) == "s"
    (row,) = Note.objects.annotate(n=Count("holders")).values("secret", "n")
    assert row["n"] == 1
    (row,) = Note.objects.values(x=Q(secret__isnull=True)).annotate(n=Count("pk"))
    assert row == {"x": False, "n": 1}
    (row,) = Note.objects.values("note").annotate(x=Max("secret"), n=Count("secret"))
    assert row["n"] == 1
    assert Note.objects.distinct().count() == 1
    assert len(Note.objects.values("secret").distinct()) == 1
    child = Child.objects.create(tenant=note.tenant, secret="p", inner="c")
    (row,) = Child.objects.values("pk", "secret", "inner").annotate(n=Count("pk"))
    assert (row["pk"], row["n"]) == (child.pk, 1)


def test_other_orders_work(note: Note) -> None:
    for order in ("note", "-pk", "tenant__name", "?", F("note").asc(), Lower("note")):
        assert list(Note.objects.order_by(order)) == [note]
    assert list(Holder.objects.order_by("note__note"))
    assert list(Note.objects.annotate(x=F("note")).order_by("x")) == [note]
    by_null = Case(When(secret__isnull=True, then=Value(1)), default=Value(0))
    assert list(Note.objects.order_by(by_null)) == [note]
    read = Note.objects.annotate(x=Window(RowNumber(), order_by="note")).get()
    assert (read.x, read.secret) == (1, "s")


def test_a_model_that_is_ordered_by_it() -> None:
    with isolate_apps("tests.fieldapp"):

        class Ordered(models.Model):
            realm = models.CharField(max_length=10)
            secret = EncryptedTextField(salt_field="realm")

            class Meta:
                app_label = "fieldapp"
                ordering = ["-secret"]

    with pytest.raises(FieldError, match="is encrypted"):
        str(Ordered.objects.all().query)
    assert "secret" in str(Ordered.objects.order_by("realm").query)
    assert "secret" in str(Ordered.objects.order_by().query)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="only PostgreSQL has DISTINCT ON")
def test_distinct_on_it_is_refused() -> None:
    for query in (
        Note.objects.distinct("secret"),
        Note.objects.order_by("secret").distinct("secret"),
        Holder.objects.distinct("note__secret"),
    ):
        with pytest.raises(FieldError, match="is encrypted"):
            list(query)
    assert Note.objects.distinct("note").get().secret == "s"


# -- update() of the secret itself --------------------------------------------------------------

VALUES: dict[str, Any] = {
    "text": "clear text",
    "empty": "",
    "number": 5,
    "JSON": {"clear": "text"},
    "F": F("note"),
    "its F": F("secret"),
    "Value": Value("clear text"),
    "typed Value": Value("clear text", output_field=TextField()),
    "Upper": Upper(Value("clear text")),
    "Concat": Concat(F("note"), Value("clear text")),
    "Case": Case(When(pk__gt=0, then=Value("clear text")), default=Value("x")),
    "Case of F": Case(When(pk__gt=0, then=F("note"))),
    "Cast of a Case": Cast(Case(When(pk__gt=0, then=Value("clear text"))), TextField()),
    "empty Case": Case(default=Value("clear text")),
    "Subquery": Subquery(Note.objects.values("note")[:1]),
    "Wrapper": ExpressionWrapper(Value("clear text"), output_field=TextField()),
    "queryset": Note.objects.values("note")[:1],
    "token": "v2:00000000:AAAA",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=list(VALUES))
@pytest.mark.parametrize("name", ["secret", "data"])
def test_update_of_it_is_refused(note: Note, name: str, value: Any) -> None:
    token = stored(note, name)
    for manager in (Note.objects, Note._base_manager, note.tenant.note_set, NoteProxy.objects):
        with refused(FieldError, match=rf"{name} is encrypted.*save\(\).*EncryptedManager"):
            manager.update(**{name: value})
        with refused(FieldError):
            manager.filter(tenant__name__contains="T").update(**{name: value})
    assert stored(note, name) == token
    assert "clear text" not in everything(Note).lower()


@pytest.mark.parametrize(
    "value",
    ["clear text", F("name"), Upper("host"), Case(default=F("name"))],
    ids=["text", "F", "Upper", "Case"],
)
def test_update_of_it_is_refused_with_the_encrypted_manager(value: Any) -> None:
    VaultFactory(secret="s", data=[1], name="clear text", host="clear text")
    for name in ("secret", "data"):
        with refused(FieldError, match=rf"{name} is encrypted"):
            Vault.objects.update(**{name: value})
    read = Vault.objects.get()
    assert (read.secret, read.data) == ("s", [1])


def test_update_with_a_ciphertext_is_refused(note: Note) -> None:
    other = NoteFactory()
    for field in (Note._meta.get_field("secret"),):
        held = field.value_from_object(other)
        queried = Note.objects.values_list("secret", flat=True).get(pk=other.pk)
        for value in (held, queried, other):
            with refused((FieldError, TypeError)):
                Note.objects.filter(pk=note.pk).update(secret=value)
    assert Note.objects.get(pk=note.pk).secret == "s"


def test_update_to_null_clears(note: Note) -> None:
    assert Note.objects.update(secret=None) == 1
    read = Note.objects.get()
    assert (read.secret, read.data) == (None, {"a": 1})


def test_bulk_update_without_the_manager_is_refused(note: Note) -> None:
    token = stored(note, "secret")
    read = Note.objects.get()
    read.secret, read.note = "clear text", "changed"
    for fields in (["secret"], ["note", "secret"]):
        with refused(FieldError, match="EncryptedManager"):
            Note.objects.bulk_update([read], fields)
    assert stored(note, "secret") == token
    assert Note.objects.get().note == "n"
    assert "clear text" not in everything(Note)

    Note.objects.bulk_update([read], ["note"])
    assert Note.objects.get().note == "changed"
    assert stored(note, "secret") == token


def test_a_token_copied_into_a_plain_column_is_still_a_token(note: Note, tenant: Tenant) -> None:
    Plain.objects.create(tenant=tenant)
    Plain.objects.update(secret=Subquery(Note.objects.values("secret")[:1]))
    assert Plain.objects.get().secret == stored(note, "secret")


async def test_async_queries_are_refused(note: Note) -> None:
    with pytest.raises(FieldError, match="is encrypted"):
        await Note.objects.aget(secret="s")
    with pytest.raises(FieldError, match="is encrypted"):
        await Note.objects.aupdate(secret="s")
    with pytest.raises(FieldError, match="is encrypted"):
        await Note.objects.order_by("secret").afirst()


def test_prefetched_and_related_queries_are_refused(owner: UuidTenant) -> None:
    VaultFactory(tenant=owner)
    with pytest.raises(FieldError):
        owner.vaults.filter(secret="s")
    with pytest.raises(FieldError):
        owner.vaults.get(secret="s")
    with pytest.raises(FieldError):
        UuidTenant.objects.exclude(vaults__secret="s")
