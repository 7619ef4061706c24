"""`refresh_from_db`: Django reads a second instance and copies it with a getattr and a setattr."""

from collections import Counter
from typing import Any

import pytest
from django.db import models
from django.db.models import F
from django.db.models.signals import post_init

from encryption import MalformedTokenError, WrongKeyError
from tests.encryption.database import store, stored
from tests.fieldapp.factories import (
    ChildFactory,
    NoteFactory,
    TenantFactory,
    TextSaltFactory,
    VaultFactory,
)
from tests.fieldapp.models import Child, Note, Tenant, TextSalt, UuidTenant, Vault

pytestmark = pytest.mark.django_db


@pytest.fixture
def note(tenant: Tenant) -> Note:
    NoteFactory(tenant=tenant, secret="old", data=["old"], note="old")
    return Note.objects.get()


def _change(tenant: Tenant | None = None) -> None:
    note = Note.objects.get()
    note.secret, note.data, note.note = "new", ["new"], "new"
    if tenant:
        note.tenant = tenant
    note.save()


def test_no_value_is_decrypted_for_a_refresh(note: Note, crypto: Counter[str]) -> None:
    assert note.secret
    _change()
    crypto.clear()
    note.refresh_from_db()
    note.refresh_from_db(fields=["secret", "data"])
    assert not crypto
    assert (note.secret, note.data) == ("new", ["new"])
    assert crypto["decrypt"] == 2


def test_a_refreshed_secret_keeps_its_token(note: Note) -> None:
    assert note.secret == "old"
    _change()
    note.refresh_from_db()
    token = stored(note, "secret")
    note.save()
    assert stored(note, "secret") == token


@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_everything_is_refreshed(note: Note, other_tenant: Tenant, read: bool) -> None:
    if read:
        assert note.secret
        assert note.data
    _change(other_tenant)

    note.refresh_from_db()

    assert (note.secret, note.data, note.note) == ("new", ["new"], "new")
    assert note.tenant == other_tenant
    note.save()
    assert Note.objects.get().secret == "new"


FIELDS: dict[str, Any] = {
    "list": ["secret"],
    "tuple": ("secret",),
    "set": {"secret"},
    "dict keys": {"secret": 1}.keys(),
    "with the tenant": ["secret", "tenant"],
    "with the tenant's id": ["tenant_id", "secret"],
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=list(FIELDS))
@pytest.mark.parametrize("moved", [False, True], ids=["stays", "moves"])
def test_one_secret_is_refreshed(
    note: Note, tenant: Tenant, other_tenant: Tenant, fields: Any, moved: bool
) -> None:
    assert (note.secret, note.data) == ("old", ["old"])
    _change(other_tenant if moved else None)

    note.refresh_from_db(fields=fields)

    assert (note.secret, note.data, note.note) == ("new", ["old"], "old")
    named = {"tenant", "tenant_id"}.intersection(fields)
    assert note.tenant == (other_tenant if moved and named else tenant)
    note.save()
    read = Note.objects.get()
    assert (read.secret, read.data, read.tenant) == ("new", ["old"], note.tenant)


def test_fields_of_a_generator(note: Note) -> None:
    _change()
    note.refresh_from_db(fields=(name for name in ["secret", "note"]))
    assert (note.secret, note.note) == ("new", "new")


def test_no_fields_refresh_nothing(note: Note, django_assert_num_queries: Any) -> None:
    _change()
    with django_assert_num_queries(0):
        note.refresh_from_db(fields=[])
    assert note.secret == "old"


def test_using_and_fields_by_position(note: Note) -> None:
    _change()
    note.refresh_from_db("default")
    assert note.secret == "new"
    note.secret = "edited"
    note.refresh_from_db("default", ["secret"])
    assert note.secret == "new"


def test_a_queryset_to_refresh_from(note: Note, django_assert_num_queries: Any) -> None:
    _change()
    note.refresh_from_db(from_queryset=Note.objects.select_related("tenant"))
    with django_assert_num_queries(0):
        assert (note.secret, note.tenant.pk) == ("new", note.tenant_id)
    note.secret = "edited"
    note.refresh_from_db(None, ["secret"], Note.objects.all())
    assert note.secret == "new"
    note.refresh_from_db(None, None, Note.objects.defer("secret"))
    assert note.secret == "new"
    with pytest.raises(Note.DoesNotExist):
        note.refresh_from_db(from_queryset=Note.objects.filter(note="none"))


