"""Instances that know less of their row than the row has become, or share what they know."""

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core import serializers
from django.core.exceptions import FieldError
from django.core.management import call_command
from django.db import DatabaseError, models, transaction
from django.db.models.signals import post_save, pre_save
from django.test.utils import isolate_apps

from encryption.fields import EncryptedJSONField, EncryptedTextField
from encryption.managers import EncryptedQuerySet
from tests.encryption.database import tables
from tests.fieldapp.models import Child, Holder, Note, Parent, Tenant

pytestmark = pytest.mark.django_db


def move(row: Any, tenant: Tenant) -> None:
    row.tenant = tenant
    row.save()


# -- loaded without its tenant --------------------------------------------------------------------

LOADED_WITHOUT: dict[str, Callable[[], Note]] = {
    "raw": lambda: Note.objects.raw("SELECT id, secret FROM fieldapp_note")[0],
    "queryset": lambda: models.QuerySet(Note).only("secret").get(),
    "relation": lambda: Holder.objects.select_related("note").only("note__secret").get().note,
}


@pytest.mark.parametrize("how", [{}, {"update_fields": ["secret"]}], ids=["save", "partly"])
@pytest.mark.parametrize("load", LOADED_WITHOUT)
def test_a_row_that_moved_since_is_saved(
    load: str, how: dict[str, Any], tenant: Tenant, other_tenant: Tenant
) -> None:
    Holder.objects.create(note=Note.objects.create(tenant=tenant, secret="one"))
    stale = LOADED_WITHOUT[load]()
    move(Note.objects.get(), other_tenant)
    stale.save(**how)
    row = Note.objects.get()
    assert (row.tenant, row.secret) == (other_tenant, "one")


def test_one_secret_of_two_is_read_before(tenant: Tenant, other_tenant: Tenant) -> None:
    Note.objects.create(tenant=tenant, secret="one", data=[1])
    stale = models.QuerySet(Note).only("secret", "data").get()
    move(Note.objects.get(), other_tenant)
    assert stale.secret == "one"
    assert stale.data == [1]
    stale.save()
    assert Note.objects.get().data == [1]


def test_it_is_updated_with_others(tenant: Tenant, other_tenant: Tenant) -> None:
    Note.objects.create(tenant=tenant, secret="one", data=[1])
    stale = models.QuerySet(Note).only("secret").get()
    move(Note.objects.get(), other_tenant)
    EncryptedQuerySet(Note).bulk_update([stale], ["secret", "tenant"])
    row = Note.objects.get()
    assert (row.tenant, row.secret, row.data) == (other_tenant, "one", [1])


def test_it_is_saved_to_another_database(
    other_database: str, tenant: Tenant, other_tenant: Tenant
) -> None:
    for one in (tenant, other_tenant):
        Tenant(pk=one.pk).save(using=other_database, force_insert=True)
    Note.objects.create(tenant=tenant, secret="one")
    stale = models.QuerySet(Note).only("secret").get()
    move(Note.objects.get(), other_tenant)
    stale.save(using=other_database)
    assert Note.objects.using(other_database).get().secret == "one"


def test_a_secret_that_was_cleared_since_stays_so(tenant: Tenant) -> None:
    Note.objects.create(tenant=tenant, secret="one")
    stale = models.QuerySet(Note).only("secret").get()
    Note.objects.update(secret=None)
    stale.save()
    assert Note.objects.get().secret is None


# -- what two instances share ---------------------------------------------------------------------


def test_the_twin_of_an_instance_moves_first(tenant: Tenant, other_tenant: Tenant) -> None:
    Note.objects.create(tenant=tenant, secret="one")
    row, twin = Note.objects.get(), Note()
    twin.__dict__.update(row.__dict__)
    twin.secret = "two"
    move(twin, other_tenant)
    assert twin._state is not row._state
    move(row, other_tenant)
    assert Note.objects.get().secret == "one"


@pytest.mark.parametrize("raw", [False, True])
def test_a_child_that_is_made_of_its_parents_row(
    raw: bool, tenant: Tenant, other_tenant: Tenant
) -> None:
    row = Parent.objects.get(pk=Parent.objects.create(tenant=tenant, secret="one").pk)
    child = Child(parent_ptr=row)
    child.__dict__.update(row.__dict__)
    child.tenant = other_tenant
    if raw:
        child.save_base(raw=True)
    child.save()
    assert (Child.objects.get().secret, Child.objects.get().tenant) == ("one", other_tenant)
    move(row, tenant)
    assert (Parent.objects.get().secret, Child.objects.get().secret) == ("one", "one")


