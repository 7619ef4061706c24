"""Each line of the table of what a request with a key, or something like it, is answered."""

from datetime import timedelta

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView

from apikeys import tokens
from apikeys.authentication import ApiKeyUser
from apikeys.scopes import Scope
from encryption import sha256_hex

from .factories import CALLS, OPERATOR, ApiKeyFactory, issued

pytestmark = pytest.mark.django_db


def url(project) -> str:
    return f"/api/v1/projects/{project.pk}/"


def error(response) -> dict[str, str | None]:
    assert list(response.json()) == ["type", "errors"]
    return response.json()["errors"][0]


VALID = tokens.generate().plaintext
WRONG_CHECKSUM = VALID[:-1] + ("1" if VALID[-1] == "0" else "0")

MALFORMED = {
    "no key": "Bearer",
    "only a space": "Bearer ",
    "two spaces": f"Bearer  {VALID}",
    "space after": f"Bearer {VALID} ",
    "tab after": f"Bearer {VALID}\t",
    "two keys": f"Bearer {VALID} {VALID}",
    "joined headers": f"Bearer {VALID},Bearer {VALID}",
    "wrong checksum": f"Bearer {WRONG_CHECKSUM}",
    "no checksum": f"Bearer {VALID[:-6]}",
    "513 bytes": f"Bearer {'a' * 513}",
    "a megabyte": f"Bearer {'a' * 1_000_000}",
    "Latin-1": "Bearer caf\xe9",
    "UTF-8 read as Latin-1": f"Bearer {'ключ'.encode().decode('latin-1')}",
    "beyond Latin-1": "Bearer ключ",
    "NUL": f"Bearer {VALID[:20]}\x00{VALID[21:]}",
    "another's form": "Bearer ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "a session's id": "Bearer 0123456789abcdef",
}
OTHER_SCHEMES = {
    "no scheme": VALID,
    "Token": f"Token {VALID}",
    "Basic": "Basic cHBfbGl2ZV86",
    "empty": "",
    "a space": " ",
    "space before": f" Bearer {VALID}",
    "only bytes": "\xff\xfe\x00",
}


@pytest.mark.parametrize("header", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_key_is_401_and_costs_no_query(client, header: str) -> None:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        response = client.get("/api/v1/projects/", HTTP_AUTHORIZATION=header)
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    assert error(response)["code"] == "api_key_malformed"
    assert len(queries) == 0


@pytest.mark.parametrize("header", OTHER_SCHEMES.values(), ids=OTHER_SCHEMES)
def test_another_scheme_is_401_and_costs_no_query(client, header: str) -> None:
    with CaptureQueriesContext(connection) as queries:
        response = client.get("/api/v1/projects/", HTTP_AUTHORIZATION=header)
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    assert len(queries) == 0


def test_nothing_is_401(client) -> None:
    response = client.get("/api/v1/projects/")
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"


def test_an_unknown_key_is_401_after_one_query(bearer) -> None:
    with CaptureQueriesContext(connection) as queries:
        response = bearer(VALID).get("/api/v1/projects/")
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    assert error(response)["code"] == "api_key_unknown"
    assert len(queries) == 1
    assert sha256_hex(VALID) in queries[0]["sql"]


def test_a_key_reaches_its_project(bearer, project) -> None:
    _key, token = issued(project=project)
    response = bearer(token.plaintext).get(url(project))
    assert response.status_code == 200
    assert response.json()["id"] == str(project.pk)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_of_any_case(client, project, scheme: str) -> None:
    _key, token = issued(project=project)
    response = client.get(url(project), HTTP_AUTHORIZATION=f"{scheme} {token.plaintext}")
    assert response.status_code == 200


def test_another_case_of_a_key_is_another_key(bearer, project) -> None:
    _key, token = issued(project=project)
    assert bearer(token.plaintext.swapcase()).get(url(project)).status_code == 401


def test_an_expired_key_is_401_with_a_code_of_its_own(bearer, project) -> None:
    key, token = issued(project=project)
    key.expires_at = timezone.now()
    key.save()
    response = bearer(token.plaintext).get(url(project))
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    assert error(response)["code"] == "api_key_expired"


def test_a_key_is_valid_until_it_expires(bearer, project) -> None:
    _key, token = issued(project=project, expires_at=timezone.now() + timedelta(minutes=1))
    assert bearer(token.plaintext).get(url(project)).status_code == 200


@pytest.mark.parametrize("end", ["revoke", "remove"])
def test_a_revoked_key_is_401_with_a_code_of_its_own(bearer, project, end: str) -> None:
    key, token = issued(project=project)
    getattr(key, end)(by=OPERATOR)
    response = bearer(token.plaintext).get(url(project))
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    assert error(response)["code"] == "api_key_revoked"


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("203.0.113.7", 200),
        ("::ffff:203.0.113.7", 200),
        ("2001:db8::1", 200),
        ("203.0.114.7", 401),
        ("2001:db9::1", 401),
        ("", 401),
        ("unknown", 401),
        ("203.0.113.7:1234", 401),
    ],
)
def test_a_key_with_networks_is_accepted_from_them_alone(
    bearer, project, address: str, status: int
) -> None:
    _key, token = issued(project=project, allowed_networks=["203.0.113.0/24", "2001:db8::/32"])
    response = bearer(token.plaintext).get(url(project), REMOTE_ADDR=address)
    assert response.status_code == status
    if status == 401:
        assert response["WWW-Authenticate"] == "Bearer"
        assert error(response)["code"] == "api_key_address"


