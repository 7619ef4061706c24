"""The tenant of a row changes, or another field that its secret is bound to.

Whatever happens to a row: afterwards it can be read, or the change was refused.
"""

import itertools
from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
from django.core.exceptions import FieldError
from django.db import DatabaseError, connection, models, transaction
from django.db.models import Case, F, OuterRef, Q, Subquery, Value, When
from django.db.models.functions import Concat, Lower, Upper
from django.test import override_settings
from django.test.utils import CaptureQueriesContext, isolate_apps

from encryption import DecryptionError, EncryptionError, MissingSaltError, decrypt
from encryption.fields import EncryptedTextField
from tests.encryption.database import everything, refused, store, stored, tables
from tests.fieldapp.factories import (
    LateSaltFactory,
    NoteFactory,
    TextSaltFactory,
    VaultFactory,
)
from tests.fieldapp.models import LateSalt, Note, OwnKey, Tenant, TextSalt, UuidTenant, Vault

pytestmark = pytest.mark.django_db


def _is_note(note: Note, tenant: Tenant, secret: str | None, data: Any) -> None:
    read = Note.objects.get(pk=note.pk)
    assert (read.tenant_id, read.secret, read.data) == (tenant.pk, secret, data)
    if secret is not None:
        token = stored(note, "secret")
        assert decrypt(token, tenant.pk, context="fieldapp.note.secret") == secret


# -- save() -------------------------------------------------------------------------------------

LOADS: dict[str, Any] = {
    "loaded": lambda pk: Note.objects.get(pk=pk),
    "only the tenant": lambda pk: Note.objects.only("tenant").get(pk=pk),
    "only a note": lambda pk: Note.objects.only("note").get(pk=pk),
    "only the secret": lambda pk: Note.objects.only("secret").get(pk=pk),
    "no secret": lambda pk: Note.objects.defer("secret").get(pk=pk),
    "no tenant": lambda pk: Note.objects.defer("tenant").get(pk=pk),
    "raw": lambda pk: Note.objects.raw("SELECT id, note FROM fieldapp_note WHERE id = %s", [pk])[0],
}


@pytest.mark.parametrize("load", LOADS.values(), ids=list(LOADS))
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
@pytest.mark.parametrize(
    "fields",
    [
        None,
        ["tenant"],
        ["tenant_id"],
        ["tenant", "note"],
        ["tenant", "secret"],
        ["tenant", "secret", "data"],
    ],
    ids=lambda fields: "+".join(fields) if fields else "all",
)
def test_a_moved_row_is_encrypted_anew(
    tenant: Tenant, other_tenant: Tenant, load: Any, read: bool, fields: list[str] | None
) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data={"a": [1]}, note="n")
    note = load(made.pk)
    if read:
        assert (note.secret, note.data) == ("s", {"a": [1]})
    note.tenant = other_tenant

    note.save(update_fields=fields)

    _is_note(made, other_tenant, "s", {"a": [1]})
    assert (note.secret, note.data, note.tenant) == ("s", {"a": [1]}, other_tenant)
    assert Note.objects.get().note == "n"
    note.save()
    _is_note(made, other_tenant, "s", {"a": [1]})


@pytest.mark.parametrize("load", LOADS.values(), ids=list(LOADS))
@pytest.mark.parametrize(
    "names",
    [
        names
        for count in range(1, 5)
        for names in itertools.combinations(["tenant", "secret", "data", "note"], count)
    ],
    ids="+".join,
)
def test_all_is_edited_and_some_fields_are_saved(
    tenant: Tenant, other_tenant: Tenant, load: Any, names: tuple[str, ...]
) -> None:
    made = NoteFactory(tenant=tenant, secret="old", data=["old"], note="old")
    note = load(made.pk)
    note.tenant, note.secret, note.data, note.note = other_tenant, "new", ["new"], "new"

    note.save(update_fields=names)

    read = Note.objects.get()
    assert read.tenant == (other_tenant if "tenant" in names else tenant)
    assert read.note == ("new" if "note" in names else "old")
    # A secret that was not named goes along with its tenant; it may take its edit along.
    assert read.secret in (["new"] if "secret" in names else ["old", "new"])
    assert read.data in ([["new"]] if "data" in names else [["old"], ["new"]])
    if "tenant" not in names:
        assert ("secret" in names) is (read.secret == "new")
        assert ("data" in names) is (read.data == ["new"])
    assert (note.tenant, note.secret, note.data) == (other_tenant, "new", ["new"])

    note.save()

    _is_note(made, other_tenant, "new", ["new"])


