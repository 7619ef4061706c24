import json
import math
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from django.core.exceptions import FieldError, ValidationError
from django.db import IntegrityError, connection, models, transaction
from django.db.models import F, Value
from django.db.models.functions import Concat, Lower, Upper
from django.test import override_settings
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from encryption import EncryptionError, MissingSaltError, TamperedError, decrypt, encrypt
from tests.encryption.database import everything, refused, store, stored
from tests.fieldapp.factories import (
    LateSaltFactory,
    NoteFactory,
    TenantFactory,
    TextSaltFactory,
    UuidTenantFactory,
    VaultFactory,
)
from tests.fieldapp.models import (
    BrandedOne,
    BrandedTwo,
    LateSalt,
    Note,
    OwnKey,
    Plain,
    Tenant,
    TextSalt,
    UuidTenant,
    Vault,
)

pytestmark = pytest.mark.django_db

TEXTS = [
    "a secret",
    "",
    " ",
    "0",
    "None",
    "null",
    "line one\nline two\r\n\ttab ",
    "trailing spaces   ",
    "e\u0301 \u00e9 \u6f22\u5b57 \U0001f511 \u202e\u200b\ufeff",
    "nul \x00 inside",
    "%s %(name)s {0} {name} ''\"\\;--",
    "v2:00000000:AAAA",
    "x" * 100_000,
]
JSONS = [
    {},
    [],
    0,
    -0.0,
    0.1 + 0.2,
    1e308,
    5e-324,
    2**63,
    -(10**40),
    2**53 + 1,
    True,
    False,
    "",
    "null",
    "text",
    "\x00 \u2028 \U0001f511",
    {"": None},
    {"key": [1, 1.0, "1", True, None, {}]},
    [[[[[[]]]]]],
    {"\u00e9 \U0001f511": "v2:00000000:AAAA", "a.b": 1, "__class__": "x"},
]


def identical(one: Any, other: Any) -> bool:
    """Equal in value and in type, all the way down: 1, 1.0 and True are three things."""
    return repr(one) == repr(other)


# -- what is stored -----------------------------------------------------------------------------


def test_create_encrypts_for_the_tenant_and_the_column(tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant, secret="the password", data={"pin": 4711})

    token = stored(note, "secret")
    assert token.startswith("v2:")
    assert decrypt(token, tenant.pk, context="fieldapp.note.secret") == "the password"
    assert decrypt(stored(note, "data"), tenant.pk, context="fieldapp.note.data") == '{"pin":4711}'
    assert "password" not in everything(Note)
    with pytest.raises(TamperedError):
        decrypt(token, tenant.pk, context="fieldapp.note.data")


def test_create_binds_to_the_row_in_the_order_of_bound_to(owner: UuidTenant) -> None:
    vault = VaultFactory(tenant=owner, host="h.example", secret="s", data=[1])

    token = stored(vault, "secret")
    context = "fieldapp.vault.secret"
    bound = (str(vault.pk), "h.example")
    assert decrypt(token, owner.pk, context=context, bound_to=bound) == "s"
    assert (
        decrypt(
            stored(vault, "data"),
            owner.pk,
            context="fieldapp.vault.data",
            bound_to=(str(vault.pk),),
        )
        == "[1]"
    )
    with pytest.raises(TamperedError):
        decrypt(token, owner.pk, context=context, bound_to=bound[::-1])
    with pytest.raises(TamperedError):
        decrypt(token, owner.pk, context=context)


def test_a_null_and_an_empty_bound_value_are_two_things(owner: UuidTenant) -> None:
    without = VaultFactory(tenant=owner, host=None, secret="s")
    empty = VaultFactory(tenant=owner, host="", secret="s")

    for vault, host in ((without, None), (empty, "")):
        bound = (str(vault.pk), host)
        token = stored(vault, "secret")
        assert decrypt(token, owner.pk, context="fieldapp.vault.secret", bound_to=bound) == "s"
        assert Vault.objects.get(pk=vault.pk).secret == "s"


