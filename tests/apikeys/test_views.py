from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from apikeys import tokens
from apikeys.models import ApiKey, ApiKeyEvent
from encryption import sha256_hex
from projects.models import Membership
from projects.roles import Role

from .factories import CALLS, OPERATOR, ApiKeyFactory

pytestmark = pytest.mark.django_db

NEW = {"name": "Nightly report", "scopes": ["connections:read", "metrics:read"]}


@pytest.fixture
def url(project) -> str:
    return f"/api/v1/projects/{project.pk}/api-keys/"


def codes(response) -> dict[str | None, str]:
    assert response.status_code == 400, response.json()
    return {error["attr"]: error["code"] for error in response.json()["errors"]}


# -- creation -------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_stored_as_a_hash(owner, url, project) -> None:
    response = owner.post(url, NEW)
    assert response.status_code == 201
    assert response["Cache-Control"] == "no-store"
    shown = response.json()
    assert tokens.is_valid(shown["key"])
    assert shown["key"].startswith(shown["key_prefix"])
    key = ApiKey.objects.get()
    assert key.key_hash == sha256_hex(shown["key"])
    assert key.created_by == project.owner

    secret = shown["key"][len(shown["key_prefix"]) :]
    for later in (owner.get(url), owner.get(f"{url}{shown['id']}/")):
        assert later.status_code == 200
        assert secret not in later.content.decode()
        assert key.key_hash not in later.content.decode()
        assert '"key"' not in later.content.decode()


def test_the_reply_tells_what_was_created(owner, url, project) -> None:
    expires_at = timezone.now() + timedelta(days=30)
    shown = owner.post(
        url,
        NEW
        | {
            "kind": "test",
            "allowed_networks": ["203.0.113.0/24", "2001:DB8::/32", "192.0.2.1"],
            "expires_at": expires_at.isoformat(),
        },
    ).json()
    assert shown["kind"] == "test"
    assert shown["key"].startswith("pp_test_")
    assert shown["name"] == "Nightly report"
    assert shown["scopes"] == ["connections:read", "metrics:read"]
    assert shown["allowed_networks"] == ["203.0.113.0/24", "2001:db8::/32", "192.0.2.1/32"]
    assert datetime.fromisoformat(shown["expires_at"]) == expires_at
    assert shown["status"] == "active"
    assert shown["created_by"] == project.owner.username
    assert [shown[name] for name in ("revoked_at", "last_used_at", "replaces", "successor")] == [
        None
    ] * 4


def test_the_new_key_works(owner, url, project, bearer) -> None:
    key = owner.post(url, NEW | {"scopes": ["projects:read"]}).json()["key"]
    assert bearer(key).get(f"/api/v1/projects/{project.pk}/").status_code == 200