@pytest.mark.parametrize("fields", [None, ["tenant"], ["tenant_id", "note"], ["note"]])
@pytest.mark.parametrize("moved", [False, True], ids=["stays", "moves"])
def test_an_instance_made_by_hand(
    tenant: Tenant, other_tenant: Tenant, fields: list[str] | None, moved: bool
) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    target = other_tenant if moved else tenant

    Note(pk=made.pk, tenant=target, note="by hand").save(update_fields=fields)

    read = Note.objects.get()
    if fields is None:
        # All fields are saved, and two of them are empty.
        assert (read.tenant, read.secret, read.data) == (target, None, None)
    else:
        assert (read.secret, read.data) == ("s", [1])
        assert read.tenant == (target if fields[0].startswith("tenant") else tenant)


def test_an_instance_made_by_hand_with_a_secret(tenant: Tenant, other_tenant: Tenant) -> None:
    made = NoteFactory(tenant=tenant, secret="old", data=[1])
    Note(pk=made.pk, tenant=other_tenant, secret="new").save(update_fields=["tenant", "secret"])
    _is_note(made, other_tenant, "new", [1])

    Note(pk=made.pk, tenant=tenant, secret="newer").save(update_fields=["secret"])
    assert Note.objects.get().secret == "newer"
    assert Note.objects.get().data == [1]


def test_an_instance_made_by_hand_for_another_database(
    other_database: str, tenant: Tenant, other_tenant: Tenant
) -> None:
    NoteFactory(tenant=other_tenant, secret="here", data=[0], pk=77)
    for one in (tenant, other_tenant):
        one.save(using=other_database)
    Note(pk=77, tenant=tenant, secret="there", data=[1]).save(using=other_database)

    Note(pk=77, tenant=other_tenant).save(using=other_database, update_fields=["tenant"])

    there = Note.objects.using(other_database).get()
    assert (there.tenant_id, there.secret, there.data) == (other_tenant.pk, "there", [1])
    assert Note.objects.get().secret == "here"


def test_an_instance_of_one_database_saved_partly_to_another(
    other_database: str, tenant: Tenant, other_tenant: Tenant
) -> None:
    here = NoteFactory(tenant=tenant, secret="here", data=[0], pk=77)
    for one in (tenant, other_tenant):
        one.save(using=other_database)
    Note(pk=77, tenant=other_tenant, secret="there", data=[1]).save(using=other_database)

    here.note = "noted"
    here.save(using=other_database, update_fields=["note"])
    there = Note.objects.using(other_database).get()
    assert (there.note, there.secret, there.data) == ("noted", "there", [1])

    here = Note.objects.get()
    here.secret = "from here"
    here.save(using=other_database, update_fields=["secret"])
    there = Note.objects.using(other_database).get()
    assert (there.secret, there.data) == ("from here", [1])


def test_a_moved_row_with_an_edit(tenant: Tenant, other_tenant: Tenant) -> None:
    made = NoteFactory(tenant=tenant, secret="old", data={"a": [1]})
    note = Note.objects.get()
    note.tenant = other_tenant
    note.secret = "new"
    note.data["a"].append(2)
    note.save()
    _is_note(made, other_tenant, "new", {"a": [1, 2]})