@pytest.mark.parametrize(
    "write",
    [
        lambda rows: [row.save() for row in rows],
        lambda rows: type(rows[0])._base_manager.bulk_create(rows),
        lambda rows: type(rows[0])._base_manager.bulk_create(rows, batch_size=1),
        lambda rows: [row.save(force_insert=True) for row in rows],
    ],
    ids=["save", "bulk_create", "bulk_create in batches", "force_insert"],
)
def test_each_row_is_encrypted_for_its_own_tenant(write: Any) -> None:
    tenants = TenantFactory.create_batch(3)
    rows = [LateSaltFactory.build(owner=tenant, secret=f"for {tenant.pk}") for tenant in tenants]

    write(rows)

    for row in LateSalt.objects.all():
        token = stored(row, "secret")
        text = decrypt(
            token, row.owner_id, context="fieldapp.latesalt.secret", bound_to=(row.code,)
        )
        assert text == row.secret == f"for {row.owner_id}"


def test_the_create_half_of_get_or_create_and_update_or_create(tenant: Tenant) -> None:
    one, created = Note.objects.get_or_create(
        note="one", defaults={"tenant": tenant, "secret": "1"}
    )
    assert created
    two, created = Note.objects.update_or_create(
        note="two", create_defaults={"tenant": tenant, "secret": "2"}
    )
    assert created
    again, created = Note.objects.get_or_create(note="one", defaults={"secret": "other"})

    assert not created
    assert again.secret == "1"
    for note, text in ((one, "1"), (two, "2")):
        assert decrypt(stored(note, "secret"), tenant.pk, context="fieldapp.note.secret") == text


def test_the_update_half_of_update_or_create(tenant: Tenant) -> None:
    NoteFactory(tenant=tenant, note="one", secret="old", data={"kept": True})

    Note.objects.update_or_create(note="one", defaults={"secret": "the new secret"})

    note = Note.objects.get()
    assert (note.secret, note.data) == ("the new secret", {"kept": True})
    assert "the new secret" not in everything(Note)


def test_the_update_half_of_update_or_create_keeps_what_it_does_not_name(tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant, note="one")
    token = stored(note, "secret")

    Note.objects.update_or_create(pk=note.pk, defaults={"note": "two"})

    assert stored(note, "secret") == token
    assert Note.objects.get().note == "two"


def test_related_managers_encrypt(owner: UuidTenant) -> None:
    created = owner.vaults.create(secret="1", host="h")
    got, _ = owner.vaults.get_or_create(name="n", defaults={"secret": "2"})
    (bulk,) = owner.vaults.bulk_create([Vault(tenant=owner, secret="3")])

    assert [Vault.objects.get(pk=row.pk).secret for row in (created, got, bulk)] == ["1", "2", "3"]
    assert {stored(row, "secret")[:3] for row in (created, got, bulk)} == {"v2:"}


def test_one_context_per_concrete_class_of_an_abstract_one(tenant: Tenant) -> None:
    for cls in (BrandedOne, BrandedTwo):
        row = cls.objects.create(tenant=tenant, secret="s")
        context = f"fieldapp.{cls.__name__.lower()}.secret"
        assert decrypt(stored(row, "secret"), tenant.pk, context=context) == "s"


def test_a_row_can_be_its_own_tenant() -> None:
    row = OwnKey.objects.create(secret="mine")

    assert OwnKey.objects.get().secret == "mine"
    assert decrypt(stored(row, "secret"), row.pk, context="fieldapp.ownkey.secret") == "mine"


def test_the_original_format_can_be_written(tenant: Tenant) -> None:
    with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1"}):
        note = NoteFactory(tenant=tenant, secret="s", data={"a": [1, None]})
        token = stored(note, "secret")
        assert ":" not in token
        assert decrypt(token, str(tenant.pk)) == "s"
        assert decrypt(stored(note, "data"), str(tenant.pk)) == '{"a":[1,null]}'

    note = Note.objects.get()
    assert (note.secret, note.data) == ("s", {"a": [1, None]})
    note.save()
    assert stored(note, "secret") == token


# -- values and their types ---------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:20]))
def test_a_text_comes_back_as_it_was(tenant: Tenant, text: str) -> None:
    note = NoteFactory(tenant=tenant, secret=text)

    assert note.secret == text
    assert Note.objects.get().secret == text
    assert stored(note, "secret").startswith("v2:")


@pytest.mark.parametrize("value", JSONS, ids=ascii)
def test_a_json_value_comes_back_with_its_type(tenant: Tenant, value: Any) -> None:
    note = NoteFactory(tenant=tenant, data=value)

    assert identical(Note.objects.get().data, value)
    assert stored(note, "data").startswith("v2:")