@pytest.mark.parametrize(
    ("change", "attr", "code"),
    [
        ({"name": ""}, "name", "blank"),
        ({"name": "   "}, "name", "blank"),
        ({"name": "a" * 101}, "name", "max_length"),
        ({"name": "two\nlines"}, "name", "unprintable"),
        ({"name": tokens.generate().plaintext}, "name", "api_key"),
        ({"name": None}, "name", "null"),
        ({"scopes": []}, "scopes", "min_length"),
        ({"scopes": ["*"]}, "scopes.0", "invalid_choice"),
        ({"scopes": ["connections:*"]}, "scopes.0", "invalid_choice"),
        ({"scopes": ["connections:read", "everything"]}, "scopes.1", "invalid_choice"),
        ({"scopes": "connections:read"}, "scopes", "not_a_list"),
        ({"scopes": [["connections:read"]]}, "scopes.0", "invalid_choice"),
        ({"scopes": None}, "scopes", "null"),
        ({"kind": "prod"}, "kind", "invalid_choice"),
        ({"expires_at": "2099-01-01T00:00:00"}, "expires_at", "naive"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at", "past"),
        ({"expires_at": "soon"}, "expires_at", "invalid"),
        ({"expires_at": 4102444800}, "expires_at", "invalid"),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at", "overflow"),
        ({"allowed_networks": ["203.0.113.1/24"]}, "allowed_networks", "invalid_network"),
        ({"allowed_networks": ["2001:db8::1/32"]}, "allowed_networks", "invalid_network"),
        ({"allowed_networks": ["::ffff:203.0.113.0/120"]}, "allowed_networks", "invalid_network"),
        ({"allowed_networks": ["fe80::1%eth0"]}, "allowed_networks", "invalid_network"),
        ({"allowed_networks": ["010.0.0.1"]}, "allowed_networks", "invalid_network"),
        ({"allowed_networks": ["everywhere"]}, "allowed_networks", "invalid_network"),
        ({"allowed_networks": ["10.0.0.0/33"]}, "allowed_networks", "invalid_network"),
        ({"allowed_networks": [5]}, "allowed_networks", "invalid_network"),
        ({"allowed_networks": None}, "allowed_networks", "null"),
        (
            {"allowed_networks": [f"10.0.0.{n}" for n in range(51)]},
            "allowed_networks",
            "max_length",
        ),
        ({"is_admin": True}, None, "unknown_field"),
        ({"key": "chosen"}, None, "unknown_field"),
        ({"key_hash": "0" * 64}, None, "unknown_field"),
        ({"id": "00000000-0000-0000-0000-000000000000"}, None, "unknown_field"),
        ({"project": "00000000-0000-0000-0000-000000000000"}, None, "unknown_field"),
        ({"created_at": "2020-01-01T00:00:00Z"}, None, "unknown_field"),
        ({"last_used_at": None}, None, "unknown_field"),
    ],
)
def test_what_is_not_valid_is_400_and_creates_nothing(owner, url, change, attr, code) -> None:
    found = codes(owner.post(url, NEW | change))
    assert found in ({attr: code}, {attr or "non_field_errors": code})
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("missing", ["name", "scopes"])
def test_what_is_missing_is_400(owner, url, missing: str) -> None:
    body = {name: value for name, value in NEW.items() if name != missing}
    assert codes(owner.post(url, body)) == {missing: "required"}


def test_no_reply_repeats_what_was_sent(owner, url) -> None:
    for field in ("name", "kind", "scopes", "allowed_networks", "expires_at"):
        value = "hunter2-\nhunter2"
        sent = [value] if field in {"scopes", "allowed_networks"} else value
        response = owner.post(url, NEW | {field: sent})
        assert response.status_code == 400
        assert "hunter2" not in response.content.decode()


# -- the maximum lifetime -------------------------------------------------------------------------


@pytest.fixture
def at_most_90_days(settings) -> timedelta:
    settings.API_KEYS_MAXIMUM_LIFETIME = timedelta(days=90)
    return timedelta(days=90)


def test_without_a_maximum_a_key_need_not_expire(owner, url) -> None:
    assert owner.post(url, NEW).json()["expires_at"] is None
    assert owner.post(url, NEW | {"expires_at": None}).json()["expires_at"] is None


def test_the_maximum_holds_where_nothing_is_said(owner, url, at_most_90_days) -> None:
    before = timezone.now()
    expires_at = datetime.fromisoformat(owner.post(url, NEW).json()["expires_at"])
    assert before + at_most_90_days <= expires_at <= timezone.now() + at_most_90_days


@pytest.mark.parametrize(("days", "status"), [(89, 201), (90, 400)])
def test_nothing_lives_longer_than_the_maximum(
    owner, url, at_most_90_days, days: int, status: int
) -> None:
    expires_at = timezone.now() + timedelta(days=days, minutes=1)
    response = owner.post(url, NEW | {"expires_at": expires_at.isoformat()})
    assert response.status_code == status
    if status == 400:
        assert codes(response) == {"expires_at": "over_maximum_lifetime"}


def test_never_is_longer_than_the_maximum(owner, url, at_most_90_days) -> None:
    assert codes(owner.post(url, NEW | {"expires_at": None})) == {"expires_at": "expiry_required"}


# -- the list -------------------------------------------------------------------------------------


def test_the_list_has_the_projects_keys_newest_first(owner, url, project) -> None:
    ApiKeyFactory()
    keys = [ApiKeyFactory(project=project) for _ in range(3)]
    keys[0].revoke(by=OPERATOR)
    keys[1].remove(by=OPERATOR)
    found = owner.get(url).json()["results"]
    assert [one["id"] for one in found] == [str(keys[2].pk), str(keys[0].pk)]
    assert [one["status"] for one in found] == ["active", "revoked"]


def test_the_list_costs_the_same_for_any_number_of_keys(owner, url, project) -> None:
    ApiKeyFactory(project=project)
    with CaptureQueriesContext(connection) as one:
        owner.get(url)
    for _ in range(5):
        ApiKeyFactory(project=project).rotate(timedelta(days=1), by=OPERATOR)
    with CaptureQueriesContext(connection) as many:
        assert len(owner.get(url).json()["results"]) == 11
    assert len(many) == len(one)


# -- changes --------------------------------------------------------------------------------------


def test_a_key_is_renamed_and_that_is_all(owner, url, key) -> None:
    response = owner.patch(f"{url}{key.pk}/", {"name": " Weekly report "})
    assert response.status_code == 200
    assert response.json()["name"] == "Weekly report"
    for body in ({"scopes": ["connections:write"]}, {"expires_at": None}, {"allowed_networks": []}):
        assert codes(owner.patch(f"{url}{key.pk}/", body | {"name": "x"}))
    key.refresh_from_db()
    assert (key.name, key.scopes) == ("Weekly report", ["projects:read"])


def test_there_is_no_put(owner, url, key) -> None:
    assert owner.put(f"{url}{key.pk}/", NEW).status_code == 405


def test_revoking_is_idempotent(owner, url, key) -> None:
    first = owner.post(f"{url}{key.pk}/revoke/")
    again = owner.post(f"{url}{key.pk}/revoke/")
    assert first.status_code == again.status_code == 200
    assert first.json()["status"] == "revoked"
    assert first.json()["revoked_at"] == again.json()["revoked_at"]
    assert ApiKeyEvent.objects.filter(kind="revoked").count() == 1


def test_revoking_takes_no_fields(owner, url, key) -> None:
    assert codes(owner.post(f"{url}{key.pk}/revoke/", {"reason": "x"}))
    key.refresh_from_db()
    assert key.revoked_at is None


def test_a_deleted_key_is_gone_but_for_the_record(owner, url, key) -> None:
    assert owner.delete(f"{url}{key.pk}/").status_code == 204
    assert owner.get(f"{url}{key.pk}/").status_code == 404
    assert owner.delete(f"{url}{key.pk}/").status_code == 404
    key.refresh_from_db()
    assert key.deleted_at is not None
    assert key.revoked_at is not None


def test_a_rotated_key_is_replaced_and_stays_for_the_overlap(owner, url, key, bearer) -> None:
    before = timezone.now()
    response = owner.post(f"{url}{key.pk}/rotate/", {"overlap_hours": 48})
    assert response.status_code == 201
    assert response["Cache-Control"] == "no-store"
    successor = response.json()
    assert tokens.is_valid(successor["key"])
    assert successor["replaces"] == str(key.pk)
    assert (successor["name"], successor["scopes"]) == (key.name, key.scopes)
    old = owner.get(f"{url}{key.pk}/").json()
    assert old["successor"] == successor["id"]
    assert old["status"] == "active"
    expires_at = datetime.fromisoformat(old["expires_at"])
    assert before <= expires_at - timedelta(hours=48) <= timezone.now()
    for text in (successor["key"], key.issued_token.plaintext):
        assert bearer(text).get("/api/v1/projects/").status_code == 200


def test_without_overlap_the_old_key_ends_at_once(owner, url, key, bearer) -> None:
    new = owner.post(f"{url}{key.pk}/rotate/", {"overlap_hours": 0}).json()["key"]
    assert bearer(key.issued_token.plaintext).get("/api/v1/projects/").status_code == 401
    assert bearer(new).get("/api/v1/projects/").status_code == 200


@pytest.mark.parametrize("overlap", [-1, 169, 1.5, "soon", None, True])
def test_an_overlap_is_0_to_7_days(owner, url, key, overlap) -> None:
    assert list(codes(owner.post(f"{url}{key.pk}/rotate/", {"overlap_hours": overlap}))) == [
        "overlap_hours"
    ]
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize(
    ("state", "code"), [("rotated", "api_key_rotated"), ("revoked", "api_key_revoked")]
)
def test_what_has_ended_is_not_rotated(owner, url, key, state: str, code: str) -> None:
    if state == "rotated":
        owner.post(f"{url}{key.pk}/rotate/", {"overlap_hours": 1})
    else:
        key.revoke(by=OPERATOR)
    count = ApiKey.objects.count()
    response = owner.post(f"{url}{key.pk}/rotate/")
    assert response.status_code == 409
    assert response.json()["errors"][0]["code"] == code
    assert ApiKey.objects.count() == count


# -- who may --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    ("role", "status"),
    [(None, 404), (Role.VIEWER, 403), (Role.MEMBER, 403)],
)
def test_keys_are_for_admins(url, key, user, project, method, path, role, status) -> None:
    if role is not None:
        Membership.objects.create(project=project, user=user, role=role)
    client = APIClient()
    client.force_login(user)
    assert getattr(client, method)(url + path.format(key=key.pk), NEW).status_code == status
    assert ApiKey.objects.get().status == "active"


