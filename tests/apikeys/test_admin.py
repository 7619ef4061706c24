import re
import uuid
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client

from apikeys import tokens
from apikeys.models import AIKey, ApiKey, ApiKeyEvent
from encryption import sha256_hex
from projects.models import Membership
from projects.roles import Role

from .factories import (
    OPERATOR,
    AIKeyFactory,
    ApiKeyFactory,
    ProjectFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db

ADD = "/admin/apikeys/apikey/add/"
LIST = "/admin/apikeys/apikey/"


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(UserFactory(username="root", is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def staff(project):
    """A member of the staff with all of Django's permissions here, and a role in the project."""

    def make(role: Role | None) -> Client:
        user = UserFactory(is_staff=True)
        user.user_permissions.set(Permission.objects.filter(content_type__app_label="apikeys"))
        if role is not None:
            Membership.objects.create(project=project, user=user, role=role)
        client = Client()
        client.force_login(user)
        return client

    return make


def form(project, /, **change):
    return {
        "project": str(project.pk),
        "name": "From the admin",
        "kind": "live",
        "scopes": ["connections:read", "metrics:read"],
        "allowed_networks": "203.0.113.0/24\r\n2001:db8::/32",
        "expires_at_0": "",
        "expires_at_1": "",
        "request_id": str(uuid.uuid4()),
    } | change


def key_on(response) -> str:
    [found] = set(re.findall(tokens.SCANNER_PATTERN, response.content.decode()))
    return found


# -- new keys -------------------------------------------------------------------------------------


def test_a_new_key_is_on_the_page_that_answers_and_on_no_other(root, project) -> None:
    response = root.post(ADD, form(project))
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    plaintext = key_on(response)
    key = ApiKey.objects.get()
    assert key.key_hash == sha256_hex(plaintext)
    assert key.scopes == ["connections:read", "metrics:read"]
    assert key.allowed_networks == ["203.0.113.0/24", "2001:db8::/32"]
    assert key.created_by.username == "root"
    secret = plaintext[len(key.key_prefix) :]
    for url in (LIST, f"{LIST}{key.pk}/change/", f"{LIST}{key.pk}/history/", "/admin/"):
        page = root.get(url)
        assert page.status_code == 200
        assert secret not in page.content.decode()
        assert key.key_hash not in page.content.decode()
    assert secret not in str(LogEntry.objects.values())
    assert secret not in str(ApiKeyEvent.objects.values())
    assert secret not in str(dict(root.session.items()))


def test_the_new_key_works(root, project, bearer) -> None:
    change = {"scopes": ["projects:read"], "allowed_networks": ""}
    plaintext = key_on(root.post(ADD, form(project, **change)))
    assert bearer(plaintext).get(f"/api/v1/projects/{project.pk}/").status_code == 200


def test_a_reload_shows_nothing_and_creates_nothing(root, project) -> None:
    sent = form(project)
    root.post(ADD, sent)
    again = root.post(ADD, sent, follow=True)
    assert ApiKey.objects.count() == 1
    assert again.redirect_chain == [(LIST, 302)]
    assert "It is not shown again" in again.content.decode()
    assert not re.search(tokens.SCANNER_PATTERN, again.content.decode())


def test_each_form_has_an_id_of_its_own(root) -> None:
    ids = {
        re.search(r'name="request_id" value="([^"]+)"', root.get(ADD).content.decode())[1]
        for _ in range(2)
    }
    assert len(ids) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"name": " "},
        {"name": tokens.generate().plaintext},
        {"scopes": []},
        {"scopes": ["*"]},
        {"kind": "prod"},
        {"allowed_networks": "203.0.113.1/24"},
        {"expires_at_0": "2020-01-01", "expires_at_1": "00:00"},
        {"request_id": "x"},
        {"project": "x"},
    ],
)
def test_what_is_not_valid_comes_back_with_an_error(root, project, change) -> None:
    response = root.post(ADD, form(project, **change))
    assert response.status_code == 200
    assert "errornote" in response.content.decode()
    assert not ApiKey.objects.exists()


def test_the_maximum_lifetime_holds(root, project, settings) -> None:
    settings.API_KEYS_MAXIMUM_LIFETIME = timedelta(days=1)
    late = {"expires_at_0": "2099-01-01", "expires_at_1": "00:00"}
    assert "at most 1 day." in root.post(ADD, form(project, **late)).content.decode()
    root.post(ADD, form(project))
    assert ApiKey.objects.get().expires_at is not None


