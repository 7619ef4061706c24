import pickle
from datetime import datetime

import pytest
from django.contrib.auth import get_user_model
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from apikeys import tokens
from apikeys.models import AIKey
from encryption import WrongKeyError, decrypt

from .factories import AIKeyFactory, UserFactory

pytestmark = pytest.mark.django_db

URL = "/api/v1/me/ai-keys/openai/"
#: It ends in letters, which no time of a response has.
SECRET = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def me(user) -> APIClient:
    client = APIClient()
    client.force_login(user)
    return client


def stored() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT api_key FROM apikeys_aikey")
        return cursor.fetchone()[0]


def test_what_is_put_is_encrypted_for_the_user(me, user) -> None:
    response = me.put(URL, {"api_key": SECRET})
    assert response.status_code == 201
    assert response.json().keys() == {"provider", "set", "created_at", "updated_at", "warnings"}
    assert response.json()["warnings"] == []
    token = stored()
    assert token.startswith("v2:")
    assert SECRET not in token
    assert decrypt(token, user.pk, context="apikeys.aikey.api_key") == SECRET
    assert AIKey.objects.get().api_key == SECRET


def test_a_read_tells_that_it_is_set_and_when(me) -> None:
    assert me.get(URL).json() == {
        "provider": "openai",
        "set": False,
        "created_at": None,
        "updated_at": None,
    }
    me.put(URL, {"api_key": SECRET})
    response = me.get(URL)
    assert response.json()["set"] is True
    assert response.json()["updated_at"] is not None
    assert SECRET[-4:] not in response.content.decode()


def test_another_put_replaces_it(me, user) -> None:
    created = me.put(URL, {"api_key": SECRET}).json()
    response = me.put(URL, {"api_key": SECRET + "new"})
    assert response.status_code == 200
    assert response.json()["created_at"] == created["created_at"]
    # As texts they compare wrongly when one of them has no microseconds.
    before, after = (
        datetime.fromisoformat(put["updated_at"]) for put in (created, response.json())
    )
    assert after > before
    assert AIKey.objects.get().api_key == SECRET + "new"


def test_one_that_cannot_be_decrypted_can_be_read_about_and_replaced(me, user) -> None:
    me.put(URL, {"api_key": SECRET})
    foreign = AIKeyFactory()
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE apikeys_aikey SET api_key = %s WHERE user_id = %s",
            [AIKey._meta.get_field("api_key").value_from_object(foreign).token, user.pk],
        )
    with pytest.raises(WrongKeyError):
        _ = AIKey.objects.get(user=user).api_key
    assert me.get(URL).json()["set"] is True
    assert me.put(URL, {"api_key": SECRET}).status_code == 200
    assert AIKey.objects.get(user=user).api_key == SECRET


def test_deleting_is_idempotent(me) -> None:
    me.put(URL, {"api_key": SECRET})
    assert [me.delete(URL).status_code, me.delete(URL).status_code] == [204, 204]
    assert not AIKey.objects.exists()


def test_each_provider_has_its_own(me) -> None:
    me.put(URL, {"api_key": SECRET})
    me.put("/api/v1/me/ai-keys/anthropic/", {"api_key": "sk-ant-api03-0123456789abcdef"})
    me.delete(URL)
    assert AIKey.objects.get().provider == "anthropic"


def test_nobody_sees_anothers(me) -> None:
    other = AIKeyFactory()
    assert me.get(URL).json()["set"] is False
    me.delete(URL)
    me.put(URL, {"api_key": SECRET})
    assert AIKey.objects.get(user=other.user).api_key == other.api_key


@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_who_is_not_logged_in_is_401(client, method: str) -> None:
    assert getattr(client, method)(URL).status_code == 401


@pytest.mark.parametrize("provider", ["mistral", "OPENAI", "openai-", "__class__"])
@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_an_unknown_provider_is_404(me, provider: str, method: str) -> None:
    response = getattr(me, method)(f"/api/v1/me/ai-keys/{provider}/", {"api_key": SECRET})
    assert response.status_code == 404


