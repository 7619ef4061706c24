from base64 import b64encode

import pytest
from django.db import connection as database
from rest_framework.test import APIClient

from connections.models import Connection, CredentialEvent
from projects.roles import Role
from tests.connections.factories import CANARY, ConnectionFactory, poison
from tests.projects.factories import ProjectFactory, UserFactory, member

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory()


@pytest.fixture
def client(project):
    client = APIClient()
    client.force_authenticate(project.owner)
    return client


def url(project, connection=None, suffix=""):
    base = f"/api/v1/projects/{project.pk}/connections/"
    return base if connection is None else f"{base}{connection.pk}/{suffix}"


def codes(response):
    return {(error["attr"], error["code"]) for error in response.json()["errors"]}


def stored_text(connection):
    with database.cursor() as cursor:
        cursor.execute("SELECT credentials FROM connections_connection")
        return [row[0] for row in cursor.fetchall()]


def test_a_connection_is_created_and_its_secret_is_encrypted(client, project):
    response = client.post(
        url(project),
        {"service": "stripe", "name": "Payments", "credentials": {"api_key": f"rk_{CANARY}"}},
    )
    assert response.status_code == 201, response.content
    assert CANARY not in response.content.decode()
    assert response.json()["credential_fields"] == {"api_key": {"set": True}}
    assert response.json()["credentials_status"] == "ok"
    (token,) = stored_text(project)
    assert token.startswith("v2:")
    assert Connection.objects.get().credentials == {"api_key": f"rk_{CANARY}"}
    event = CredentialEvent.objects.get()
    assert (event.action, event.names, event.actor) == (
        "create",
        ["api_key"],
        f"user:{project.owner.pk}",
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {("service", "required"), ("name", "required")}),
        ({"service": CANARY, "name": "x"}, {("service", "unknown_service")}),
        ({"service": "stripe", "name": "x"}, {("credentials.api_key", "required")}),
        (
            {"service": "stripe", "name": "x", "credentials": {"api_key": None}},
            {("credentials.api_key", "required")},
        ),
        (
            {"service": "stripe", "name": "x", "credentials": {"api_key": ""}},
            {("credentials.api_key", "blank")},
        ),
        (
            {"service": "stripe", "name": "x", "credentials": {"api_key": "••••••••"}},
            {("credentials.api_key", "mask")},
        ),
        (
            {"service": "stripe", "name": "x", "credentials": {"api_key": "********cdef"}},
            {("credentials.api_key", "mask")},
        ),
        (
            {"service": "stripe", "name": "x", "credentials": {"api_key": {"set": True}}},
            {("credentials.api_key", "invalid")},
        ),
        (
            {"service": "stripe", "name": "x", "credentials": {"api_key": "a\nb"}},
            {("credentials.api_key", "invalid")},
        ),
        (
            {"service": "stripe", "name": "x", "credentials": {"api_key": "a\0b"}},
            {("credentials.api_key", "null_character")},
        ),
        (
            {"service": "stripe", "name": "x", "credentials": {"api_key": "a" * 70_000}},
            {("credentials.api_key", "too_long")},
        ),
        (
            {"service": "stripe", "name": "x", "credentials": {CANARY: "b"}},
            {("credentials", "unknown_field")},
        ),
        (
            {"service": "stripe", "name": "x", "credentials": {CANARY: 5}},
            {("credentials", "invalid")},
        ),
        (
            {"service": "stripe", "name": "x", "credentials": CANARY},
            {("credentials", "not_a_dict")},
        ),
        (
            {"service": "stripe", "name": "x", "config": {CANARY: "b"}},
            {("config", "unknown_field")},
        ),
        ({"service": "stripe", "name": "x", CANARY: 1}, {("non_field_errors", "unknown_field")}),
        ({"service": "stripe", "name": "x", "id": CANARY}, {("non_field_errors", "unknown_field")}),
        (
            {"service": "stripe", "name": "x", "status": "error"},
            {("status", "not_settable")},
        ),
        ({"service": "stripe", "name": f"rk_live_{CANARY}"}, {("name", "secret_in_name")}),
        (
            {
                "service": "prometheus",
                "name": "x",
                "config": {"base_url": f"https://user:{CANARY}@host.example"},
            },
            {("config.base_url", "secret_in_config")},
        ),
        *(
            (
                {"service": "prometheus", "name": "x", "config": {"base_url": f"http://{host}"}},
                {("config.base_url", "invalid")},
            )
            for host in ("\uff11\uff12\uff17.0.0.1:8601", "0177.0.0.1:8601", "xn--/")
        ),
        (
            {"service": "github", "name": "x", "config": {"owner": f"ghp_{CANARY}"}},
            {("config.owner", "secret_in_config")},
        ),
        ({"service": "github", "name": "x"}, {("config.owner", "required")}),
    ],
)
def test_bad_input_is_refused_and_never_repeated(client, project, body, expected):
    response = client.post(url(project), body)
    assert response.status_code == 400, response.content
    assert codes(response) >= expected
    assert "canary" not in response.content.decode()
    assert not Connection.objects.exists()


