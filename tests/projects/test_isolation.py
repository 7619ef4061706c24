"""What belongs to a project does not exist for anybody else: every route, so new ones too."""

import pytest
from rest_framework.test import APIClient

from apikeys.models import Actor, ApiKey
from apikeys.scopes import Scope
from connections.models import Connection
from projects.models import Membership, Project
from projects.roles import Role
from tests.connections.factories import ConnectionFactory
from tests.projects.factories import ProjectFactory, UserFactory, member
from tests.routes import routes

pytestmark = pytest.mark.django_db

METHODS = ("get", "head", "post", "put", "patch", "delete")
UNKNOWN = "00000000-0000-4000-8000-000000000000"

#: Every route with a project in it.
ROUTES = [f"/{route}" for route in routes() if "project_id" in route]


def api_key(project: Project) -> tuple[ApiKey, str]:
    key, token = ApiKey.objects.issue(
        project=project, name="key", scopes=Scope.values, by=Actor("user:0")
    )
    return key, token.plaintext


@pytest.fixture
def filled() -> dict[str, str]:
    """Every route, with the ids of things that exist, in one project."""
    connection = ConnectionFactory(service="fax")
    project = connection.project
    member(project, Role.VIEWER)
    ids = {
        "<uuid:project_id>": project.pk,
        "<uuid:connection_id>": connection.pk,
        "<uuid:api_key_id>": api_key(project)[0].pk,
        "<int:member_id>": project.memberships.get(role=Role.VIEWER).pk,
    }
    urls = {}
    for route in ROUTES:
        url = route
        for placeholder, value in ids.items():
            url = url.replace(placeholder, str(value))
        assert "<" not in url, f"this test does not know what {route} is made of"
        urls[route] = url
    return urls


def state() -> list[object]:
    return [
        *(
            list(model.objects.order_by("pk").values())
            for model in (Project, Membership, Connection)
        ),
        list(ApiKey.objects.order_by("pk").values("pk", "name", "revoked_at", "deleted_at")),
    ]


def test_there_are_routes() -> None:
    assert len(ROUTES) >= 12


def test_a_stranger_finds_nothing(filled: dict[str, str]) -> None:
    client = APIClient()
    client.force_login(UserFactory(is_staff=True))
    before = state()
    for route, url in filled.items():
        for method in METHODS:
            response = getattr(client, method)(url, {}, format="json")
            assert response.status_code == 404, (method, route)
    assert state() == before


def test_a_superuser_is_a_stranger_too(filled: dict[str, str]) -> None:
    client = APIClient()
    client.force_login(UserFactory(is_superuser=True, is_staff=True))
    for route, url in filled.items():
        assert client.get(url).status_code == 404, route


def test_somebody_who_is_nobody_is_asked_to_log_in(filled: dict[str, str]) -> None:
    client = APIClient()
    for route, url in filled.items():
        for method in METHODS:
            response = getattr(client, method)(url, {}, format="json")
            assert response.status_code == 401, (method, route)
            assert response["WWW-Authenticate"].startswith("Bearer")


def test_an_api_key_of_another_project_finds_nothing(filled: dict[str, str]) -> None:
    _, token = api_key(ProjectFactory())
    client = APIClient(headers={"Authorization": f"Bearer {token}"})
    before = state()
    for route, url in filled.items():
        for method in METHODS:
            response = getattr(client, method)(url, {}, format="json")
            # 403 is said before the project is looked for: what no API key may do at all.
            assert response.status_code in {403, 404}, (method, route)
            if method == "get":
                assert response.status_code == 404 or b"person_required" in response.content
    assert state() == before


def test_nothing_of_another_project_is_reached_by_way_of_the_own(filled: dict[str, str]) -> None:
    """The own project in the URL, and the ids of another one's things after it."""
    own = ProjectFactory()
    client = APIClient()
    client.force_login(own.owner)
    before = state()
    checked = 0
    for route, url in filled.items():
        _, _, rest = route.partition("<uuid:project_id>")
        if "<" not in rest:
            continue
        other = url.split("/projects/")[1].split("/")[0]
        for method in METHODS:
            response = getattr(client, method)(url.replace(other, str(own.pk)), {}, format="json")
            assert response.status_code in {404, 405}, (method, route)
            checked += response.status_code == 404
    assert checked >= 10
    assert state() == before


def test_a_project_that_does_not_exist_is_answered_alike(filled: dict[str, str]) -> None:
    client = APIClient()
    client.force_login(UserFactory())
    for url in filled.values():
        theirs = url.split("/projects/")[1].split("/")[0]
        real, unknown = client.get(url), client.get(url.replace(theirs, UNKNOWN))
        assert (real.status_code, real.content) == (unknown.status_code, unknown.content)