# -- what comes after -----------------------------------------------------------------------------


def test_only_the_name_can_be_changed(root, key) -> None:
    url = f"{LIST}{key.pk}/change/"
    before = ApiKey.objects.values().get()
    sent = form(key.project) | {"name": "Renamed", "key_hash": "0" * 64, "last_used_at_0": ""}
    assert root.post(url, sent).status_code == 302
    assert ApiKey.objects.values().get() == before | {"name": "Renamed"}
    assert ApiKeyEvent.objects.filter(kind="renamed").count() == 1


def test_rotating_shows_the_successor_once(root, key, bearer) -> None:
    url = f"{LIST}{key.pk}/rotate/"
    assert url in root.get(f"{LIST}{key.pk}/change/").content.decode()
    assert root.get(url).status_code == 200
    response = root.post(url, {"overlap_hours": 1})
    assert "no-store" in response["Cache-Control"]
    assert bearer(key_on(response)).get("/api/v1/projects/").status_code == 200
    again = root.post(url, {"overlap_hours": 1}, follow=True)
    assert "has a successor already" in again.content.decode()
    assert not re.search(tokens.SCANNER_PATTERN, again.content.decode())
    assert ApiKey.objects.count() == 2


@pytest.mark.parametrize("overlap", ["", "-1", "169", "x"])
def test_an_overlap_that_is_not_valid_comes_back(root, key, overlap: str) -> None:
    response = root.post(f"{LIST}{key.pk}/rotate/", {"overlap_hours": overlap})
    assert "errorlist" in response.content.decode()
    assert ApiKey.objects.count() == 1


def test_selected_keys_are_revoked(root, key) -> None:
    other = ApiKeyFactory()
    root.post(LIST, {"action": "revoke_selected", "_selected_action": [str(key.pk)]})
    assert [ApiKey.objects.get(pk=one.pk).status for one in (key, other)] == ["revoked", "active"]


@pytest.mark.parametrize("way", ["page", "list"])
def test_a_deleted_key_is_kept_for_the_record(root, key, way: str) -> None:
    if way == "page":
        root.post(f"{LIST}{key.pk}/delete/", {"post": "yes"})
    else:
        sent = {"action": "delete_selected", "_selected_action": [str(key.pk)], "post": "yes"}
        root.post(LIST, sent)
    key.refresh_from_db()
    assert key.deleted_at is not None
    assert key.status == "revoked"
    root.get(LIST)  # shows the message about it
    assert key.key_prefix not in root.get(LIST).content.decode()
    assert root.get(f"{LIST}{key.pk}/change/").status_code == 404


# -- who may --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "sees", "may"),
    [(None, 404, 404), (Role.MEMBER, 200, 403), (Role.ADMIN, 200, 200)],
)
def test_the_role_in_the_project_decides(staff, key, project, role, sees: int, may: int) -> None:
    client = staff(role)
    assert client.get(f"{LIST}{key.pk}/change/").status_code == sees
    assert client.get(f"{LIST}{key.pk}/rotate/").status_code == may
    client.post(LIST, {"action": "revoke_selected", "_selected_action": [str(key.pk)]})
    client.post(ADD, form(project))
    key.refresh_from_db()
    assert (key.status == "revoked") is (role is Role.ADMIN)
    assert ApiKey.objects.exclude(pk=key.pk).exists() is (role is Role.ADMIN)


def test_staff_sees_the_events_of_its_projects(staff, project) -> None:
    ApiKeyFactory(project=project, name="ours")
    foreign = ApiKeyFactory(project=ProjectFactory())
    page = staff(Role.ADMIN).get("/admin/apikeys/apikeyevent/").content.decode()
    assert str(project.pk) in page
    assert foreign.key_prefix not in page


def test_the_record_is_read_only(root, key) -> None:
    event = ApiKeyEvent.objects.get()
    assert root.get("/admin/apikeys/apikeyevent/add/").status_code == 403
    assert root.post(f"/admin/apikeys/apikeyevent/{event.pk}/delete/").status_code == 403
    assert root.get(f"/admin/apikeys/apikeyevent/{event.pk}/change/").status_code == 200