def test_none_is_null(tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant, secret=None, data=None)

    assert stored(note, "secret") is None
    assert stored(note, "data") is None
    assert (Note.objects.get().secret, Note.objects.get().data) == (None, None)


def test_a_value_can_be_cleared_and_set_again(tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant)
    for text in (None, "again", None, ""):
        note.secret = text
        note.save()
        assert Note.objects.get().secret == text
        assert (stored(note, "secret") is None) is (text is None)


def test_json_null_inside_a_value_stays(tenant: Tenant) -> None:
    NoteFactory(tenant=tenant, data=[None])
    assert Note.objects.get().data == [None]


def test_json_is_encrypted_as_a_whole_and_compact(tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant, data={"client_secret": "\u00e9", "n": 1.5})

    text = decrypt(stored(note, "data"), tenant.pk, context="fieldapp.note.data")
    assert text == '{"client_secret":"\u00e9","n":1.5}'
    assert "client_secret" not in everything(Note)


def test_the_encoder_is_used(owner: UuidTenant) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    VaultFactory(tenant=owner, data={"at": moment, "price": Decimal("1.50"), "id": owner.pk})

    assert Vault.objects.get().data == {
        "at": "2026-01-02T03:04:05Z",
        "price": "1.50",
        "id": str(owner.pk),
    }


class Level(str, Enum):  # noqa: UP042  # an enum whose str() is not its value
    LOW = "low"


class Choice(models.TextChoices):
    LOW = "low", "Low"


@pytest.mark.parametrize(
    "value",
    [Level.LOW, Choice.LOW, mark_safe("low"), gettext_lazy("low")],
    ids=["Enum", "TextChoices", "SafeString", "lazy"],
)
def test_what_a_text_field_takes_for_text_is_stored_as_the_same_text(
    tenant: Tenant, value: Any
) -> None:
    Plain.objects.create(tenant=tenant, secret=value)
    note = NoteFactory(tenant=tenant, secret=value)

    read = Note.objects.get().secret
    assert read == Plain.objects.get().secret == "low"
    assert type(read) is str
    assert decrypt(stored(note, "secret"), tenant.pk, context="fieldapp.note.secret") == "low"


def test_a_pasted_token_is_stored_as_that_text(tenant: Tenant) -> None:
    token = stored(NoteFactory(tenant=tenant, secret="inner"), "secret")

    pasted = NoteFactory(tenant=tenant, secret=token, data=token)
    pasted.full_clean()
    pasted.save()

    note = Note.objects.get(pk=pasted.pk)
    assert (note.secret, note.data) == (token, token)
    assert stored(note, "secret") != token


# -- pure and unchanged -------------------------------------------------------------------------


def test_pre_save_is_pure(tenant: Tenant) -> None:
    note = Note(tenant=tenant, secret="s", data={"a": 1})
    for name in ("secret", "data"):
        field = Note._meta.get_field(name)
        first = field.pre_save(note, True).token
        assert field.pre_save(note, True).token == first
        assert field.pre_save(note, False).token == first
    note.save()
    for name in ("secret", "data"):
        assert Note._meta.get_field(name).pre_save(note, False).token == stored(note, name)


def test_a_create_encrypts_each_secret_once(tenant: Tenant, crypto: Counter[str]) -> None:
    NoteFactory(tenant=tenant)
    assert (crypto["encrypt"], crypto["decrypt"]) == (2, 0)


def test_a_bulk_create_encrypts_each_secret_once(tenant: Tenant, crypto: Counter[str]) -> None:
    Note.objects.bulk_create(NoteFactory.build_batch(3, tenant=tenant))
    assert (crypto["encrypt"], crypto["decrypt"]) == (6, 0)


def test_every_encryption_has_its_own_iv(tenant: Tenant) -> None:
    notes = NoteFactory.create_batch(20, tenant=tenant, secret="same")
    assert len({stored(note, "secret") for note in notes}) == 20


@pytest.mark.parametrize("fields", [None, ["secret", "data"], ["secret"]])
def test_an_unread_secret_is_written_back_untouched(
    tenant: Tenant, crypto: Counter[str], fields: list[str] | None
) -> None:
    made = NoteFactory(tenant=tenant)
    tokens = stored(made, "secret"), stored(made, "data")
    note = Note.objects.get()
    crypto.clear()

    note.note = "changed"
    note.save(update_fields=fields)

    assert (stored(note, "secret"), stored(note, "data")) == tokens
    assert not crypto