def test_a_moved_row_without_secrets(tenant: Tenant, other_tenant: Tenant) -> None:
    made = NoteFactory(tenant=tenant, secret=None, data=None)
    for fields in (None, ["tenant"]):
        note = Note.objects.get()
        note.tenant = tenant if note.tenant == other_tenant else other_tenant
        note.save(update_fields=fields)
        _is_note(made, note.tenant, None, None)


def test_there_and_back_before_the_save(
    tenant: Tenant, other_tenant: Tenant, crypto: Counter[str]
) -> None:
    made = NoteFactory(tenant=tenant)
    token = stored(made, "secret")
    note = Note.objects.get()
    crypto.clear()
    note.tenant = other_tenant
    note.tenant = tenant
    note.save()
    note.tenant_id = str(tenant.pk)
    note.save()
    assert not crypto
    assert stored(made, "secret") == token


def test_there_and_back_with_saves(tenant: Tenant, other_tenant: Tenant) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    note = Note.objects.get()
    for target in (other_tenant, tenant, other_tenant):
        note.tenant = target
        note.save()
        _is_note(made, target, "s", [1])
    assert note.secret == "s"


def test_an_edited_tenant_that_is_not_saved(tenant: Tenant, other_tenant: Tenant) -> None:
    made = NoteFactory(tenant=tenant, secret="old", data=[1])
    note = Note.objects.get()
    note.tenant = other_tenant
    note.secret = "new"
    note.save(update_fields=["secret"])
    _is_note(made, tenant, "new", [1])
    assert note.tenant == other_tenant

    note.save(update_fields=["note"])
    _is_note(made, tenant, "new", [1])
    note.save(update_fields=["tenant"])
    _is_note(made, other_tenant, "new", [1])


def test_an_unread_secret_is_moved_with_one_decryption(
    tenant: Tenant, other_tenant: Tenant, crypto: Counter[str], django_assert_num_queries: Any
) -> None:
    NoteFactory(tenant=tenant)
    note = Note.objects.get()
    crypto.clear()
    note.tenant = other_tenant
    with django_assert_num_queries(1):
        note.save()
    assert (crypto["decrypt"], crypto["encrypt"]) == (2, 2)


@pytest.mark.parametrize("fields", [None, ["host"], ["host", "name"]])
@pytest.mark.parametrize("host", ["other.example", "", None])
@pytest.mark.parametrize(
    "queryset",
    [Vault.objects.all(), Vault.objects.only("name"), Vault.objects.defer("secret")],
    ids=["loaded", "only a name", "no secret"],
)
def test_a_bound_field_changes(
    owner: UuidTenant, queryset: Any, fields: list[str] | None, host: str | None
) -> None:
    made = VaultFactory(tenant=owner, host="h", secret="s", data=[1])
    data = stored(made, "data")
    vault = queryset.all().get()
    vault.host = host

    vault.save(update_fields=fields)

    read = Vault.objects.get()
    assert (read.host, read.secret, read.data) == (host, "s", [1])
    assert vault.secret == "s"
    # Nothing that this one is bound to changed.
    assert stored(made, "data") == data


def test_tenant_and_host_change_in_two_steps(owner: UuidTenant, other_owner: UuidTenant) -> None:
    VaultFactory(tenant=owner, host="h", secret="s", data=[1])
    vault = Vault.objects.get()
    vault.tenant, vault.host = other_owner, "i"
    vault.save(update_fields=["host"])
    read = Vault.objects.get()
    assert (read.tenant, read.host, read.secret, read.data) == (owner, "i", "s", [1])

    vault.save(update_fields=["tenant"])
    read = Vault.objects.get()
    assert (read.tenant, read.host, read.secret, read.data) == (other_owner, "i", "s", [1])


@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_a_copy_under_a_new_id(owner: UuidTenant, read: bool) -> None:
    made = VaultFactory(tenant=owner, host="h", secret="s", data=[1])
    vault = Vault.objects.get()
    if read:
        assert vault.secret
        assert vault.data
    vault.pk = uuid4()
    vault._state.adding = True
    vault.save()

    for pk in (made.pk, vault.pk):
        one = Vault.objects.get(pk=pk)
        assert (one.secret, one.data) == ("s", [1])
    assert vault.secret == "s"