@pytest.mark.parametrize(
    ("proxies", "forwarded", "status"),
    [
        (0, "203.0.113.7", 401),
        (None, "203.0.113.7", 401),
        (1, "203.0.113.7", 200),
        (1, "203.0.113.7, 192.0.2.1", 401),
        (1, "192.0.2.1, 203.0.113.7", 200),
        (2, "203.0.113.7, 192.0.2.1", 200),
        (2, "192.0.2.1, 203.0.113.7, 192.0.2.1", 200),
        (1, "", 401),
    ],
)
def test_only_trusted_proxies_say_who_the_client_is(
    bearer, project, settings, proxies, forwarded: str, status: int
) -> None:
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "NUM_PROXIES": proxies}
    _key, token = issued(project=project, allowed_networks=["203.0.113.0/24"])
    response = bearer(token.plaintext).get(
        url(project), REMOTE_ADDR="192.0.2.1", HTTP_X_FORWARDED_FOR=forwarded
    )
    assert response.status_code == status


def test_a_missing_scope_is_403_and_named(bearer, project) -> None:
    _key, token = issued(project=project, scopes=["metrics:read"])
    response = bearer(token.plaintext).get(url(project))
    assert response.status_code == 403
    assert error(response)["code"] == "scope_required"
    assert "projects:read" in (error(response)["detail"] or "")


def test_another_tenants_project_is_404(bearer, project) -> None:
    _key, token = issued()
    assert bearer(token.plaintext).get(url(project)).status_code == 404


def test_a_list_holds_the_keys_project_alone(bearer, project) -> None:
    _key, token = issued(project=project)
    ApiKeyFactory()
    found = bearer(token.plaintext).get("/api/v1/projects/").json()["results"]
    assert [one["id"] for one in found] == [str(project.pk)]


def test_a_key_over_its_limit_is_429_and_told_when_to_come_back(bearer, project, settings) -> None:
    settings.API_KEYS_THROTTLE_RATE = "3/min"
    (_one, first), (_two, second) = issued(project=project), issued(project=project)
    answers = [bearer(first.plaintext).get(url(project)) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 0 < int(answers[3]["Retry-After"]) <= 60
    assert bearer(second.plaintext).get(url(project)).status_code == 200


# -- in the wrong place ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "/api/v1/projects/?api_key={}",
        "/api/v1/projects/?a=b&{}",
        "/api/v1/projects/?x=%22{}%22",
        "/api/v1/projects/00000000-0000-0000-0000-000000000000/api-keys/?search={}",
        "/api/v1/me/ai-keys/{}/",
    ],
)
@pytest.mark.parametrize("how", ["anonymous", "session", "key"])
def test_a_key_in_the_address_is_400(
    client, owner, bearer, project, address: str, how: str
) -> None:
    _key, token = issued(project=project)
    sender = {"anonymous": client, "session": owner, "key": bearer(token.plaintext)}[how]
    response = sender.get(address.format(token.plaintext))
    assert response.status_code == 400
    assert error(response)["code"] == "api_key_in_url"
    assert token.plaintext not in response.content.decode()


def test_a_percent_encoded_key_in_the_address_is_400(client, project) -> None:
    _key, token = issued(project=project)
    hidden = "".join(f"%{ord(character):02x}" for character in token.plaintext)
    assert client.get(f"/api/v1/projects/?api_key={hidden}").status_code == 400


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ('{"a": ["%s"]}', "application/json"),
        ("access_token=%s", "application/x-www-form-urlencoded"),
        ("\xff %s", "application/octet-stream"),
    ],
)
def test_a_key_in_the_body_is_400(client, project, body: str, content_type: str) -> None:
    _key, token = issued(project=project)
    response = client.generic(
        "POST", "/api/v1/projects/", body % token.plaintext, content_type=content_type
    )
    assert response.status_code == 400
    assert error(response)["code"] == "api_key_in_body"
    assert token.plaintext not in response.content.decode()


def test_another_body_is_still_401(client) -> None:
    response = client.post("/api/v1/projects/", {"name": WRONG_CHECKSUM})
    assert response.status_code == 401


