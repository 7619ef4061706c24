"""`dumpdata` and `loaddata`: ciphertext out, the same ciphertext in."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core import serializers
from django.core.management import call_command
from django.core.serializers.base import DeserializationError
from django.db import IntegrityError, transaction
from django.test import override_settings

from encryption import DecryptionError, MalformedTokenError, WrongKeyError
from encryption.rawsaves import tokens_as_such
from tests.encryption.database import refused, store, stored
from tests.fieldapp.factories import (
    ChildFactory,
    LateSaltFactory,
    NoteFactory,
    SecretChildFactory,
    TextSaltFactory,
    VaultFactory,
)
from tests.fieldapp.models import (
    BareParent,
    Child,
    LateSalt,
    Note,
    Parent,
    SecretChild,
    Tenant,
    TextSalt,
    UuidTenant,
    Vault,
)

pytestmark = pytest.mark.django_db
FORMATS = ["json", "jsonl", "xml", "yaml"]
SECRET = "correct horse battery staple"


@pytest.fixture
def rows(tenant: Tenant, owner: UuidTenant) -> list[Any]:
    note = NoteFactory(tenant=tenant, secret=SECRET, data={"a": SECRET}, note="n")
    return [
        note,
        NoteFactory(tenant=tenant, secret=None, data=None),
        NoteFactory(tenant=tenant, secret="", data=[]),
        VaultFactory(tenant=owner, secret=SECRET, host="h", data=[SECRET]),
        LateSaltFactory(owner=tenant, secret=SECRET),
        TextSaltFactory(secret=SECRET),
        ChildFactory(tenant=tenant, secret=SECRET, inner=SECRET),
        SecretChildFactory(tenant=tenant, inner=SECRET),
    ]


MODELS = [Tenant, UuidTenant, Note, Vault, LateSalt, TextSalt]
MODELS += [Parent, Child, BareParent, SecretChild]


def _tokens(rows: list[Any]) -> list[Any]:
    names = ("secret", "data", "inner")
    return [stored(row, name) for row in rows for name in names if hasattr(type(row), name)]


def _empty() -> None:
    for model in reversed(MODELS):
        model._base_manager.all().delete()
    assert not Note.objects.exists()


@pytest.mark.parametrize("form", FORMATS)
def test_dumpdata_and_loaddata_keep_every_token(rows: list[Any], form: str, tmp_path: Path) -> None:
    tokens = _tokens(rows)
    file = tmp_path / f"rows.{form}"
    call_command("dumpdata", "fieldapp", format=form, output=str(file), verbosity=0)
    text = file.read_text()
    assert "correct horse" not in text
    assert all(token in text for token in tokens if token)

    for prepare in (_empty, lambda: None):  # into an empty database, and over the same rows
        prepare()
        call_command("loaddata", str(file), verbosity=0)
        assert _tokens(rows) == tokens

    for row in rows:
        read = type(row).objects.get(pk=row.pk)
        for name in ("secret", "data", "inner"):
            if hasattr(type(row), name):
                assert getattr(read, name) == getattr(row, name)


def test_dumpdata_to_standard_output(rows: list[Any]) -> None:
    out = StringIO()
    call_command("dumpdata", "fieldapp.note", stdout=out)
    fields = {entry["pk"]: entry["fields"] for entry in json.loads(out.getvalue())}
    assert fields[rows[0].pk]["secret"] == stored(rows[0], "secret")
    assert fields[rows[1].pk]["secret"] is None
    assert fields[rows[0].pk]["data"] == stored(rows[0], "data")


def test_a_dump_of_rows_that_were_read_or_edited(tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant, secret="old")
    assert note.secret
    note.secret = SECRET
    text = serializers.serialize("json", [note, Note(tenant=tenant, secret=SECRET)])
    assert "correct horse" not in text
    first, second = json.loads(text)
    field = Note._meta.get_field("secret")
    for entry in (first, second):
        value = field.from_db_value(entry["fields"]["secret"], None, None)
        assert value.decrypt(tenant.pk) == SECRET


def test_a_dump_of_rows_that_cannot_be_read(tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant)
    for content in ("v2:00000000:AAAA", "not a token", stored(note, "secret")[:-4]):
        store(note, "secret", content)
        (entry,) = json.loads(serializers.serialize("json", Note.objects.all()))
        assert entry["fields"]["secret"] == content


def test_loading_decrypts_nothing(rows: list[Any], crypto: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    call_command("dumpdata", "fieldapp", output=str(file), verbosity=0)
    crypto.clear()
    _empty()
    call_command("loaddata", str(file), verbosity=0)
    assert not crypto


def test_a_dump_under_a_key_that_is_missing_is_loaded(
    tenant: Tenant, other_key: str, tmp_path: Path
) -> None:
    with override_settings(ENCRYPTION={"MASTER_KEY": other_key}):
        note = NoteFactory(tenant=tenant, secret=SECRET)
        text = serializers.serialize("json", [note])
    token = stored(note, "secret")
    note.delete()
    (fixture,) = serializers.deserialize("json", text)
    fixture.save()
    assert stored(fixture.object, "secret") == token
    with pytest.raises(DecryptionError):
        Note.objects.get().secret  # noqa: B018
    with override_settings(ENCRYPTION={"MASTER_KEY": other_key}):
        assert Note.objects.get().secret == SECRET


def test_v1_tokens_are_kept(tenant: Tenant) -> None:
    with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1"}):
        note = NoteFactory(tenant=tenant, secret=SECRET)
    token = stored(note, "secret")
    text = serializers.serialize("json", Note.objects.all())
    note.delete()
    for fixture in serializers.deserialize("json", text):
        fixture.save()
    assert stored(fixture.object, "secret") == token
    assert Note.objects.get().secret == SECRET


def _changed(note: Note, /, **fields: Any) -> Any:
    (entry,) = json.loads(serializers.serialize("json", [note]))
    entry["fields"].update(fields)
    (fixture,) = serializers.deserialize("json", json.dumps([entry]))
    return fixture


NO_TOKENS = ["plain text", "", "v2:", "v2:zzzzzzzz:AAAA", "v3:00000000:AAAA", "c2VjcmV0"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("secret", "data") for value in NO_TOKENS],
        *[("data", value) for value in (5, ["a"], {}, {"a": 1}, True)],
    ],
    ids=repr,
)
def test_what_is_no_token_is_not_loaded(tenant: Tenant, name: str, value: Any) -> None:
    note = NoteFactory(tenant=tenant)
    token = stored(note, name)
    with refused(MalformedTokenError, match=f"fieldapp.Note.{name}") as caught:
        _changed(note, **{name: value}).save()
    assert "plain text" not in str(caught.value)
    assert stored(note, name) == token


@pytest.mark.parametrize("value", [5, ["a"], {}, True], ids=repr)
def test_what_is_no_text_is_not_loaded(tenant: Tenant, value: Any) -> None:
    note = NoteFactory(tenant=tenant, secret="s")
    with refused((MalformedTokenError, DeserializationError)):
        _changed(note, secret=value).save()
    assert Note.objects.get().secret == "s"


def test_a_fixture_for_another_tenant_is_loaded_and_does_not_decrypt(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    note = NoteFactory(tenant=tenant)
    token = stored(note, "secret")
    _changed(note, tenant=other_tenant.pk).save()
    assert stored(note, "secret") == token
    with pytest.raises(WrongKeyError):
        Note.objects.get().secret  # noqa: B018


def test_the_instance_of_a_fixture_is_as_good_as_any(tenant: Tenant, other_tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant, secret=SECRET, data=[1], note="old")
    fixture = _changed(note, note="new")
    fixture.save()
    loaded = fixture.object
    assert (loaded.secret, loaded.data, loaded.note) == (SECRET, [1], "new")
    loaded.secret = "changed"
    loaded.tenant = other_tenant
    loaded.save()
    read = Note.objects.get()
    assert (read.secret, read.data, read.tenant) == ("changed", [1], other_tenant)


def test_a_fixture_that_the_database_refuses(tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant, secret=SECRET, note="old")
    token = stored(note, "secret")
    fixture = _changed(note, note=None)
    with pytest.raises(IntegrityError), transaction.atomic():
        fixture.save()
    assert stored(note, "secret") == token
    assert fixture.object.secret == SECRET


def test_a_fixture_of_a_moved_child(tenant: Tenant, other_tenant: Tenant) -> None:
    """Each table is loaded by itself, and in between they do not fit."""
    child = SecretChildFactory(tenant=tenant, inner=SECRET)
    before = serializers.serialize("json", [BareParent.objects.get(), SecretChild.objects.get()])
    child.tenant = other_tenant
    child.save()
    assert SecretChild.objects.get().inner == SECRET
    for fixture in serializers.deserialize("json", before):
        fixture.save()
    read = SecretChild.objects.get()
    assert (read.tenant, read.inner) == (tenant, SECRET)


def test_a_child_is_saved_raw(tenant: Tenant) -> None:
    child = ChildFactory(tenant=tenant, secret="outer", inner=SECRET)
    tokens = stored(child, "secret"), stored(child, "inner")
    (fixture,) = serializers.deserialize("json", serializers.serialize("json", [child]))
    fixture.save()
    loaded = Child.objects.get()
    loaded.save_base(raw=True)  # as it is, though it came from no fixture
    assert (loaded.secret, loaded.inner) == ("outer", SECRET)
    assert (stored(child, "secret"), stored(child, "inner")) == tokens


def test_an_inherited_secret_is_given_to_django_while_it_is_saved_raw(tenant: Tenant) -> None:
    """Today's Django leaves the parent's table to the parent's own fixture; it need not."""
    child = ChildFactory(tenant=tenant, secret="outer", inner=SECRET)
    with tokens_as_such(child):
        django = {"__name__": "django.db.models.base", "child": child}
        asked = eval("child.secret", django)
        assert asked.token == stored(child, "secret")
        assert child.secret == "outer"


def test_natural_keys_and_chosen_fields(tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant, secret=SECRET)
    text = serializers.serialize(
        "json", [note], fields=["secret", "tenant"], use_natural_primary_keys=True
    )
    (entry,) = json.loads(text)
    assert set(entry["fields"]) == {"secret", "tenant"}
    assert entry["fields"]["secret"] == stored(note, "secret")


def test_python_serialisation(tenant: Tenant) -> None:
    note = NoteFactory(tenant=tenant, secret=SECRET)
    (entry,) = serializers.serialize("python", [note])
    assert entry["fields"]["secret"] == stored(note, "secret")
    note.delete()
    (fixture,) = serializers.deserialize("python", [entry])
    fixture.save()
    assert Note.objects.get().secret == SECRET