@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_a_copy_for_another_tenant(tenant: Tenant, other_tenant: Tenant, read: bool) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    note = Note.objects.get()
    if read:
        assert note.secret
    note.pk, note.tenant = None, other_tenant
    note._state.adding = True
    note.save()

    assert note.pk != made.pk
    _is_note(made, tenant, "s", [1])
    _is_note(note, other_tenant, "s", [1])


def test_a_row_that_is_its_own_tenant_gets_another_id() -> None:
    made = OwnKey.objects.create(secret="s")
    row = OwnKey.objects.get()
    row.pk = uuid4()
    row.save()
    assert [one.secret for one in OwnKey.objects.all()] == ["s", "s"]
    assert stored(made, "secret") != stored(row, "secret")


def test_the_salt_may_be_declared_last(tenant: Tenant, other_tenant: Tenant) -> None:
    for field, value in (("owner", other_tenant), ("code", "other"), ("owner", tenant)):
        if not LateSalt.objects.exists():
            LateSaltFactory(owner=tenant, code="code", secret="s")
        row = LateSalt.objects.get()
        setattr(row, field, value)
        row.save(update_fields=[field])
        assert LateSalt.objects.get().secret == "s"
        assert getattr(LateSalt.objects.get(), field) == value


def test_a_text_as_salt() -> None:
    TextSaltFactory(realm="north", slug="a", secret="s")
    for realm, fields in (("south", None), ("West", ["realm"]), ("west", None), ("w ", ["realm"])):
        row = TextSalt.objects.get()
        row.realm = realm
        row.save(update_fields=fields)
        read = TextSalt.objects.get()
        assert (read.realm, read.secret) == (realm, "s")


def test_a_v1_token_moves(tenant: Tenant, other_tenant: Tenant) -> None:
    with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1"}):
        made = NoteFactory(tenant=tenant, secret="s", data=[1])
        note = Note.objects.get()
        note.tenant = other_tenant
        note.save()
        assert decrypt(stored(made, "secret"), other_tenant.pk) == "s"
        note.tenant = tenant
        note.save(update_fields=["tenant"])
        assert decrypt(stored(made, "data"), tenant.pk) == "[1]"


def test_a_v1_token_is_bound_to_no_host(owner: UuidTenant) -> None:
    with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1"}):
        made = VaultFactory(tenant=owner, host="h", secret="s")
    token = stored(made, "secret")
    vault = Vault.objects.get()
    vault.host = "i"
    vault.save()
    assert stored(made, "secret") == token
    assert Vault.objects.get().secret == "s"


# -- what cannot be moved -----------------------------------------------------------------------


@pytest.mark.parametrize("fields", [None, ["tenant"]])
def test_an_unreadable_secret_is_not_moved(
    tenant: Tenant, other_tenant: Tenant, fields: list[str] | None
) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    store(made, "secret", stored(made, "secret")[:-4])
    for queryset in (Note.objects.all(), Note.objects.defer("secret"), Note.objects.only("note")):
        note = queryset.get()
        note.tenant = other_tenant
        with refused(DecryptionError, match=rf"^fieldapp\.Note\.secret \(pk={note.pk}\): "):
            note.save(update_fields=fields)
        read = Note.objects.get()
        assert (read.tenant, read.data) == (tenant, [1])