def test_another_database(other_database: str, note: Note, tenant: Tenant) -> None:
    tenant.save(using=other_database)
    Note(pk=note.pk, tenant=tenant, secret="there", data=[2]).save(using=other_database)

    note.refresh_from_db(using=other_database)
    assert (note.secret, note.data) == ("there", [2])
    note.refresh_from_db(using="default", fields=["secret"])
    assert (note.secret, note.data) == ("old", [2])


def test_a_relation_is_no_field_to_refresh(note: Note) -> None:
    with pytest.raises(ValueError, match="__"):
        note.refresh_from_db(fields=["tenant__name"])


# -- what is kept -------------------------------------------------------------------------------


def test_edits_of_other_fields_are_kept(note: Note) -> None:
    note.secret = "edited"
    note.data.append("edited")
    note.note = "edited"
    _change()

    note.refresh_from_db(fields=["note"])
    assert (note.secret, note.data, note.note) == ("edited", ["old", "edited"], "new")
    note.refresh_from_db(fields=["secret"])
    assert (note.secret, note.data) == ("new", ["old", "edited"])
    note.save()
    read = Note.objects.get()
    assert (read.secret, read.data) == ("new", ["old", "edited"])


def test_an_edited_tenant_is_kept(note: Note, other_tenant: Tenant) -> None:
    note.tenant = other_tenant
    _change()
    note.refresh_from_db(fields=["secret"])
    assert note.tenant is other_tenant
    assert note.secret == "new"
    note.save()
    read = Note.objects.get()
    assert (read.tenant, read.secret, read.data) == (other_tenant, "new", ["old"])


def test_a_tenant_that_is_not_saved_yet_is_kept(note: Note) -> None:
    unsaved = Tenant(name="unsaved")
    note.tenant = unsaved
    note.refresh_from_db(fields=["secret"])
    assert note.tenant is unsaved
    unsaved.save()
    note.save()
    assert Note.objects.get().secret == "old"


def test_a_related_row_that_was_loaded_is_kept(
    tenant: Tenant, django_assert_num_queries: Any
) -> None:
    NoteFactory(tenant=tenant)
    note = Note.objects.select_related("tenant").get()
    loaded = note.tenant
    with django_assert_num_queries(1):
        note.refresh_from_db(fields=["secret"])
        assert note.tenant is loaded


def test_edits_are_dropped_by_a_whole_refresh(note: Note, other_tenant: Tenant) -> None:
    note.secret, note.data, note.tenant = "edited", ["edited"], other_tenant
    note.refresh_from_db()
    assert (note.secret, note.data) == ("old", ["old"])
    assert note.tenant != other_tenant
    note.save()
    assert Note.objects.get().secret == "old"


def test_json_edited_in_place_is_dropped(note: Note) -> None:
    note.data.append("edited")
    note.refresh_from_db(fields=["data"])
    assert note.data == ["old"]
    note.data.append("edited")
    note.refresh_from_db()
    note.save()
    assert Note.objects.get().data == ["old"]


def test_a_bad_value_is_dropped(note: Note) -> None:
    for bad in (5, b"bytes", F("note"), "\ud800"):
        note.secret = bad
        note.refresh_from_db(fields=["secret"])
        assert note.secret == "old"


def test_a_null_is_refreshed(note: Note) -> None:
    assert note.secret
    Note.objects.update(secret=None)
    note.refresh_from_db()
    assert note.secret is None
    _change()
    note.refresh_from_db(fields=["secret"])
    assert note.secret == "new"