def test_an_unchanged_secret_keeps_its_token(tenant: Tenant) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data={"a": [1, 2.0, "3"]})
    tokens = stored(made, "secret"), stored(made, "data")

    made.save()
    note = Note.objects.get()
    assert (note.secret, note.data) == ("s", {"a": [1, 2.0, "3"]})
    note.save()
    note.secret = "".join(["s"])
    note.data = {"a": [1, 2.0, "3"]}
    note.save()
    note.save(update_fields=["secret", "data"])

    assert (stored(note, "secret"), stored(note, "data")) == tokens


def test_a_changed_secret_gets_a_new_token(tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant, secret="old")
    before = stored(note, "secret")
    note.secret = "new"
    note.save()
    between = stored(note, "secret")
    note.secret = "old"
    note.save()

    assert len({before, between, stored(note, "secret")}) == 3
    assert Note.objects.get().secret == "old"


@pytest.mark.parametrize("fields", [None, ["data"]])
def test_json_changed_in_place_is_stored(tenant: Tenant, fields: list[str] | None) -> None:
    NoteFactory(tenant=tenant, data={"list": [1]})
    note = Note.objects.get()
    note.data["list"].append({"deep": 2})
    note.data["list"][1]["deep"] = 3
    note.save(update_fields=fields)
    assert Note.objects.get().data == {"list": [1, {"deep": 3}]}

    note.data["more"] = True
    note.save(update_fields=fields)
    assert Note.objects.get().data == {"list": [1, {"deep": 3}], "more": True}


def test_json_changed_in_place_is_stored_after_a_create(tenant: Tenant) -> None:
    data = {"list": [1]}
    note = Note.objects.create(tenant=tenant, data=data)
    data["list"].append(2)
    note.save()
    assert Note.objects.get().data == {"list": [1, 2]}


def test_json_changed_in_place_waits_for_the_save_that_names_it(tenant: Tenant) -> None:
    NoteFactory(tenant=tenant, data=[1], note="old")
    note = Note.objects.get()
    note.data.append(2)
    note.note = "new"
    note.save(update_fields=["note"])
    assert (Note.objects.get().data, Note.objects.get().note) == ([1], "new")

    note.save()
    assert Note.objects.get().data == [1, 2]


@pytest.mark.parametrize(
    ("before", "after"), [(1, True), (1, 1.0), (0, False), ([1], [True]), ("1", 1), ({}, [])]
)
def test_json_that_changes_only_its_type_is_stored(tenant: Tenant, before: Any, after: Any) -> None:
    NoteFactory(tenant=tenant, data=before)
    note = Note.objects.get()
    assert identical(note.data, before)
    note.data = after
    note.save()
    assert identical(Note.objects.get().data, after)


def test_json_in_another_spelling_keeps_its_token(tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant)
    field = Note._meta.get_field("data")
    token = encrypt('{ "a" : "\\u00e9", "b": [1.0, 10] }', tenant.pk, context=field.aad_context)
    store(note, "data", token)
    note = Note.objects.get()
    assert note.data == {"a": "\u00e9", "b": [1.0, 10]}
    note.save()
    assert stored(note, "data") == token


def test_update_fields_leave_the_other_secret_alone(tenant: Tenant) -> None:
    NoteFactory(tenant=tenant, secret="old", data={"old": 1})
    note = Note.objects.get()
    note.secret, note.data = "new", {"new": 1}
    note.save(update_fields=["secret"])
    assert (Note.objects.get().secret, Note.objects.get().data) == ("new", {"old": 1})

    note.save(update_fields=["data"])
    assert (Note.objects.get().secret, Note.objects.get().data) == ("new", {"new": 1})


def test_update_fields_without_a_secret_write_none(
    tenant: Tenant, django_assert_num_queries: Any
) -> None:
    NoteFactory(tenant=tenant, secret="old")
    note = Note.objects.get()
    note.secret = "new"
    note.note = "noted"
    with django_assert_num_queries(1) as queries:
        note.save(update_fields=["note"])
    assert "secret" not in queries[0]["sql"]
    assert Note.objects.get().secret == "old"