def test_a_project_with_keys_can_be_deleted(root, key) -> None:
    key.revoke(by=OPERATOR)
    root.post(f"/admin/projects/project/{key.project_id}/delete/", {"post": "yes"})
    assert not ApiKey.objects.exists()
    kinds = ApiKeyEvent.objects.order_by("pk").values_list("kind", flat=True)
    assert list(kinds) == ["created", "revoked", "deleted"]


def test_a_hash_is_not_guessed_by_a_filter(root, key) -> None:
    assert root.get(LIST, {"key_prefix": key.key_prefix}).status_code == 200
    for lookup in ("key_hash", "key_hash__startswith"):
        assert root.get(LIST, {lookup: key.key_hash[:64]}).status_code == 400


# -- AI keys --------------------------------------------------------------------------------------

AI_LIST = "/admin/apikeys/aikey/"
SECRET = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"


def test_no_page_shows_an_ai_key_to_anyone(root) -> None:
    mine = AIKeyFactory(user__username="mine", api_key=SECRET)
    own = AIKeyFactory(api_key=SECRET, user_id=int(root.session["_auth_user_id"]), user=None)
    for url in (
        AI_LIST,
        f"{AI_LIST}{mine.pk}/change/",
        f"{AI_LIST}{own.pk}/change/",
        f"{AI_LIST}{mine.pk}/history/",
        f"{AI_LIST}{mine.pk}/delete/",
        f"/admin/auth/user/{mine.user_id}/delete/",
    ):
        page = root.get(url)
        assert page.status_code == 200, url
        assert SECRET not in page.content.decode()
        assert SECRET[-10:] not in page.content.decode()
        assert "v2:" not in page.content.decode()


@pytest.mark.parametrize("lookup", ["api_key", "api_key__in", "api_key_index__startswith"])
def test_nobody_guesses_anothers(staff, lookup: str) -> None:
    key = AIKeyFactory(api_key=SECRET)
    client = staff(None)
    for guess in (SECRET, "sk-proj-another", key.api_key_index):
        for more in ({}, {"user": key.user_id}):
            assert client.get(AI_LIST, {lookup: guess, **more}).status_code == 400


def test_one_sets_and_keeps_and_replaces_ones_own(root) -> None:
    assert root.post(f"{AI_LIST}add/", {"provider": "openai", "api_key": SECRET}).status_code == 302
    key = AIKey.objects.get()
    assert (key.user.username, key.api_key) == ("root", SECRET)
    url = f"{AI_LIST}{key.pk}/change/"
    assert root.post(url, {"api_key": ""}).status_code == 302
    assert AIKey.objects.get().api_key == SECRET
    root.post(url, {"api_key": f"{SECRET}2"})
    assert AIKey.objects.get().api_key == f"{SECRET}2"


def test_one_that_is_set_is_not_set_again(root) -> None:
    root.post(f"{AI_LIST}add/", {"provider": "openai", "api_key": SECRET})
    response = root.post(f"{AI_LIST}add/", {"provider": "openai", "api_key": f"{SECRET}2"})
    assert "errornote" in response.content.decode()
    assert SECRET not in response.content.decode()
    assert AIKey.objects.get().api_key == SECRET


def test_a_doubt_is_a_warning(root) -> None:
    page = root.post(f"{AI_LIST}add/", {"provider": "openai", "api_key": "x" * 40}, follow=True)
    assert "usually begin with sk-" in page.content.decode()
    assert AIKey.objects.get().api_key == "x" * 40


def test_a_key_to_this_api_is_refused(root) -> None:
    sent = {"provider": "openai", "api_key": tokens.generate().plaintext}
    response = root.post(f"{AI_LIST}add/", sent)
    assert "errornote" in response.content.decode()
    assert sent["api_key"] not in response.content.decode()
    assert not AIKey.objects.exists()


def test_nobody_replaces_anothers(root) -> None:
    other = AIKeyFactory()
    before = other.api_key
    root.post(f"{AI_LIST}{other.pk}/change/", {"api_key": "sk-chosen-by-somebody-else"})
    assert AIKey.objects.get().api_key == before
    assert root.post(f"{AI_LIST}{other.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not AIKey.objects.exists()