def test_an_unreadable_secret_can_be_replaced_in_a_move(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    made = NoteFactory(tenant=tenant, data=[1])
    store(made, "secret", "v2:00000000:AAAA")
    note = Note.objects.get()
    note.tenant, note.secret = other_tenant, "new"
    note.save()
    _is_note(made, other_tenant, "new", [1])


def test_with_a_missing_key_nothing_is_moved(
    tenant: Tenant, other_tenant: Tenant, other_key: str
) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    with override_settings(ENCRYPTION={"MASTER_KEY": other_key}):
        note = Note.objects.get()
        note.tenant = other_tenant
        with refused(DecryptionError):
            note.save()
    _is_note(made, tenant, "s", [1])


def test_a_save_that_fails_in_the_database_moves_nothing(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    note = Note.objects.get()
    note.tenant = other_tenant
    note.note = None
    with pytest.raises(DatabaseError), transaction.atomic():
        note.save()
    _is_note(made, tenant, "s", [1])
    assert note.secret == "s"

    note.note = "n"
    note.save()
    _is_note(made, other_tenant, "s", [1])


EXPRESSIONS = {
    "F": F("slug"),
    "Lower": Lower(Value("NORTH")),
    "Concat": Concat(F("realm"), Value("x")),
    "Value": Value("north"),
    "Case": Case(When(slug="a", then=Value("x")), default=F("realm")),
}


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=list(EXPRESSIONS))
def test_a_salt_computed_by_the_database_is_refused(expression: Any) -> None:
    TextSaltFactory(realm="north", slug="a", secret="s")
    row = TextSalt.objects.get()
    row.realm = expression
    for fields in (None, ["realm"], ["realm", "secret"]):
        with refused(FieldError, match="realm"):
            row.save(update_fields=fields)
    read = TextSalt.objects.get()
    assert (read.realm, read.secret) == ("north", "s")


@pytest.mark.parametrize("name", ["Lower", "Value"])
def test_a_new_row_with_a_salt_computed_by_the_database_is_refused(name: str) -> None:
    values = {"realm": EXPRESSIONS[name], "slug": "b", "secret": "t"}
    with refused(FieldError, match="realm"):
        TextSalt.objects.create(**values)
    with refused(FieldError, match="realm"):
        TextSalt.objects.bulk_create([TextSalt(**values)])
    assert not TextSalt.objects.exists()


def test_a_tenant_computed_by_the_database_is_refused(tenant: Tenant) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    note = Note.objects.get()
    note.tenant_id = F("tenant_id") + 1
    for fields in (None, ["tenant"]):
        with refused(FieldError, match="tenant"):
            note.save(update_fields=fields)
    _is_note(made, tenant, "s", [1])


def test_a_host_computed_by_the_database_is_refused(owner: UuidTenant) -> None:
    VaultFactory(tenant=owner, host="h", secret="s", data=[1])
    vault = Vault.objects.get()
    vault.host = Concat(F("host"), Value(".example"))
    for write in (
        vault.save,
        lambda: vault.save(update_fields=["host"]),
        lambda: Vault.objects.bulk_update([vault], ["host"]),
    ):
        with refused(FieldError, match="host"):
            write()
    read = Vault.objects.get()
    assert (read.host, read.secret) == ("h", "s")


def test_other_fields_may_be_computed_by_the_database(tenant: Tenant) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1], note="n")
    note = Note.objects.get()
    note.note = Upper("note")
    note.save()
    _is_note(made, tenant, "s", [1])
    assert Note.objects.get().note == "N"


# -- update() -----------------------------------------------------------------------------------

UPDATES: dict[str, Any] = {
    "a value": lambda tenant: {"tenant": tenant},
    "an id": lambda tenant: {"tenant_id": tenant.pk},
    "F": lambda tenant: {"tenant": F("tenant_id") + 0},
    "Value": lambda tenant: {"tenant": Value(tenant.pk)},
    "Case": lambda tenant: {"tenant": Case(When(pk__gt=0, then=Value(tenant.pk)))},
    "Subquery": lambda tenant: {
        "tenant": Subquery(Tenant.objects.filter(pk=tenant.pk).values("pk"))
    },
    "others too": lambda tenant: {"note": "changed", "tenant": tenant},
    "one of two secrets": lambda tenant: {"secret": None, "tenant": tenant},
}