def test_nothing_is_saved_for_empty_update_fields(
    tenant: Tenant, django_assert_num_queries: Any
) -> None:
    note = NoteFactory(tenant=tenant)
    note.secret = "new"
    with django_assert_num_queries(0):
        note.save(update_fields=[])
    with pytest.raises(ValueError, match="do not exist in this model"):
        note.save(update_fields=["nonsense"])


@pytest.mark.parametrize("text", [None, "", "new"])
@pytest.mark.parametrize("made", ["by hand", "bulk_create", "create", "loaded", "deferred"])
def test_a_named_secret_is_written_as_the_instance_holds_it(
    tenant: Tenant, made: str, text: str | None
) -> None:
    note = Note(tenant=tenant, secret="old", data=[1], note="kept")
    if made == "bulk_create":
        Note.objects.bulk_create([note])
        note = Note.objects.get() if note.pk is None else note
    else:
        note.save()
    if made == "by hand":
        note = Note(pk=note.pk, tenant=tenant)
    elif made == "loaded":
        note = Note.objects.get()
    elif made == "deferred":
        note = Note.objects.only("note").get()

    note.secret = text
    note.save(update_fields=["secret"])

    saved = Note.objects.get()
    assert (saved.secret, saved.data, saved.note) == (text, [1], "kept")
    assert (stored(saved, "secret") is None) is (text is None)


def test_a_failed_save_can_be_repeated() -> None:
    TextSaltFactory(slug="taken")
    row = TextSaltFactory(slug="free", secret="old")
    row.slug, row.secret, row.realm = "taken", "new", "south"
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save()
    assert row.secret == "new"
    assert TextSalt.objects.get(slug="free").secret == "old"

    row.slug = "other"
    row.save()

    saved = TextSalt.objects.get(slug="other")
    assert (saved.secret, saved.realm) == ("new", "south")


def test_a_move_that_failed_can_be_taken_back() -> None:
    TextSaltFactory(slug="taken")
    TextSaltFactory(slug="free", secret="s", realm="north")
    row = TextSalt.objects.get(slug="free")
    row.slug, row.realm = "taken", "south"
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save()

    row.slug, row.realm = "free", "north"
    row.save()
    assert TextSalt.objects.get(slug="free").secret == "s"
    row.realm = "east"
    row.save(update_fields=["realm"])
    assert TextSalt.objects.get(slug="free").secret == "s"


# -- refused values -----------------------------------------------------------------------------

CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
DEEP: list[Any] = []
for _ in range(200_000):
    DEEP = [DEEP]
BAD_TEXTS = {
    "bytes": (b"bytes", TypeError),
    "bytearray": (bytearray(b"bytes"), TypeError),
    "memoryview": (memoryview(b"bytes"), TypeError),
    "int": (1, TypeError),
    "bool": (True, TypeError),
    "list": (["a"], TypeError),
    "dict": ({"a": 1}, TypeError),
    "object": (object(), TypeError),
    "lone surrogate": ("lone \ud800 surrogate", ValueError),
}
BAD_JSONS = {
    "NaN": (math.nan, ValueError),
    "infinity inside": ({"a": [math.inf]}, ValueError),
    "minus infinity": (-math.inf, ValueError),
    "circle": (CIRCLE, ValueError),
    "too deep": (DEEP, ValueError),
    "set": ({1, 2}, TypeError),
    "bytes": (b"bytes", TypeError),
    "object": (object(), TypeError),
    "Decimal": (Decimal("1.5"), TypeError),
    "datetime": (datetime(2026, 1, 1, tzinfo=UTC), TypeError),
    "bytes as key": ({"a": {b"key": 1}}, TypeError),
    "tuple as key": ({(1, 2): 1}, TypeError),
    "lone surrogate": ("lone \ud800 surrogate", ValueError),
    "lone surrogate as key": ({"\udc00": 1}, ValueError),
}


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        pytest.param(name, *bad, id=f"{name} {kind}")
        for name, kinds in (("secret", BAD_TEXTS), ("data", BAD_JSONS))
        for kind, bad in kinds.items()
    ],
)
class TestBadValues:
    def test_nothing_is_written(
        self, tenant: Tenant, name: str, value: Any, error: type[Exception]
    ) -> None:
        good = NoteFactory.build(tenant=tenant)
        bad = NoteFactory.build(tenant=tenant, **{name: value})
        with refused(error, match=rf"^fieldapp\.Note\.{name}: ") as caught:
            bad.save()
        assert type(caught.value) is error
        with refused(error):
            Note.objects.bulk_create([good, bad])
        with refused(error):
            Note.objects.create(tenant=tenant, **{name: value})
        assert not Note.objects.exists()

    def test_the_stored_value_stays(
        self, tenant: Tenant, name: str, value: Any, error: type[Exception]
    ) -> None:
        made = NoteFactory(tenant=tenant, note="old")
        token = stored(made, name)
        note = Note.objects.get()
        setattr(note, name, value)
        note.note = "new"
        for fields in (None, [name], [name, "note"]):
            with refused(error):
                note.save(update_fields=fields)
        assert stored(made, name) == token
        assert Note.objects.get().note == "old"

        note.refresh_from_db()
        assert getattr(note, name) == getattr(made, name)


