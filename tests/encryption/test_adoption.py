"""`allow_plaintext`: an existing column is adopted while it still holds plaintext."""

import copy
import json
import pickle
from collections import Counter
from typing import Any

import pytest
from django.core import serializers
from django.core.exceptions import FieldError
from django.db import connection, models
from django.test import override_settings
from django.test.utils import isolate_apps

from encryption import (
    DecryptionError,
    MalformedTokenError,
    TamperedError,
    UnknownKeyError,
    decrypt,
    encrypt,
)
from encryption.fields import EncryptedTextField
from encryption.managers import EncryptedManager
from tests.encryption.database import everything, refused, store, stored, tables
from tests.fieldapp.models import Adopted, Note, Tenant

pytestmark = pytest.mark.django_db

#: What such a column may hold; the last ones look like something else.
PLAINTEXTS = [
    "an old password",
    "",
    " ",
    "0",
    "line\nline",
    "\U0001f511",
    "c2VjcmV0",
    "A" * 40,
    "sk_live_" + "a1B2" * 10,
    "dGhpcyBpcyBhIGxvbmcgZW5vdWdoIGtleSwgaW4gYmFzZTY0",
    "v1:not a token",
    "v2:not a token",
    "v3:00000000:AAAA",
    "v2:ABCDEF12:upper",
]
JSON_PLAINTEXTS = ['{"a": 1}', "[]", '"text"', "0", "false", "1.5", '{"\\u00e9": [1, 2]}']


def _adopt(tenant: Tenant, secret: str | None, data: str | None = None) -> Adopted:
    """A row as it was before the column was encrypted."""
    row = Adopted.objects.create(tenant=tenant)
    if secret is not None:
        store(row, "secret", secret)
    if data is not None:
        store(row, "data", data)
    return Adopted.objects.get(pk=row.pk)


@pytest.mark.parametrize("text", PLAINTEXTS, ids=ascii)
class TestOldPlaintext:
    def test_it_is_read_as_it_is(self, tenant: Tenant, text: str) -> None:
        row = _adopt(tenant, text)
        assert row.secret == text
        assert Adopted.objects.defer("secret").get().secret == text
        assert Adopted.objects.values_list("secret", flat=True).get().decrypt(tenant.pk) == text
        row.refresh_from_db()
        assert row.secret == text

    @pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
    @pytest.mark.parametrize("fields", [None, ["secret"]])
    def test_a_save_encrypts_it(
        self, tenant: Tenant, text: str, read: bool, fields: list[str] | None
    ) -> None:
        row = _adopt(tenant, text)
        if read:
            assert row.secret == text
        row.save(update_fields=fields)

        token = stored(row, "secret")
        assert decrypt(token, tenant.pk, context="fieldapp.adopted.secret") == text
        assert Adopted.objects.get().secret == row.secret == text
        row.save()
        assert stored(row, "secret") == token

    def test_a_save_of_other_fields_leaves_it(self, tenant: Tenant, text: str) -> None:
        row = _adopt(tenant, text, '{"a": 1}')
        row.save(update_fields=["data"])
        assert stored(row, "secret") == text
        assert stored(row, "data").startswith("v2:")

    @pytest.mark.parametrize("fields", [None, ["tenant"]])
    def test_it_moves(
        self, tenant: Tenant, other_tenant: Tenant, text: str, fields: list[str] | None
    ) -> None:
        row = _adopt(tenant, text)
        row.tenant = other_tenant
        row.save(update_fields=fields)
        read = Adopted.objects.get()
        assert (read.secret, read.tenant) == (text, other_tenant)
        token = stored(row, "secret")
        assert decrypt(token, other_tenant.pk, context="fieldapp.adopted.secret") == text

    def test_it_is_replaced(self, tenant: Tenant, text: str) -> None:
        row = _adopt(tenant, text)
        row.secret = "new"
        row.save()
        assert Adopted.objects.get().secret == "new"
        assert stored(row, "secret").startswith("v2:")

    def test_no_copy_carries_it(self, tenant: Tenant, text: str) -> None:
        for read in (False, True):
            row = _adopt(tenant, text)
            if read:
                assert row.secret == text
            data = pickle.dumps(row)
            if len(text) > 10:
                assert text.encode() not in data
                assert text not in repr(vars(row))
            for copied in (pickle.loads(data), copy.copy(row), copy.deepcopy(row)):
                assert copied.secret == text
            copied.save()
            assert Adopted.objects.get(pk=row.pk).secret == text

    def test_a_dump_holds_ciphertext(self, tenant: Tenant, text: str) -> None:
        row = _adopt(tenant, text)
        dumped = serializers.serialize("json", Adopted.objects.all())
        (entry,) = json.loads(dumped)
        token = entry["fields"]["secret"]
        assert decrypt(token, tenant.pk, context="fieldapp.adopted.secret") == text
        assert stored(row, "secret") == text


@pytest.mark.parametrize("text", JSON_PLAINTEXTS)
def test_old_json_is_read_and_encrypted(tenant: Tenant, text: str) -> None:
    row = _adopt(tenant, None, text)
    value = json.loads(text)
    assert repr(row.data) == repr(value)
    row.save()
    assert repr(Adopted.objects.get().data) == repr(value)
    assert stored(row, "data").startswith("v2:")