@pytest.mark.parametrize("update", UPDATES.values(), ids=list(UPDATES))
@pytest.mark.parametrize(
    "queryset",
    [
        Note.objects.all(),
        Note.objects.filter(tenant__name__startswith="T"),
        Note._base_manager.all(),
    ],
    ids=["all", "joined", "base manager"],
)
def test_update_of_the_tenant_is_refused(
    tenant: Tenant, other_tenant: Tenant, queryset: Any, update: Any
) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1], note="n")
    with refused(FieldError, match=r"fieldapp\.Note\..*'tenant'.*Nothing was written.*save\(\)"):
        queryset.all().update(**update(other_tenant))
    _is_note(made, tenant, "s", [1])
    assert Note.objects.get().note == "n"


def test_update_of_the_tenant_is_refused_with_the_encrypted_manager(
    owner: UuidTenant, other_owner: UuidTenant
) -> None:
    VaultFactory(tenant=owner, secret="s", host="h")
    for values in ({"tenant": other_owner}, {"host": "i"}, {"host": None}, {"host": F("name")}):
        with refused(FieldError, match="bulk_update"):
            Vault.objects.update(**values)
    read = Vault.objects.get()
    assert (read.tenant, read.host, read.secret) == (owner, "h", "s")


def test_update_may_clear_the_secrets_with_their_tenant(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    made = NoteFactory(tenant=tenant)
    assert Note.objects.update(tenant=other_tenant, secret=None, data=None) == 1
    _is_note(made, other_tenant, None, None)


def test_update_of_other_fields_is_free(tenant: Tenant, owner: UuidTenant) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    assert Note.objects.update(note="changed") == 1
    assert Note.objects.filter(tenant=tenant).update(note=F("note")) == 1
    _is_note(made, tenant, "s", [1])
    VaultFactory(tenant=owner, secret="s")
    assert Vault.objects.update(name="changed") == 1
    assert Vault.objects.get().secret == "s"


async def test_aupdate_of_the_tenant_is_refused(tenant: Tenant, other_tenant: Tenant) -> None:
    await Note.objects.acreate(tenant=tenant, secret="s")
    with pytest.raises(FieldError, match="Nothing was written"):
        await Note.objects.aupdate(tenant=other_tenant)


def test_bulk_update_of_the_tenant_is_refused_by_other_managers(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    note = Note.objects.get()
    note.tenant = other_tenant
    for fields in (["tenant"], ["tenant", "note"]):
        with refused(FieldError, match="EncryptedManager"):
            Note.objects.bulk_update([note], fields)
        _is_note(made, tenant, "s", [1])


# -- related managers ---------------------------------------------------------------------------


def test_adding_to_another_tenant_in_bulk_is_refused(
    owner: UuidTenant, other_owner: UuidTenant
) -> None:
    VaultFactory(tenant=owner, secret="s")
    vault = Vault.objects.get()
    with refused(FieldError, match="Nothing was written"):
        other_owner.vaults.add(vault)
    with refused(FieldError, match="Nothing was written"):
        other_owner.vaults.set([vault])
    assert Vault.objects.get().tenant == owner
    assert Vault.objects.get().secret == "s"


def test_adding_to_another_tenant_one_by_one_works(
    owner: UuidTenant, other_owner: UuidTenant
) -> None:
    VaultFactory(tenant=owner, secret="s", data=[1])
    other_owner.vaults.add(Vault.objects.get(), bulk=False)
    read = Vault.objects.get()
    assert (read.tenant, read.secret, read.data) == (other_owner, "s", [1])


def test_updating_through_a_related_manager_is_refused(
    owner: UuidTenant, other_owner: UuidTenant
) -> None:
    VaultFactory(tenant=owner, secret="s")
    with refused(FieldError):
        owner.vaults.update(tenant=other_owner)
    assert owner.vaults.get().secret == "s"


def test_update_or_create_can_move(tenant: Tenant, other_tenant: Tenant) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1], note="one")
    Note.objects.update_or_create(note="one", defaults={"tenant": other_tenant})
    _is_note(made, other_tenant, "s", [1])

    Note.objects.update_or_create(note="one", defaults={"tenant": tenant, "secret": "t"})
    _is_note(made, tenant, "t", [1])

    Note.objects.update_or_create(note="one", defaults={"note": "two"})
    _is_note(made, tenant, "t", [1])