def test_json_made_bad_in_place_is_refused(tenant: Tenant) -> None:
    NoteFactory(tenant=tenant, data={"a": 1})
    note = Note.objects.get()
    note.data["a"] = math.nan
    with refused(ValueError, match="NaN"):
        note.save()
    assert Note.objects.get().data == {"a": 1}
    note.data["a"] = 2
    note.save()
    assert Note.objects.get().data == {"a": 2}


@pytest.mark.parametrize(
    "expression",
    [F("note"), Value("s"), Upper("note"), Concat(Value("a"), F("note"))],
    ids=lambda expression: type(expression).__name__,
)
@pytest.mark.parametrize("name", ["secret", "data"])
def test_an_expression_on_an_instance_is_refused(
    tenant: Tenant, name: str, expression: Any
) -> None:
    made = NoteFactory(tenant=tenant)
    token = stored(made, name)
    note = Note.objects.get()
    setattr(note, name, expression)
    for fields in (None, [name]):
        with refused(FieldError, match="Assign the value itself"):
            note.save(update_fields=fields)
    with refused(FieldError):
        Note.objects.create(tenant=tenant, **{name: expression})
    with refused(FieldError):
        Note.objects.bulk_create([Note(tenant=tenant, **{name: expression})])
    assert stored(made, name) == token
    assert Note.objects.count() == 1


# -- refused tenants ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        lambda: Note(secret="s"),
        lambda: Note(tenant=Tenant(), secret="s"),
        lambda: Note(tenant=None, data={}),
        lambda: TextSalt(realm="", slug="a", secret="s"),
        lambda: TextSalt(realm=None, slug="a", secret="s"),
        lambda: OwnKey(id="", secret="s"),
    ],
    ids=["unset", "unsaved", "None", "empty", "NULL", "empty id"],
)
def test_without_a_tenant_nothing_is_written(row: Any) -> None:
    model = type(row())
    for write in (
        lambda: row().save(),
        lambda: row().save(force_insert=True),
        lambda: model._base_manager.bulk_create([row()]),
    ):
        with refused((MissingSaltError, ValidationError)):
            write()
    assert not model._base_manager.exists()


def test_a_missing_tenant_is_named_with_the_way_out() -> None:
    for row in (Note(secret="s"), Note(tenant=Tenant(), secret="s")):
        with refused(MissingSaltError, match=r"fieldapp\.Note\.secret.*'tenant'.*[Ss]ave"):
            row.save()


def test_one_row_without_a_tenant_stops_the_whole_bulk_create(tenant: Tenant) -> None:
    with refused(MissingSaltError):
        Note.objects.bulk_create([Note(tenant=tenant, secret="s"), Note(secret="t")])
    assert not Note.objects.exists()


def test_a_tenant_that_is_saved_later_is_used(db: None) -> None:
    tenant = Tenant()
    note = Note(tenant=tenant, secret="s")
    with refused(MissingSaltError):
        note.save()
    tenant.save()
    note.save()
    assert Note.objects.get().secret == "s"


def test_a_stored_row_cannot_lose_its_tenant(tenant: Tenant) -> None:
    NoteFactory(tenant=tenant, secret="s")
    for unset in (None, Tenant()):
        note = Note.objects.get()
        note.tenant = unset
        for fields in (None, ["tenant"], ["tenant", "secret"]):
            with refused((MissingSaltError, ValueError)):
                note.save(update_fields=fields)
    note = Note.objects.get()
    assert (note.tenant, note.secret) == (tenant, "s")