# -- deferred fields ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "queryset",
    [
        Note.objects.defer("secret"),
        Note.objects.only("note"),
        Note.objects.only("tenant"),
        Note.objects.only("secret"),
        Note.objects.defer("tenant"),
        Note.objects.defer("tenant", "secret"),
    ],
    ids=["secret", "all but a note", "all but tenant", "all but secret", "tenant", "both"],
)
@pytest.mark.parametrize("fields", [None, ["secret"], ["note"], ["tenant"]])
def test_deferred_fields_stay_deferred_or_are_loaded(
    note: Note, other_tenant: Tenant, queryset: Any, fields: list[str] | None
) -> None:
    note = queryset.get()
    deferred = note.get_deferred_fields()
    _change(other_tenant)

    note.refresh_from_db(fields=fields)

    if fields is None:
        assert note.get_deferred_fields() == deferred
    elif fields == ["secret"]:
        assert "secret" not in note.get_deferred_fields()
    if fields == ["secret"] or "secret" in deferred or fields is None:
        assert note.secret == "new"
    else:
        assert note.secret in ("old", "new")
    note.note = "saved"
    note.save()
    read = Note.objects.get()
    assert read.secret in ("old", "new")
    assert read.data in (["old"], ["new"])
    note.refresh_from_db()
    assert note.secret == read.secret


def test_a_refresh_of_one_secret_takes_one_query(
    owner: UuidTenant, django_assert_num_queries: Any
) -> None:
    VaultFactory(tenant=owner, host="h", secret="s", data=[1])
    for queryset in (Vault.objects.all(), Vault.objects.only("name"), Vault.objects.only("data")):
        vault = queryset.get()
        with django_assert_num_queries(1):
            vault.refresh_from_db(fields=["secret"])
            assert vault.secret == "s"


# -- rows that cannot be read, or are gone ------------------------------------------------------


def test_an_unreadable_row_is_refreshed(note: Note) -> None:
    assert note.secret == "old"
    token = stored(note, "secret")
    store(note, "secret", "no token")
    store(note, "note", "new")

    note.refresh_from_db()

    assert (note.note, note.data) == ("new", ["old"])
    with pytest.raises(MalformedTokenError):
        note.secret  # noqa: B018
    store(note, "secret", token)
    note.refresh_from_db(fields=["secret"])
    assert note.secret == "old"


def test_a_row_moved_in_sql_is_refreshed_and_tells(note: Note, other_tenant: Tenant) -> None:
    assert note.secret == "old"
    store(note, "tenant", other_tenant.pk)
    note.refresh_from_db(fields=["tenant"])
    note.refresh_from_db()
    with pytest.raises(WrongKeyError):
        note.secret  # noqa: B018


def test_a_deleted_row(note: Note) -> None:
    note.secret = "edited"
    Note.objects.all().delete()
    for fields in (None, ["secret"], ["note"]):
        with pytest.raises(Note.DoesNotExist):
            note.refresh_from_db(fields=fields)
    assert note.secret == "edited"


def test_a_row_of_another_model_with_the_same_id_is_read_meanwhile(tenant: Tenant) -> None:
    made = NoteFactory(tenant=tenant, secret="s")
    TextSaltFactory(pk=made.pk, secret="t")
    seen = []

    def look(sender: object, **kwargs: object) -> None:
        seen.append(TextSalt.objects.get(pk=made.pk).secret)

    note = Note.objects.get()
    post_init.connect(look, sender=Note)
    try:
        note.refresh_from_db()
        note.refresh_from_db(fields=["secret"])
    finally:
        post_init.disconnect(look, sender=Note)
    assert seen == ["t", "t"]
    assert note.secret == "s"


async def test_arefresh_from_db(tenant: Tenant) -> None:
    made = await Note.objects.acreate(tenant=tenant, secret="old", data=[1])
    note = await Note.objects.aget()
    made.secret = "new"
    await made.asave()
    await note.arefresh_from_db()
    assert note.secret == "new"
    note.secret = "edited"
    await note.arefresh_from_db(fields=["secret"])
    assert (note.secret, note.data) == ("new", [1])
    await note.arefresh_from_db(from_queryset=Note.objects.defer("data"))
    assert note.secret == "new"


# -- a child of multi-table inheritance ---------------------------------------------------------


@pytest.fixture
def child(tenant: Tenant) -> Child:
    ChildFactory(tenant=tenant, secret="outer", inner="inner")
    return Child.objects.get()


@pytest.mark.parametrize("fields", [None, ["secret", "inner"]])
def test_an_inherited_secret_keeps_its_token(
    child: Child, fields: list[str] | None, crypto: Counter[str]
) -> None:
    before = stored(child, "secret"), stored(child, "inner")
    child.refresh_from_db(fields=fields)
    assert not crypto
    assert (child.secret, child.inner) == ("outer", "inner")
    child.save()
    assert (stored(child, "secret"), stored(child, "inner")) == before