@pytest.mark.parametrize("signal", [pre_save, post_save], ids=["pre_save", "post_save"])
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda row: pickle.loads(pickle.dumps(row))],
    ids=["copy", "deepcopy", "pickle"],
)
@pytest.mark.parametrize("use", ["bulk_create", "fixture"])
def test_a_copy_that_a_handler_made_is_of_no_save(
    use: str, copied: Callable[[Any], Any], signal: Any, tenant: Tenant, other_tenant: Tenant
) -> None:
    row, kept = Note.objects.create(tenant=tenant, secret="one"), []

    def keep(instance: Any, **kwargs: Any) -> None:
        kept.append(copied(instance))

    signal.connect(keep, sender=Note)
    try:
        row.save(update_fields=["secret"])
    finally:
        signal.disconnect(keep, sender=Note)
    Note.objects.all().delete()
    [snapshot] = kept
    snapshot.tenant = other_tenant
    if use == "bulk_create":
        Note.objects.bulk_create([snapshot])
    else:
        [found] = serializers.deserialize("json", serializers.serialize("json", [snapshot]))
        found.save()
    assert (Note.objects.get().tenant, Note.objects.get().secret) == (other_tenant, "one")


@pytest.mark.parametrize("read", [False, True])
def test_a_parent_that_is_made_of_a_changed_child(read: bool, tenant: Tenant) -> None:
    Child.objects.create(tenant=tenant, secret="one")
    child = Child.objects.get()
    if read:
        assert child.secret == "one"
    child.secret = "two"
    parent = child.parent_ptr
    assert parent.secret == "two"
    parent.save()
    child.save()
    assert (Child.objects.get().secret, Parent.objects.get().secret) == ("two", "two")


# -- families -------------------------------------------------------------------------------------


class Living(models.Manager[Any]):
    def get_queryset(self) -> Any:
        return super().get_queryset().filter(gone=False)


@pytest.fixture
def kid() -> Iterator[Any]:
    """A child of a parent with a default secret, and whose base manager hides rows."""
    with isolate_apps("tests.fieldapp"):

        class Safe(models.Model):
            tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")
            secret = EncryptedTextField(salt_field="tenant")
            settings = EncryptedJSONField(salt_field="tenant", default=dict)

            class Meta:
                app_label = "fieldapp"

        class Kid(Safe):
            inner = EncryptedTextField(salt_field="tenant")
            gone = models.BooleanField(default=False)

            everything = models.Manager()
            objects = Living()

            class Meta:
                app_label = "fieldapp"
                base_manager_name = "objects"

        with tables(Safe, Kid):
            yield Kid


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("fields", [["tenant"], ["tenant", "secret"]])
def test_a_row_that_its_base_manager_hides_is_not_moved(
    kid: Any, fields: list[str], tenant: Tenant, other_tenant: Tenant
) -> None:
    kid.everything.create(tenant=tenant, secret="one", inner="two", gone=True)
    row = kid.everything.get()
    row.tenant = other_tenant
    with pytest.raises((FieldError, DatabaseError)), transaction.atomic():
        row.save(update_fields=fields)
    row = kid.everything.get()
    assert (row.tenant, row.secret, row.inner) == (tenant, "one", "two")


@pytest.mark.django_db(transaction=True)
def test_a_childs_row_is_saved_raw_beside_a_parents_default(kid: Any, tenant: Tenant) -> None:
    row = kid.objects.create(tenant=tenant, secret="one", inner="two", settings={"a": 1})
    token = kid.objects.values_list("inner", flat=True).get().token
    kid.objects.get().delete(keep_parents=True)
    kid(safe_ptr_id=row.pk, inner=token).save_base(raw=True)  # as a fixture's
    found = kid.objects.get()
    assert (found.secret, found.inner, found.settings) == ("one", "two", {"a": 1})


def test_a_fixture_of_a_family_goes_back(tenant: Tenant, tmp_path: Path) -> None:
    Child.objects.create(tenant=tenant, secret="one", inner="two")
    file = tmp_path / "rows.json"
    call_command("dumpdata", "fieldapp.Parent", "fieldapp.Child", output=str(file))
    Parent.objects.all().delete()
    call_command("loaddata", str(file), verbosity=0)
    assert (Child.objects.get().secret, Child.objects.get().inner) == ("one", "two")