# -- on_delete ----------------------------------------------------------------------------------

with isolate_apps("tests.fieldapp"):

    class Box(models.Model):
        class Meta:
            app_label = "fieldapp"

    class Nulled(models.Model):
        box = models.ForeignKey(Box, models.SET_NULL, null=True)
        secret = EncryptedTextField(salt_field="box", null=True)

        class Meta:
            app_label = "fieldapp"

    class Defaulted(models.Model):
        secret = EncryptedTextField(salt_field="box", null=True)
        box = models.ForeignKey(Box, models.SET_DEFAULT, default=1)

        class Meta:
            app_label = "fieldapp"

    class BoundToBox(models.Model):
        realm = models.CharField(max_length=10)
        box = models.ForeignKey(Box, models.SET_NULL, null=True)
        secret = EncryptedTextField(salt_field="realm", bound_to=["box"], null=True)

        class Meta:
            app_label = "fieldapp"


@pytest.fixture
def boxes(transactional_db: None) -> Any:
    with tables(Box, Nulled, Defaulted, BoundToBox):
        Box.objects.create(pk=1)
        yield Box.objects.create(pk=2)


@pytest.mark.parametrize("model", [Nulled, Defaulted, BoundToBox])
class TestOnDelete:
    def test_a_row_with_a_secret_keeps_its_tenant(self, boxes: Box, model: Any) -> None:
        row = model.objects.create(box=boxes, secret="s", **_realm(model))
        for delete in (boxes.delete, Box.objects.filter(pk=2).delete, Box.objects.all().delete):
            with pytest.raises(FieldError, match="Nothing was written"):
                delete()
            boxes.pk = 2
            read = model.objects.get(pk=row.pk)
            assert (read.box_id, read.secret) == (2, "s")
        assert Box.objects.count() == 2


def _realm(model: Any) -> dict[str, str]:
    return {"realm": "r"} if model is BoundToBox else {}


def test_a_nullable_tenant_is_missing(boxes: Box) -> None:
    with pytest.raises(MissingSaltError):
        Nulled.objects.create(secret="s")
    row = Nulled.objects.create(box=boxes, secret="s")
    row.box = None
    for fields in (None, ["box"]):
        with pytest.raises(MissingSaltError):
            row.save(update_fields=fields)
    assert Nulled.objects.get().secret == "s"
    row.secret = None
    row.save()
    assert Nulled.objects.get().box is None

    row = Nulled.objects.create(box=boxes, secret="s")
    store(row, "box", None)
    with pytest.raises(EncryptionError):
        Nulled.objects.get(pk=row.pk).secret  # noqa: B018


def test_a_bound_relation_may_be_null(boxes: Box) -> None:
    row = BoundToBox.objects.create(box=boxes, realm="r", secret="s")
    for box in (None, boxes, Box.objects.get(pk=1)):
        row.box = box
        row.save(update_fields=["box"])
        assert BoundToBox.objects.get().secret == "s"
    store(row, "box", None)
    with pytest.raises(DecryptionError):
        BoundToBox.objects.get().secret  # noqa: B018


def test_a_deleted_tenant_takes_its_rows_along(tenant: Tenant, other_tenant: Tenant) -> None:
    NoteFactory(tenant=tenant)
    kept = NoteFactory(tenant=other_tenant, secret="s", data=[1])
    tenant.delete()
    _is_note(kept, other_tenant, "s", [1])
    assert Note.objects.count() == 1


# -- two at once --------------------------------------------------------------------------------


def _edit(note: Note, fields: list[str] | None) -> None:
    note.secret = "edited"
    note.save(update_fields=fields)