def test_old_json_changed_in_place(tenant: Tenant) -> None:
    row = _adopt(tenant, None, '{"a": 1}')
    row.data["b"] = 2
    row.save()
    assert Adopted.objects.get().data == {"a": 1, "b": 2}


def test_old_text_that_is_no_json(tenant: Tenant) -> None:
    row = _adopt(tenant, None, "no json")
    with pytest.raises(MalformedTokenError, match=r"fieldapp\.Adopted\.data"):
        row.data  # noqa: B018
    assert stored(row, "data") == "no json"
    row.data = [1]
    row.save()
    assert Adopted.objects.get().data == [1]


def test_everything_written_is_encrypted(tenant: Tenant) -> None:
    Adopted.objects.create(tenant=tenant, secret="one plaintext", data=["plaintext"])
    Adopted.objects.bulk_create([Adopted(tenant=tenant, secret="two plaintext")])
    Adopted.objects.get_or_create(pk=77, defaults={"tenant": tenant, "secret": "three plaintext"})
    assert "plaintext" not in everything(Adopted)
    for values in ({"secret": "plain"}, {"data": "plain"}, {"tenant": tenant}):
        with refused(FieldError):
            Adopted.objects.update(**values)
    with pytest.raises(FieldError):
        Adopted.objects.filter(secret="one plaintext")


def test_a_null_stays_null(tenant: Tenant) -> None:
    row = _adopt(tenant, None)
    assert (row.secret, row.data) == (None, None)
    row.save()
    assert stored(row, "secret") is None


def test_what_is_a_token_is_decrypted_and_never_shown(tenant: Tenant, other_key: str) -> None:
    context = "fieldapp.adopted.secret"
    token = encrypt("s", tenant.pk, context=context)
    assert _adopt(tenant, token).secret == "s"
    with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1"}):
        v1 = encrypt("s", tenant.pk)
    assert _adopt(tenant, v1).secret == "s"

    for broken, error in (
        ("v2:00000000:" + token[12:], UnknownKeyError),
        (token[:-4], DecryptionError),
        (token[:20], MalformedTokenError),
        (encrypt("s", tenant.pk, context="other"), TamperedError),
        (encrypt("s", tenant.pk + 1, context=context), DecryptionError),
    ):
        row = _adopt(tenant, broken)
        with pytest.raises(error):
            row.secret  # noqa: B018
        row.save()
        assert stored(row, "secret") == broken


def test_a_v1_token_without_its_key_is_not_guessed_where_v1_is_written(
    tenant: Tenant, other_key: str
) -> None:
    with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1", "MASTER_KEY": other_key}):
        token = encrypt("s", tenant.pk)
    with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1"}):
        row = _adopt(tenant, token)
        with pytest.raises(DecryptionError):
            row.secret  # noqa: B018
        row.save()
        assert stored(row, "secret") == token


def test_loading_still_decrypts_nothing(tenant: Tenant, crypto: Counter[str]) -> None:
    _adopt(tenant, "old")
    Adopted.objects.create(tenant=tenant, secret="new")
    crypto.clear()
    list(Adopted.objects.all())
    list(Adopted.objects.values())
    assert not crypto


def test_a_fixture_may_hold_old_plaintext(tenant: Tenant) -> None:
    row = Adopted.objects.create(tenant=tenant, secret="s")
    (entry,) = json.loads(serializers.serialize("json", [row]))
    entry["fields"]["secret"] = "from an old dump"
    (fixture,) = serializers.deserialize("json", json.dumps([entry]))
    fixture.save()
    assert Adopted.objects.get().secret == "from an old dump"
    Adopted.objects.get().save()
    assert "from an old dump" not in everything(Adopted)


def test_without_it_plaintext_is_an_error_that_names_it(tenant: Tenant) -> None:
    row = Note.objects.create(tenant=tenant, secret="s")
    store(row, "secret", "an old password")
    with pytest.raises(MalformedTokenError, match="allow_plaintext") as caught:
        Note.objects.get().secret  # noqa: B018
    assert "an old password" not in str(caught.value)


def test_bulk_update_encrypts_old_plaintext(transactional_db: None) -> None:
    with isolate_apps("tests.fieldapp"):

        class Old(models.Model):
            realm = models.CharField(max_length=10)
            secret = EncryptedTextField(salt_field="realm", allow_plaintext=True)
            objects = EncryptedManager()

            class Meta:
                app_label = "fieldapp"

    with tables(Old):
        with connection.cursor() as cursor:
            for text in ("plaintext one", "plaintext two", ""):
                cursor.execute(
                    "INSERT INTO fieldapp_old (realm, secret) VALUES ('north', %s)", [text]
                )
        rows = list(Old.objects.order_by("pk"))
        Old.objects.bulk_update(rows, ["secret"])
        assert [row.secret for row in Old.objects.order_by("pk")] == [
            "plaintext one",
            "plaintext two",
            "",
        ]
        for row in rows:
            row.realm = "south"
        Old.objects.bulk_update(rows, ["realm"])
        assert [row.secret for row in Old.objects.order_by("pk")] == [
            "plaintext one",
            "plaintext two",
            "",
        ]
        assert "plaintext" not in everything(Old)


def test_the_option_is_part_of_the_field(db: None) -> None:
    field: Any = Adopted._meta.get_field("secret")
    assert field.deconstruct()[3]["allow_plaintext"] is True
    assert "allow_plaintext" not in Note._meta.get_field("secret").deconstruct()[3]