def test_an_admin_may(url, user, project) -> None:
    Membership.objects.create(project=project, user=user, role=Role.ADMIN)
    client = APIClient()
    client.force_login(user)
    assert client.post(url, NEW).status_code == 201


@pytest.mark.parametrize(("method", "path"), [call for call in CALLS if "{key}" in call[1]])
def test_another_projects_key_is_404(owner, url, method, path) -> None:
    foreign = ApiKeyFactory()
    response = getattr(owner, method)(url + path.format(key=foreign.pk), {"name": "mine"})
    assert response.status_code == 404
    foreign.refresh_from_db()
    assert foreign.status == "active"


def test_nobody_who_is_not_logged_in(client, url) -> None:
    assert client.get(url).status_code == 401


# -- the record -----------------------------------------------------------------------------------


def test_every_change_is_recorded_and_no_secret_with_it(owner, url, project) -> None:
    new = owner.post(url, NEW).json()
    owner.patch(f"{url}{new['id']}/", {"name": "Renamed"})
    successor = owner.post(f"{url}{new['id']}/rotate/", {"overlap_hours": 2}).json()
    owner.post(f"{url}{new['id']}/revoke/")
    owner.delete(f"{url}{new['id']}/")
    events = list(ApiKeyEvent.objects.order_by("pk"))
    assert [(event.kind, str(event.api_key_id)) for event in events] == [
        ("created", new["id"]),
        ("renamed", new["id"]),
        ("created", successor["id"]),
        ("rotated", new["id"]),
        ("revoked", new["id"]),
        ("deleted", new["id"]),
    ]
    assert {event.actor for event in events} == {f"user:{project.owner.pk}"}
    assert {event.project_id for event in events} == {project.pk}
    assert events[0].details == {
        "name": "Nightly report",
        "scopes": ["connections:read", "metrics:read"],
        "allowed_networks": [],
        "expires_at": None,
    }
    assert events[1].details == {"from": "Nightly report", "to": "Renamed"}
    assert events[3].details == {"successor": successor["id"], "overlap_seconds": 7200}
    for event in events:
        kept = f"{event.__dict__}"
        for shown in (new, successor):
            assert shown["key"][21:] not in kept
            assert sha256_hex(shown["key"]) not in kept


def test_the_utc_offset_of_an_expiry_counts(owner, url) -> None:
    shown = owner.post(url, NEW | {"expires_at": "2099-01-01T02:00:00+02:00"}).json()
    assert datetime.fromisoformat(shown["expires_at"]) == datetime(2099, 1, 1, tzinfo=UTC)


def test_an_imported_key_is_listed_as_one(owner, url, key) -> None:
    ApiKey.objects.update(key_prefix="their-own")
    [found] = owner.get(url).json()["results"]
    assert (found["kind"], found["key_prefix"]) == ("imported", "their-own")