def test_no_tenant_is_needed_for_no_secret(db: None) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Note(secret=None).save()


# -- a foreign ciphertext -----------------------------------------------------------------------


def _values_of(note: Note) -> Any:
    return Note.objects.values_list("secret", flat=True).get(pk=note.pk)


@pytest.mark.parametrize("bulk", [False, True])
def test_a_ciphertext_out_of_a_query_is_not_taken_for_a_new_row(
    tenant: Tenant, other_tenant: Tenant, bulk: bool
) -> None:
    foreign = _values_of(NoteFactory(tenant=other_tenant))
    note = Note(tenant=tenant, secret=foreign)
    with refused(EncryptionError, match="of another row.*decrypt"):
        if bulk:
            Note.objects.bulk_create([note])
        else:
            note.save()
    assert Note.objects.count() == 1


@pytest.mark.parametrize("how", ["loaded", "deferred", "only note", "read", "created"])
@pytest.mark.parametrize("fields", [None, ["secret"]])
def test_a_ciphertext_out_of_a_query_is_not_taken_for_an_old_row(
    tenant: Tenant, other_tenant: Tenant, how: str, fields: list[str] | None
) -> None:
    foreign = _values_of(NoteFactory(tenant=other_tenant))
    made = NoteFactory(tenant=tenant, secret="mine")
    querysets = {
        "deferred": Note.objects.defer("secret"),
        "only note": Note.objects.only("note"),
    }
    note = made if how == "created" else querysets.get(how, Note.objects).get(pk=made.pk)
    if how == "read":
        assert note.secret == "mine"
    note.secret = foreign
    with refused(EncryptionError, match="of another row"):
        note.save(update_fields=fields)
    assert Note.objects.get(pk=made.pk).secret == "mine"