@pytest.mark.parametrize("fields", [None, ["secret"]])
def test_a_row_whose_inherited_secret_cannot_be_read_is_refreshed(
    child: Child, fields: list[str] | None
) -> None:
    assert child.secret == "outer"
    token = stored(child, "secret")
    store(child, "secret", "garbage")
    child.refresh_from_db(fields=fields)
    with pytest.raises(MalformedTokenError):
        child.secret  # noqa: B018
    assert child.inner == "inner"
    store(child, "secret", token)
    child.refresh_from_db(fields=fields)
    assert child.secret == "outer"


def test_a_child_that_was_moved_meanwhile_is_refreshed(child: Child, other_tenant: Tenant) -> None:
    assert (child.secret, child.inner) == ("outer", "inner")
    other = Child.objects.get()
    other.tenant, other.secret = other_tenant, "new"
    other.save()
    child.refresh_from_db()
    assert (child.secret, child.inner, child.tenant) == ("new", "inner", other_tenant)


def test_a_model_whose_attributes_are_read_by_a_method_of_its_own(
    note: Note, crypto: Counter[str]
) -> None:
    """One that overrides ``__getattribute__`` stands between the reader and the attribute."""

    def __getattribute__(self: Any, name: str) -> Any:  # noqa: N807
        return object.__getattribute__(self, name)

    token = stored(note, "secret")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Note, "__getattribute__", __getattribute__)
        note.refresh_from_db()
        assert not crypto
        note.save()
    assert stored(note, "secret") == token


# -- from a queryset that leaves a tenant out -----------------------------------------------------


def _without_tenant(model: Any) -> Any:
    """Django's own queryset, which does not know what belongs together."""
    return models.QuerySet(model).defer("tenant")


@pytest.mark.parametrize("fields", [None, ["secret", "data"]], ids=["all", "secrets"])
@pytest.mark.parametrize("assigned", [False, True], ids=["kept", "assigned"])
@pytest.mark.parametrize("how", ["save", "save_base", "update_fields", "read"])
def test_a_secret_that_is_refreshed_without_its_tenant(
    note: Note, tenant: Tenant, other_tenant: Tenant, fields: Any, assigned: bool, how: str
) -> None:
    third = TenantFactory()
    _change(other_tenant)
    if assigned:
        note.tenant = third
    note.refresh_from_db(fields=fields, from_queryset=_without_tenant(Note))
    expected = third if assigned else tenant
    assert note.tenant == expected
    note.note = "edited"
    if how == "read":
        assert (note.secret, note.data) == ("new", ["new"])
        note.save()
    elif how == "update_fields":
        note.save(update_fields=["note", "tenant"])
    else:
        getattr(note, how)()
    loaded = Note.objects.get()
    assert (loaded.tenant, loaded.note) == (expected, "edited")
    assert (loaded.secret, loaded.data) == ("new", ["new"])
    assert (note.secret, note.data) == ("new", ["new"])


def test_what_is_left_out_of_a_refresh_is_still_to_be_saved(
    note: Note, tenant: Tenant, other_tenant: Tenant
) -> None:
    note.tenant = other_tenant
    note.refresh_from_db(from_queryset=models.QuerySet(Note).only("note"))
    state: Any = note._state
    assert state.encrypted_under == (tenant.pk,)
    note.save(update_fields=["tenant"])
    assert Note.objects.get().secret == "old"


def test_an_instance_that_was_not_loaded_is_refreshed_without_its_tenant(note: Note) -> None:
    made = Note(pk=note.pk)
    made.refresh_from_db(from_queryset=_without_tenant(Note))
    assert made.secret == "old"
    made.save(update_fields=["secret"])
    assert Note.objects.get().secret == "old"


def test_a_prefetched_name_among_the_fields(note: Note, other_tenant: Tenant) -> None:
    loaded = Note.objects.prefetch_related("holders").get()
    _change(other_tenant)
    loaded.refresh_from_db(fields=["holders", "secret"], from_queryset=models.QuerySet(Note))
    assert loaded.secret == "new"