@pytest.mark.parametrize(
    "text",
    ['{"name": "a", "name": "b"}', '{"name": NaN}', '{"name": "\\ud800"}', "[1]", "{", "\udcff"],
)
def test_a_body_that_is_no_plain_json_object_is_refused(client, project, text):
    response = client.generic(
        "POST", url(project), text.encode(errors="surrogateescape"), "application/json"
    )
    assert response.status_code == 400


def test_a_list_tells_what_is_set_without_decrypting(client, project):
    ConnectionFactory(project=project, prometheus=True, credentials={"password": CANARY})
    poison(Connection.objects.get())
    (shown,) = client.get(url(project)).json()["results"]
    assert shown["credential_fields"] == {
        "username": {"set": False},
        "password": {"set": True},
        "bearer_token": {"set": False},
    }
    assert "credentials" not in shown


def test_patch_keeps_clears_and_replaces(client, project):
    connection = ConnectionFactory(project=project, prometheus=True)
    response = client.patch(
        url(project, connection),
        {"credentials": {"username": None, "bearer_token": "new"}, "name": "New"},
    )
    assert response.status_code == 200
    assert response.json()["credential_fields"] == {
        "username": {"set": False},
        "password": {"set": True},
        "bearer_token": {"set": True},
    }
    stored = Connection.objects.get()
    assert stored.credentials == {"password": f"pass-{CANARY}", "bearer_token": "new"}
    assert stored.name == "New"
    assert {(e.action, *e.names) for e in CredentialEvent.objects.all()} == {
        ("change", "bearer_token"),
        ("clear", "username"),
    }


def test_patch_of_a_name_does_not_touch_the_secret(client, project):
    connection = ConnectionFactory(project=project)
    before = stored_text(connection)
    assert client.patch(url(project, connection), {"name": "New"}).status_code == 200
    assert stored_text(connection) == before
    assert not CredentialEvent.objects.exists()


def test_put_is_not_offered(client, project):
    connection = ConnectionFactory(project=project)
    assert client.put(url(project, connection), {}).status_code == 405


@pytest.mark.parametrize("field", ["id", "service", "project", "credential_fields", "created_at"])
def test_what_cannot_be_written_is_refused(client, project, field):
    connection = ConnectionFactory(project=project)
    response = client.patch(url(project, connection), {field: "stripe"})
    assert response.status_code == 400


@pytest.mark.parametrize(
    "config",
    [
        {"base_url": "https://evil.example"},
        {"base_url": "http://prometheus.example"},
        {"base_url": "https://prometheus.example:8443"},
        {"base_url": "https://prometheus.example/other"},
    ],
)
def test_a_new_destination_needs_all_credentials_again(client, project, config):
    connection = ConnectionFactory(project=project, prometheus=True)
    address = url(project, connection)
    for credentials in ({}, {"username": "u"}, {"bearer_token": "t"}):
        response = client.patch(address, {"config": config, "credentials": credentials})
        assert response.status_code == 400
        assert codes(response) == {("credentials", "credentials_required_for_new_destination")}
    whole = {"username": "u", "password": None}
    response = client.patch(address, {"config": config, "credentials": whole})
    assert response.status_code == 200
    stored = Connection.objects.get()
    assert stored.config["base_url"] == config["base_url"]
    assert stored.credentials == {"username": "u"}


def test_removing_a_destination_is_a_new_destination(client, project):
    config = {"owner": "acme", "api_url": "https://github.example/api/v3"}
    connection = ConnectionFactory(project=project, github=True, config=config)
    response = client.patch(url(project, connection), {"config": {"api_url": None}})
    assert codes(response) == {("credentials", "credentials_required_for_new_destination")}


def test_other_configuration_changes_without_credentials(client, project):
    connection = ConnectionFactory(project=project, prometheus=True)
    response = client.patch(
        url(project, connection),
        {"config": {"queries": {"load": "node_load1"}, "base_url": "https://prometheus.example/"}},
    )
    assert response.status_code == 200
    assert Connection.objects.get().config == {
        "base_url": "https://prometheus.example",
        "queries": {"load": "node_load1"},
    }


def test_an_unreadable_row_is_told_and_mended(client, project):
    connection = ConnectionFactory(project=project)
    poison(connection)
    address = url(project, connection)
    assert client.get(url(project)).status_code == 200
    shown = client.get(address)
    assert shown.status_code == 200
    assert shown.json()["credentials_status"] == "undecryptable"
    for action in ("test/", "sync/"):
        response = client.post(address + action)
        assert response.status_code == 424
        assert codes(response) == {(None, "undecryptable")}
    assert client.patch(address, {"name": "Renamed"}).status_code == 200
    response = client.patch(address, {"credentials": {"api_key": "rk_new"}})
    assert response.status_code == 200
    assert response.json()["credentials_status"] == "ok"
    assert Connection.objects.get().credentials == {"api_key": "rk_new"}