def test_what_a_ciphertext_decrypts_to_can_be_assigned(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    foreign = _values_of(NoteFactory(tenant=other_tenant, secret="shared"))
    note = NoteFactory(tenant=tenant)
    note.secret = foreign.decrypt(other_tenant.pk)
    note.save()
    assert Note.objects.get(pk=note.pk).secret == "shared"


# -- upserts ------------------------------------------------------------------------------------


def _upsert(rows: list[Any], update: list[str], unique: list[str]) -> None:
    target = (
        {"unique_fields": unique}
        if connection.features.supports_update_conflicts_with_target
        else {}
    )
    type(rows[0])._base_manager.bulk_create(
        rows, update_conflicts=True, update_fields=update, **target
    )


@pytest.mark.parametrize("update", [["secret"], ["realm"]])
def test_an_upsert_that_parts_secret_and_tenant_is_refused(update: list[str]) -> None:
    TextSaltFactory(realm="north", slug="one", secret="old")
    new = TextSaltFactory.build_batch(2)
    rows = [*new, TextSalt(realm="south", slug="one", secret="new")]

    with refused(FieldError, match=r"fieldapp\.TextSalt\.secret.*Nothing was written"):
        _upsert(rows, update, ["slug"])

    assert TextSalt.objects.get().secret == "old"


def test_an_upsert_that_takes_both_is_readable() -> None:
    TextSaltFactory(realm="north", slug="one", secret="old")
    rows = [
        TextSalt(realm="south", slug="one", secret="the new secret"),
        TextSalt(realm="west", slug="two", secret="too"),
    ]
    _upsert(rows, ["realm", "secret"], ["slug"])

    read = {row.slug: (row.realm, row.secret) for row in TextSalt.objects.all()}
    assert read == {"one": ("south", "the new secret"), "two": ("west", "too")}
    assert "the new secret" not in everything(TextSalt)


def test_an_upsert_that_takes_neither_is_readable(tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant, secret="old", note="old")
    again = Note(pk=note.pk, tenant=TenantFactory(), secret="new", note="new")
    again.updated_at = note.updated_at
    _upsert([again], ["note"], ["id"])

    note = Note.objects.get()
    assert (note.note, note.secret, note.tenant) == ("new", "old", tenant)


def test_an_upsert_cannot_move_a_row_past_its_binding(owner: UuidTenant) -> None:
    vault = VaultFactory(tenant=owner, secret="old", host="one")
    other = UuidTenantFactory()
    for update in (["host"], ["secret"], ["secret", "host"], ["tenant"], ["tenant", "host"]):
        with refused(FieldError, match="Nothing was written"):
            _upsert([Vault(pk=vault.pk, tenant=other, secret="n", host="two")], update, ["id"])
    saved = Vault.objects.get()
    assert (saved.host, saved.secret, saved.tenant) == ("one", "old", owner)


def test_ignored_conflicts_leave_the_row_alone() -> None:
    TextSaltFactory(realm="north", slug="one", secret="old")
    TextSalt.objects.bulk_create(
        [TextSalt(realm="south", slug="one", secret="new"), TextSaltFactory.build(slug="two")],
        ignore_conflicts=True,
    )
    assert TextSalt.objects.get(slug="one").secret == "old"
    assert TextSalt.objects.get(slug="two").secret


# -- validation ---------------------------------------------------------------------------------


def test_full_clean_does_not_decrypt_what_is_stored(tenant: Tenant, crypto: Counter[str]) -> None:
    NoteFactory(tenant=tenant)
    note = Note.objects.get()
    crypto.clear()
    note.full_clean()
    assert not crypto


def test_full_clean_of_an_unreadable_row_passes(tenant: Tenant) -> None:
    store(NoteFactory(tenant=tenant), "secret", "v2:00000000:AAAA")
    Note.objects.get().full_clean()


def test_full_clean_looks_at_new_values(tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant)
    note.secret = 5
    with pytest.raises(ValidationError) as caught:
        note.full_clean()
    assert set(caught.value.message_dict) == {"secret"}

    note.secret = "s"
    note.data = {"a": math.nan}
    with pytest.raises(ValidationError) as caught:
        note.full_clean()
    assert set(caught.value.message_dict) == {"data"}


def test_full_clean_misses_a_required_secret(tenant: Tenant) -> None:
    for empty in (None, ""):
        with pytest.raises(ValidationError) as caught:
            LateSalt(owner=tenant, code="c", secret=empty).full_clean()
        assert set(caught.value.message_dict) == {"secret"}


def test_full_clean_keeps_the_token_of_what_was_read(tenant: Tenant) -> None:
    made = NoteFactory(tenant=tenant)
    tokens = stored(made, "secret"), stored(made, "data")
    note = Note.objects.get()
    assert note.secret
    assert note.data
    note.full_clean()
    note.save()
    assert (stored(made, "secret"), stored(made, "data")) == tokens


def test_the_stored_json_is_what_json_dumps_gives(owner: UuidTenant) -> None:
    value = {"b": [1, 2.5, None, True], "a": '\u00e9"\\\n'}
    vault = VaultFactory(tenant=owner, data=value)
    text = decrypt(
        stored(vault, "data"), owner.pk, context="fieldapp.vault.data", bound_to=(str(vault.pk),)
    )
    assert text == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def test_lower_cased_expressions_never_reach_a_column_in_clear(tenant: Tenant) -> None:
    with refused(FieldError):
        NoteFactory(tenant=tenant, secret=Lower(Value("CLEAR TEXT")))
    assert "clear text" not in everything(Note)


@pytest.mark.parametrize(
    "write",
    [
        lambda note: note.save(),
        lambda note: Note.objects.bulk_create([note]),
    ],
    ids=["save", "bulk_create"],
)
def test_a_tenant_that_is_not_saved_is_refused_without_a_secret_too(write: Any) -> None:
    with pytest.raises(ValueError, match="unsaved related object"):
        write(Note(tenant=Tenant(), secret=None, data=None))
    assert not Note.objects.exists()


@pytest.mark.parametrize("load", [Note.objects.all, lambda: Note.objects.only("note")])
@pytest.mark.parametrize("fields", [["note"], None], ids=["named", "what was loaded"])
def test_a_save_that_is_no_concern_of_a_secret_costs_nothing_more(
    tenant: Tenant, django_assert_num_queries: Any, load: Any, fields: list[str] | None
) -> None:
    token = stored(NoteFactory(tenant=tenant, secret="s", note="before"), "secret")
    note = load().get()
    note.note = "after"
    with django_assert_num_queries(1):
        note.save(update_fields=fields)
    read = Note.objects.get()
    assert (read.secret, read.note, stored(read, "secret")) == ("s", "after", token)
    assert note.secret == "s"
