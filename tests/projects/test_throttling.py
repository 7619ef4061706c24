"""What is refused counts as well: on every route of the API, so on new ones too."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from rest_framework.settings import api_settings
from rest_framework.test import APIClient

from apikeys.models import Actor, ApiKey
from apikeys.tokens import generate
from connections.conf import get_settings
from projects.roles import Role
from tests.connections.factories import ConnectionFactory
from tests.projects.factories import ProjectFactory, member
from tests.routes import routes

pytestmark = pytest.mark.django_db

UNKNOWN = "00000000-0000-4000-8000-000000000000"
PLACES = {"<uuid:": UNKNOWN, "<int:": "1", "<slug:": "openai"}

#: Every address of the API; the last route stands for all that is none.
ADDRESSES = [
    "/" + re.sub(r"(<\w+:)\w+>", lambda place: PLACES[place[1]], route)
    for route in routes()
    if route.startswith("api/v1/") and route != "api/v1/"
]

Limit = Callable[..., None]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Limit:
    """Set how many requests in an hour are answered."""

    def limit(*, anonymous: int | None = None, user: int | None = None, key: int = 1000) -> None:
        for scope, number in (("anon", anonymous), ("user", user)):
            rate = None if number is None else f"{number}/hour"
            monkeypatch.setitem(api_settings.DEFAULT_THROTTLE_RATES, scope, rate)
        settings.API_KEYS_THROTTLE_RATE = f"{key}/hour"

    return limit


def with_key(text: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    return client


def statuses(client: APIClient, address: str, method: str = "get", number: int = 4) -> list[int]:
    return [getattr(client, method)(address).status_code for _ in range(number)]


def test_there_are_addresses() -> None:
    assert len(ADDRESSES) >= 15


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_unknown_key_is_tried_only_so_often(address: str, limit: Limit) -> None:
    limit(anonymous=3)
    assert statuses(with_key(generate("live").plaintext), address) == [401, 401, 401, 429]


def test_tries_count_by_address_and_not_by_key_or_endpoint(limit: Limit) -> None:
    limit(anonymous=3)
    project = ProjectFactory()
    answers = [
        with_key(generate("live").plaintext).get(address)
        for address in ("/api/v1/projects/", "/api/v1/schema/", "/api/v1/docs/")
    ]
    assert [answer.status_code for answer in answers] == [401] * 3
    refused = with_key("no key").get("/api/v1/projects/")
    assert refused.status_code == 429
    assert 3500 < int(refused["Retry-After"]) <= 3600
    assert refused.json()["type"] == "client_error"
    assert refused.json()["errors"][0]["code"] == "throttled"
    elsewhere = with_key("no key").get("/api/v1/projects/", REMOTE_ADDR="192.0.2.1")
    assert elsewhere.status_code == 401
    # Who has a key is not held up by a neighbour who has none.
    _key, token = ApiKey.objects.issue(
        project=project, name="key", scopes=["projects:read"], by=Actor("user:0")
    )
    assert with_key(token.plaintext).get("/api/v1/projects/").status_code == 200


def test_requests_without_a_log_in_count(limit: Limit) -> None:
    limit(anonymous=3)
    assert statuses(APIClient(), "/api/v1/projects/") == [401, 401, 401, 429]


def test_a_session_without_its_csrf_token_counts(limit: Limit) -> None:
    limit(anonymous=3)
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(ProjectFactory().owner)
    assert statuses(client, "/api/v1/projects/", "post") == [403, 403, 403, 429]


def test_what_a_key_may_not_do_counts_for_the_key(limit: Limit) -> None:
    limit(key=3, anonymous=1)
    project = ProjectFactory()
    _key, token = ApiKey.objects.issue(
        project=project, name="key", scopes=["projects:read"], by=Actor("user:0")
    )
    client, address = with_key(token.plaintext), f"/api/v1/projects/{project.pk}/"
    assert statuses(client, address, "delete") == [403, 403, 403, 429]
    assert client.get(address).status_code == 429


def test_what_is_not_found_or_not_allowed_counts_for_a_person(limit: Limit) -> None:
    limit(user=3)
    client = APIClient()
    client.force_login(ProjectFactory().owner)
    assert statuses(client, f"/api/v1/projects/{UNKNOWN}/", number=2) == [404] * 2
    assert statuses(client, "/api/v1/projects/", "put", 2) == [405, 429]


def test_an_allowed_request_counts_once(limit: Limit) -> None:
    limit(user=3)
    client = APIClient()
    client.force_login(ProjectFactory().owner)
    assert statuses(client, "/api/v1/projects/") == [200, 200, 200, 429]


def test_who_may_not_use_a_connection_takes_no_use_from_others(settings: Any) -> None:
    settings.CONNECTIONS = {"TESTS_PER_MINUTE": 1}
    assert get_settings().tests_per_minute == 1
    connection = ConnectionFactory(service="fax")
    project = connection.project
    address = f"/api/v1/projects/{project.pk}/connections/{connection.pk}/test/"
    viewer, owner = APIClient(), APIClient()
    viewer.force_login(member(project, Role.VIEWER))
    owner.force_login(project.owner)
    assert statuses(APIClient(), address, "post", 2) == [401] * 2
    assert statuses(viewer, address, "post", 2) == [403] * 2
    assert statuses(owner, address, "post", 2) == [409, 429]


def test_the_document_tells_of_it() -> None:
    document = APIClient().get("/api/v1/schema/?format=json").json()
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert len(operations) >= 20
    assert all("429" in operation["responses"] for operation in operations)