@pytest.mark.parametrize(
    ("provider", "api_key", "warnings"),
    [
        ("openai", SECRET, 0),
        ("openai", "sk-ant-api03-" + "a" * 80, 1),
        ("openai", "a" * 40, 1),
        ("openai", "sk-short", 1),
        ("openai", "short", 2),
        ("openai", "sk-proj-" + "ä" * 40, 1),
        ("openai", "sk-proj-" + "a b" * 40, 1),
        ("anthropic", "sk-ant-api03-" + "a" * 80, 0),
        ("anthropic", SECRET, 1),
    ],
)
def test_a_form_that_is_not_the_providers_is_a_warning_and_no_refusal(
    me, provider: str, api_key: str, warnings: int
) -> None:
    response = me.put(f"/api/v1/me/ai-keys/{provider}/", {"api_key": api_key})
    assert response.status_code == 201
    assert len(response.json()["warnings"]) == warnings
    assert api_key not in response.content.decode()
    assert AIKey.objects.get().api_key == api_key


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "required"),
        ({"api_key": None}, "null"),
        ({"api_key": ""}, "blank"),
        ({"api_key": "   "}, "blank"),
        ({"api_key": 12345678}, "invalid"),
        ({"api_key": ["sk-proj"]}, "invalid"),
        ({"api_key": {"set": True}}, "invalid"),
        ({"api_key": "sk-proj\x00abc"}, "null_character"),
        ({"api_key": "a" * (64 * 1024 + 1)}, "too_long"),
        ({"api_key": "••••••••"}, "mask"),
        ({"api_key": "********"}, "mask"),
        ({"api_key": "sk-p****************wxyz"}, "mask"),
        ({"api_key": "set"}, "mask"),
        ({"api_key": tokens.generate().plaintext}, "api_key"),
        ({"api_key": SECRET, "set": False}, "read_only_field"),
        ({"api_key": SECRET, "user": 1}, "unknown_field"),
    ],
)
def test_what_is_no_secret_is_400_and_changes_nothing(me, body, code: str) -> None:
    me.put(URL, {"api_key": SECRET})
    response = me.put(URL, body)
    assert response.status_code == 400
    assert [error["code"] for error in response.json()["errors"]] == [code]
    text = body.get("api_key")
    assert not isinstance(text, str) or len(text) < 8 or text not in response.content.decode()
    assert AIKey.objects.get().api_key == SECRET


def test_half_a_character_is_400(me) -> None:
    response = me.generic("PUT", URL, '{"api_key": "\\ud800"}', content_type="application/json")
    assert response.status_code == 400
    assert not AIKey.objects.exists()


def test_a_key_twice_in_the_body_is_400(me) -> None:
    response = me.generic(
        "PUT", URL, '{"api_key": "one", "api_key": "two"}', content_type="application/json"
    )
    assert response.status_code == 400
    assert not AIKey.objects.exists()


def test_there_is_one_per_user_and_provider(user) -> None:
    AIKeyFactory(user=user)
    with pytest.raises(IntegrityError), transaction.atomic():
        AIKeyFactory(user=user)


def test_neither_text_nor_pickle_of_a_key_tells_it(user) -> None:
    key = AIKeyFactory(user=user, api_key=SECRET)
    assert key.api_key == SECRET
    assert SECRET not in f"{key} {key!r} {vars(key)}"
    assert SECRET.encode() not in pickle.dumps(key)


def test_a_read_decrypts_nothing(me, monkeypatch) -> None:
    AIKeyFactory(user=get_user_model().objects.get())
    monkeypatch.setattr(
        "encryption.fields.get_keyring", lambda: pytest.fail("a key was derived or used")
    )
    with CaptureQueriesContext(connection) as queries:
        assert me.get(URL).json()["set"] is True
    assert len(queries) == 3  # session, user, key


# -- a user who is deleted takes them along -------------------------------------------------------


def by_the_orm(user) -> None:
    user.delete()


def by_a_queryset(user) -> None:
    get_user_model().objects.filter(pk=user.pk).delete()


def _administrator() -> APIClient:
    client = APIClient()
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    return client


def by_the_admin(user) -> None:
    url = f"/admin/auth/user/{user.pk}/delete/"
    assert _administrator().post(url, {"post": "yes"}, format="multipart").status_code == 302


def by_the_admins_list(user) -> None:
    form = {"action": "delete_selected", "_selected_action": [user.pk], "post": "yes"}
    assert _administrator().post("/admin/auth/user/", form, format="multipart").status_code == 302


@pytest.mark.parametrize("delete", [by_the_orm, by_a_queryset, by_the_admin, by_the_admins_list])
def test_a_deleted_user_takes_their_keys_along(user, delete) -> None:
    AIKeyFactory(user=user)
    AIKeyFactory(user=user, provider="anthropic")
    other = AIKeyFactory()
    delete(user)
    assert not get_user_model().objects.filter(pk=user.pk).exists()
    with connection.cursor() as cursor:
        cursor.execute("SELECT user_id FROM apikeys_aikey")
        assert [row[0] for row in cursor.fetchall()] == [other.user_id]


def test_the_same_key_for_two_providers_is_a_warning(me, user) -> None:
    me.put(URL, {"api_key": SECRET})
    AIKeyFactory(user=UserFactory(), provider="openai", api_key=SECRET)
    response = me.put("/api/v1/me/ai-keys/anthropic/", {"api_key": f"{SECRET}"})
    assert response.status_code == 201
    assert "Your key to OpenAI is the same one." in response.json()["warnings"]
    assert SECRET not in response.content.decode()
    again = me.put("/api/v1/me/ai-keys/anthropic/", {"api_key": "sk-ant-api03-0123456789abcdef"})
    assert again.json()["warnings"] == []