def test_an_unreadable_row_with_several_credentials_is_replaced_as_a_whole(client, project):
    connection = ConnectionFactory(project=project, prometheus=True)
    poison(connection)
    address = url(project, connection)
    response = client.patch(address, {"config": {"base_url": "https://evil.example"}})
    assert codes(response) == {("credentials", "credentials_required_for_new_destination")}
    assert client.patch(address, {"credentials": {"bearer_token": "t"}}).status_code == 200
    assert Connection.objects.get().credentials == {"bearer_token": "t"}


def test_an_unreadable_row_is_deleted(client, project):
    connection = ConnectionFactory(project=project)
    poison(connection)
    assert client.delete(url(project, connection)).status_code == 204
    assert not Connection.objects.exists()
    event = CredentialEvent.objects.get()
    assert (event.action, event.connection_ref) == ("delete", connection.pk)


def test_an_unknown_service_stays_as_it_is(client, project):
    connection = ConnectionFactory(
        project=project, service="fax", config={"number": "1"}, credentials={"pin": CANARY}
    )
    address = url(project, connection)
    shown = client.get(address).json()
    assert (shown["supported"], shown["credential_fields"]) == (False, {})
    response = client.patch(address, {"config": {"number": "2"}, "credentials": {"pin": "x"}})
    assert codes(response) == {("config", "unsupported"), ("credentials", "unsupported")}
    assert client.patch(address, {"name": "Old", "status": "paused"}).status_code == 200
    for action in ("test/", "sync/"):
        response = client.post(address + action)
        assert response.status_code == 409
        assert codes(response) == {(None, "unsupported")}
    stored = Connection.objects.get()
    assert (stored.credentials, stored.config) == ({"pin": CANARY}, {"number": "1"})


def test_an_etag_guards_a_change(client, project):
    connection = ConnectionFactory(project=project)
    address = url(project, connection)
    etag = client.get(address)["ETag"]
    assert client.get(address, headers={"If-None-Match": etag}).status_code == 304
    assert client.patch(address, {"name": "A"}, headers={"If-Match": etag}).status_code == 200
    stale = client.patch(address, {"name": "B"}, headers={"If-Match": etag})
    assert stale.status_code == 412
    assert codes(stale) == {(None, "precondition_failed")}
    assert client.delete(address, headers={"If-Match": etag}).status_code == 412
    assert Connection.objects.get().name == "A"
    new = client.patch(address, {"name": "C"}, headers={"If-Match": "*"})["ETag"]
    assert client.delete(address, headers={"If-Match": new}).status_code == 204


def test_a_changed_secret_is_another_version(client, project):
    connection = ConnectionFactory(project=project)
    address = url(project, connection)
    etag = client.get(address)["ETag"]
    changed = client.patch(address, {"credentials": {"api_key": "rk_other"}})
    assert changed["ETag"] != etag


@pytest.mark.parametrize(
    ("role", "read", "write"),
    [(Role.ADMIN, 200, 200), (Role.MEMBER, 200, 200), (Role.VIEWER, 200, 403), (None, 404, 404)],
)
def test_roles(project, role, read, write):
    connection = ConnectionFactory(project=project, service="fax")
    client = APIClient()
    client.force_authenticate(member(project, role) if role else UserFactory())
    address = url(project, connection)
    assert client.get(url(project)).status_code == read
    assert client.get(address).status_code == read
    assert client.get(address + "metrics/").status_code == read
    assert client.patch(address, {"name": "x"}).status_code == write
    assert client.post(address + "sync/").status_code == (409 if write == 200 else write)
    assert client.delete(address).status_code == (204 if write == 200 else write)


def test_a_connection_of_another_project_is_not_found(client, project):
    other = ConnectionFactory()
    address = url(project, other)
    for method in ("get", "patch", "delete"):
        assert getattr(client, method)(address).status_code == 404
    for action in ("sync/", "test/"):
        assert client.post(address + action).status_code == 404
    assert client.get(address + "metrics/").status_code == 404


def test_anonymous_requests_are_refused(project):
    response = APIClient().get(url(project))
    assert response.status_code in {401, 403}


def test_filters(client, project):
    ConnectionFactory(project=project, name="Alpha", health_score=20)
    ConnectionFactory(project=project, github=True, name="Beta", status="paused")
    for query, expected in {
        "service=github": ["Beta"],
        "name=alp": ["Alpha"],
        "status=paused": ["Beta"],
        "health_below=50": ["Alpha"],
    }.items():
        results = client.get(f"{url(project)}?{query}").json()["results"]
        assert [one["name"] for one in results] == expected
    assert client.get(f"{url(project)}?status={CANARY}").status_code == 400