def _move(note: Note, tenant: Tenant, fields: list[str] | None) -> None:
    note.tenant = tenant
    note.save(update_fields=fields)


@pytest.mark.parametrize("edited", [None, ["secret"], ["secret", "note"]])
@pytest.mark.parametrize("moved", [None, ["tenant"], ["tenant", "note"]])
@pytest.mark.parametrize("first", ["edit", "move"])
@pytest.mark.parametrize(
    "load",
    [Note.objects.all(), Note.objects.defer("secret"), Note.objects.only("note")],
    ids=["loaded", "no secret", "only a note"],
)
def test_a_move_and_an_edit_at_once_leave_a_row_that_can_be_read(
    tenant: Tenant,
    other_tenant: Tenant,
    load: Any,
    edited: list[str] | None,
    moved: list[str] | None,
    first: str,
) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    editor, mover = load.all().get(), load.all().get()

    if first == "edit":
        _edit(editor, edited)
        _move(mover, other_tenant, moved)
    else:
        _move(mover, other_tenant, moved)
        _edit(editor, edited)

    read = Note.objects.get(pk=made.pk)
    assert read.secret in ("s", "edited")
    assert read.data == [1]
    assert read.tenant in (tenant, other_tenant)
    if first == "edit":
        assert read.tenant == other_tenant
    else:
        assert read.secret == "edited"
    for instance in (editor, mover):
        instance.refresh_from_db()
        assert instance.secret == read.secret


def test_a_note_on_a_row_that_moves_meanwhile(tenant: Tenant, other_tenant: Tenant) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    for queryset in (Note.objects.all(), Note.objects.defer("secret"), Note.objects.only("note")):
        stale = queryset.get()
        target = other_tenant if Note.objects.get().tenant == tenant else tenant
        _move(Note.objects.get(), target, None)
        stale.note = "noted"
        stale.save(update_fields=["note"])
        _is_note(made, target, "s", [1])


@pytest.mark.parametrize("fields", [None, ["note", "tenant"], ["tenant"], ["note"]])
@pytest.mark.parametrize("defer", [(), ("secret",), ("secret", "data"), ("tenant",)])
def test_a_stale_instance_is_saved(
    tenant: Tenant, other_tenant: Tenant, fields: list[str] | None, defer: tuple[str, ...]
) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    stale = Note.objects.defer(*defer).get()
    _move(Note.objects.get(), other_tenant, None)
    stale.note = "noted"
    stale.save(update_fields=fields)
    read = Note.objects.get(pk=made.pk)
    assert (read.secret, read.data) == ("s", [1])


def test_two_secrets_of_a_row_are_edited_at_once(tenant: Tenant) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    one, two = Note.objects.get(), Note.objects.get()
    one.secret = "edited"
    one.save(update_fields=["secret"])
    two.data = [2]
    two.save(update_fields=["data"])
    _is_note(made, tenant, "edited", [2])


def test_an_edit_survives_the_move_of_a_stale_instance(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    stale = Note.objects.get()
    _edit(Note.objects.get(), ["secret"])
    _move(stale, other_tenant, ["tenant"])
    _is_note(made, other_tenant, "edited", [1])


# -- no plaintext on the way --------------------------------------------------------------------


def test_no_statement_of_a_move_holds_the_plaintext(tenant: Tenant, other_tenant: Tenant) -> None:
    NoteFactory(tenant=tenant, secret="the password", data={"pin": "4711-0815"})
    with CaptureQueriesContext(connection) as queries:
        for load in LOADS.values():
            note = load(Note.objects.get().pk)
            note.tenant = other_tenant if note.tenant == tenant else tenant
            note.save()
        Note.objects.filter(Q(secret__isnull=False)).exists()
        list(
            Tenant.objects.annotate(
                x=Subquery(Note.objects.filter(tenant=OuterRef("pk")).values("secret")[:1])
            )
        )
    seen = repr(queries.captured_queries) + everything(Note)
    assert "the password" not in seen
    assert "4711-0815" not in seen