def test_a_body_that_was_searched_can_still_be_read(rf) -> None:
    class Echo(APIView):
        permission_classes = (AllowAny,)

        def post(self, request):
            return Response(request.data)

    response = Echo.as_view()(rf.post("/", {"name": "x"}, content_type="application/json"))
    assert response.data == {"name": "x"}


# -- what a key is --------------------------------------------------------------------------------


def test_the_sender_is_somebody_without_any_right(project) -> None:
    key, _token = issued(project=project)
    sender = ApiKeyUser(key)
    assert sender.is_authenticated
    assert sender.is_anonymous
    assert not sender.is_staff
    assert not sender.is_superuser
    assert not sender.is_active
    assert not sender.has_perm("projects.view_project")
    assert not sender.has_module_perms("projects")
    assert str(key.pk) in str(sender)


def test_a_key_opens_no_admin_page(bearer, project) -> None:
    _key, token = issued(project=project)
    response = bearer(token.plaintext).get("/admin/")
    assert response.status_code == 302
    assert response["Location"].startswith("/admin/login/")


def test_a_key_beside_a_session_counts_alone(owner, project) -> None:
    _key, token = issued()
    response = owner.get(url(project), HTTP_AUTHORIZATION=f"Bearer {token.plaintext}")
    assert response.status_code == 404


def test_a_bad_key_beside_a_session_is_401(owner, project) -> None:
    response = owner.get(url(project), HTTP_AUTHORIZATION=f"Bearer {WRONG_CHECKSUM}")
    assert response.status_code == 401


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_key_neither_mints_nor_widens_nor_sees_keys(
    bearer, project, method: str, path: str
) -> None:
    key, token = issued(project=project, scopes=Scope.values)
    response = getattr(bearer(token.plaintext), method)(
        f"/api/v1/projects/{project.pk}/api-keys/" + path.format(key=key.pk),
        {"name": "more", "scopes": Scope.values} if method in {"post", "patch"} else None,
    )
    assert response.status_code == 403
    assert error(response)["code"] == "person_required"
    assert type(key).objects.get() == key


@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_a_key_has_no_ai_keys(bearer, project, method: str) -> None:
    _key, token = issued(project=project)
    response = getattr(bearer(token.plaintext), method)("/api/v1/me/ai-keys/openai/")
    assert response.status_code == 403


# -- what it costs --------------------------------------------------------------------------------


def test_a_verified_request_costs_one_query_more_than_an_anonymous_one(rf, key) -> None:
    class Open(APIView):
        permission_classes = (AllowAny,)

        def get(self, request):
            return Response("open")

    def queries(**header: str) -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            assert Open.as_view()(rf.get("/", **header)).status_code == 200
        return [query["sql"].split()[0] for query in captured]

    header = {"HTTP_AUTHORIZATION": f"Bearer {key.issued_token.plaintext}"}
    with time_machine.travel(timezone.now(), tick=False):
        assert queries() == []
        assert queries(**header)[:1] == ["SELECT"]
        assert queries(**header) == ["SELECT"]


def test_the_one_query_is_answered_by_the_unique_index(key) -> None:
    query = type(key).objects.filter(key_hash=key.key_hash)
    plan = query.explain().lower()
    index = {"sqlite": "using index", "postgresql": "key_hash", "mysql": "key_hash"}
    if connection.vendor == "postgresql":  # which scans a table of one page anyway
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
        plan = query.explain().lower()
    assert index[connection.vendor] in plan


# -- imported keys --------------------------------------------------------------------------------


@pytest.fixture
def imported(project):
    key = ApiKeyFactory(project=project)
    key.key_hash, key.key_prefix = sha256_hex("their-own-form!"), "their-ow"
    key.save()
    return key


def test_an_imported_key_is_refused_without_a_query_by_default(bearer, project, imported) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert bearer("their-own-form!").get(url(project)).status_code == 401
    assert len(queries) == 0
    assert imported.kind == "imported"


def test_an_imported_key_is_accepted_where_the_settings_say_so(
    bearer, project, imported, settings
) -> None:
    settings.API_KEYS_ACCEPT_IMPORTED = True
    assert bearer("their-own-form!").get(url(project)).status_code == 200
    assert bearer("their-own-form?").get(url(project)).status_code == 401
    with CaptureQueriesContext(connection) as queries:
        assert bearer(WRONG_CHECKSUM).get(url(project)).status_code == 401
        assert bearer("a" * 513).get(url(project)).status_code == 401
    assert len(queries) == 0


def test_a_view_that_says_nothing_of_keys_is_closed_to_them(rf, key) -> None:
    class Careless(APIView):
        permission_classes = (IsAuthenticated,)

        def get(self, request):
            return Response("open")

    header = {"HTTP_AUTHORIZATION": f"Bearer {key.issued_token.plaintext}"}
    assert Careless.as_view()(rf.get("/", **header)).status_code == 403