@pytest.mark.parametrize("name", ["status", "health_below", "synced_before"])
@pytest.mark.parametrize("value", ["", "%20"], ids=["empty", "blank"])
def test_a_filter_without_a_value_is_refused(client, project, name, value):
    """It would show all, as if nothing had been asked for."""
    response = client.get(f"{url(project)}?{name}={value}")
    assert response.status_code == 400
    assert (name, "blank") in codes(response)
    assert client.get(f"{url(project)}?name=").status_code == 200


@pytest.mark.parametrize("value", ["1.5", "1e3", "nan", "x"])
def test_a_health_score_is_a_whole_number(client, project, value):
    assert client.get(f"{url(project)}?health_below={value}").status_code == 400
    for extreme in (10**30, -(10**30)):
        assert client.get(f"{url(project)}?health_below={extreme}").status_code == 200


@pytest.mark.parametrize("name", ["start", "end"])
def test_a_limit_of_time_without_a_value_is_refused(client, project, name):
    connection = ConnectionFactory(project=project)
    response = client.get(f"{url(project, connection)}metrics/?{name}=")
    assert response.status_code == 400
    assert codes(response) == {(name, "blank")}


@pytest.mark.parametrize(
    "position",
    [
        "p=2026",
        "p=%00",
        "r=1&p=%27%3B+DROP+TABLE",
        "p=-1",
        "p=2026-01-01",
        "p=0001-01-01T00:00%2B14:00",
    ],
)
@pytest.mark.parametrize("suffix", ["", "metrics/"], ids=["connections", "metrics"])
def test_a_cursor_that_is_none_of_ours_is_400(client, project, position, suffix):
    connection = ConnectionFactory(project=project)
    base = url(project, connection, suffix) if suffix else url(project)
    cursor = b64encode(position.encode()).decode()
    response = client.get(base, {"cursor": cursor})
    assert response.status_code == 400
    assert codes(response) == {("cursor", "invalid")}
    assert position not in response.content.decode()


@pytest.mark.parametrize(
    "cursor", ["x", "é", "!", "bz14", "cj14", "YT0x", "MQ=="]
)  # o=x, r=x, a=1, 1
@pytest.mark.parametrize("where", ["", "{}/connections/", "{}/members/", "{}/api-keys/"])
def test_what_is_no_cursor_at_all_is_400(client, project, where, cursor):
    response = client.get(f"/api/v1/projects/{where.format(project.pk)}", {"cursor": cursor})
    assert response.status_code == 400
    assert codes(response) == {("cursor", "invalid")}


def test_pages_follow_each_other(client, project):
    made = ConnectionFactory.create_batch(5, project=project)
    seen, following = [], f"{url(project)}?page_size=2"
    while following:
        page = client.get(following).json()
        seen += [one["id"] for one in page["results"]]
        following = page["next"]
    assert seen == [str(one.pk) for one in reversed(made)]


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00%2B14:00"])
def test_a_time_beyond_all_times_is_refused(client, project, moment):
    connection = ConnectionFactory(project=project)
    for name, base in (
        ("synced_before", url(project)),
        ("start", url(project, connection, "metrics/")),
        ("end", url(project, connection, "metrics/")),
    ):
        response = client.get(f"{base}?{name}={moment}")
        assert response.status_code == 400
        assert codes(response) == {(name, "invalid")}


@pytest.mark.parametrize("end", ["test", "sync"])
def test_a_test_takes_nothing_from_the_request(client, project, end):
    """Neither another host for the stored credentials, nor other credentials."""
    connection = ConnectionFactory(project=project, prometheus=True)
    for body in ({"config": {"base_url": "https://evil.example"}}, {"credentials": {}}):
        response = client.post(url(project, connection, f"{end}/"), body)
        assert response.status_code == 400
        assert codes(response) == {("non_field_errors", "unknown_field")}
    assert not CredentialEvent.objects.exists()


@pytest.mark.parametrize("name", ["a\nb", "\u202egnp.exe", "\x1b[2J", "zero\u200bwidth"], ids=ascii)
def test_a_name_is_printable(client, project, name):
    connection = ConnectionFactory(project=project)
    response = client.patch(url(project, connection), {"name": name})
    assert response.status_code == 400
    assert codes(response) == {("name", "unprintable")}


@pytest.mark.parametrize("size", [3_000_000, 30_000_000])
def test_a_body_that_is_too_large_is_an_error_like_all_others(client, project, size):
    body = {"service": "stripe", "name": "x", "credentials": {"api_key": "x" * size}}
    response = client.post(url(project), body)
    assert response.status_code == 400
    assert codes(response) == {(None, "request_too_large")}
