"""What belongs to a project does not exist on the admin site of anybody else: every route of it."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.test import Client

from apikeys.models import Actor, AIKey, ApiKey, ApiKeyEvent
from apikeys.scopes import Scope
from connections.models import Connection, CredentialEvent, Metric
from connections.models.event import Action
from encryption.models import RotationRun
from projects.models import Membership, Project
from projects.roles import Role
from tests.connections.factories import ConnectionFactory
from tests.projects.factories import ProjectFactory, UserFactory, member
from tests.routes import routes

pytestmark = pytest.mark.django_db

METHODS = ("get", "head", "post", "put", "patch", "delete")
SECRET_NAME = "the other tenant's"

#: What the admin site has that is no project's.
OF_NO_PROJECT = {"auth.user", "auth.group", "encryption.rotationrun", "apikeys.aikey"}


ADMIN_ROUTES = [route for route in routes() if route.startswith("admin/")]


@pytest.fixture
def other() -> dict[str, Any]:
    """One of each thing of a project that the stranger has nothing to do with."""
    connection = ConnectionFactory(name=f"{SECRET_NAME} connection")
    project = connection.project
    project.name = f"{SECRET_NAME} project"
    project.save()
    member(project, Role.VIEWER)
    key, _ = ApiKey.objects.issue(
        project=project, name=f"{SECRET_NAME} key", scopes=Scope.values, by=Actor("user:0")
    )
    CredentialEvent.objects.record(Action.TEST, connection, "user:0", ["api_key"])
    return {
        "projects.project": project,
        "connections.connection": connection,
        "connections.credentialevent": CredentialEvent.objects.get(),
        "apikeys.apikey": key,
        "apikeys.apikeyevent": ApiKeyEvent.objects.first(),
    }


@pytest.fixture
def stranger() -> Client:
    """Somebody with every permission that Django has, who owns another project."""
    user = UserFactory(is_staff=True)
    user.user_permissions.set(Permission.objects.all())
    ProjectFactory(owner=user, name="own project")
    client = Client()
    client.force_login(user)
    return client


def urls_of(route: str, other: dict[str, Any]) -> Iterator[str]:
    """The address of a route with the id of the other project's thing, if it has one."""
    if "<" not in route or "(?P" in route:
        return
    app, model = route.split("/")[1:3]
    label = f"{app}.{model}"
    if label in OF_NO_PROJECT or route.startswith("admin/r/"):
        return
    assert label in other, f"this test does not know what {route} is made of"
    yield "/" + re.sub("<[^>]*>", str(other[label].pk), route)


def state() -> list[object]:
    models = (Project, Membership, Connection, ApiKey, CredentialEvent, ApiKeyEvent, Metric, AIKey)
    return [list(model.objects.order_by("pk").values()) for model in models]


def test_every_model_of_the_site_is_known(other: dict[str, Any]) -> None:
    registered = {model._meta.label_lower for model in admin.site._registry}
    assert registered == OF_NO_PROJECT | set(other)
    assert RotationRun in admin.site._registry


def test_a_stranger_finds_nothing(stranger: Client, other: dict[str, Any]) -> None:
    before = state()
    checked = set()
    for route in ADMIN_ROUTES:
        for url in urls_of(route, other):
            for method in METHODS:
                response = getattr(stranger, method)(url, {"post": "yes"}, follow=True)
                if response.status_code == 405:
                    continue  # said before anything is looked for
                expected = {404}
                if "event/" in route and (method != "get" or "delete" in route):
                    expected.add(403)  # a record is changed by nobody, whose ever it is
                assert response.status_code in expected, (method, route)
                assert SECRET_NAME not in response.content.decode()
                checked.add(route)
            assert route in checked
    assert state() == before
    assert len(checked) >= 20
    for page in ("test", "sync", "reveal"):
        assert f"admin/connections/connection/<uuid:connection_id>/{page}/" in checked


def test_no_list_choice_filter_search_or_action_shows_it(
    stranger: Client, other: dict[str, Any]
) -> None:
    before = state()
    project = other["projects.project"]
    assert SECRET_NAME in str(project)
    for route in ADMIN_ROUTES:
        if "<" in route or "(?P" in route or "logout" in route:
            continue
        for query in (
            "",
            f"?project={project.pk}",
            f"?project__id__exact={project.pk}",
            f"?project_id={project.pk}",
            "?q=tenant",
            "?service=stripe",
        ):
            response = stranger.get(f"/{route}{query}")
            assert SECRET_NAME not in response.content.decode(), (route, query)
    for label, thing in other.items():
        url = f"/admin/{label.replace('.', '/')}/"
        page = stranger.get(url)
        assert page.status_code == 200
        for action in re.findall(r'<option value="(\w+)"', page.content.decode()):
            body = {"action": action, "_selected_action": str(thing.pk), "post": "yes"}
            response = stranger.post(url, body, follow=True)
            assert SECRET_NAME not in response.content.decode(), (label, action)
    assert state() == before


def test_no_choice_of_another_field_shows_it(stranger: Client, other: dict[str, Any]) -> None:
    """The choices that a field offers while one types."""
    for label in other:
        app, model = label.split(".")
        for field in ("project", "connection", "owner", "user", "members", "replaces"):
            query = {"app_label": app, "model_name": model, "field_name": field, "term": ""}
            response = stranger.get("/admin/autocomplete/", query)
            assert SECRET_NAME not in response.content.decode(), (label, field)


def test_a_thing_cannot_be_made_in_it(stranger: Client, other: dict[str, Any]) -> None:
    before = state()
    project = str(other["projects.project"].pk)
    connection = {"project": project, "name": "x", "status": "active", "credential_api_key": "k_1"}
    response = stranger.post("/admin/connections/connection/add/?service=stripe", connection)
    assert response.status_code == 200
    assert b"Select a valid choice" in response.content
    page = stranger.get("/admin/apikeys/apikey/add/").content.decode()
    (request_id,) = re.findall(r'name="request_id" value="([^"]+)"', page)
    key = {
        "project": project,
        "name": "x",
        "kind": "live",
        "scopes": "projects:read",
        "request_id": request_id,
    }
    response = stranger.post("/admin/apikeys/apikey/add/", key)
    assert b"Select a valid choice" in response.content
    assert state() == before


def test_somebody_without_permissions_learns_nothing(other: dict[str, Any]) -> None:
    client = Client()
    client.force_login(UserFactory(is_staff=True))
    for route in ADMIN_ROUTES:
        for url in urls_of(route, other):
            theirs = client.get(url, follow=True)
            unknown = client.get(re.sub(r"[0-9a-f-]{36}", str(Project().pk), url), follow=True)
            assert theirs.status_code == unknown.status_code in {403, 404, 405}, route


def test_the_shortcut_to_a_thing_leads_nowhere(stranger: Client, other: dict[str, Any]) -> None:
    for thing in other.values():
        kind = ContentType.objects.get_for_model(thing).pk
        assert stranger.get(f"/admin/r/{kind}/{thing.pk}/").status_code == 404


def test_somebody_who_is_no_staff_is_asked_to_log_in(other: dict[str, Any]) -> None:
    client = Client()
    client.force_login(User.objects.get(username=other["projects.project"].owner.username))
    for route in ADMIN_ROUTES:
        for url in urls_of(route, other):
            response = client.get(url)
            assert response.status_code == 302
            assert response["Location"].startswith("/admin/login/")
