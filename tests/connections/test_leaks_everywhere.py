"""The same secret, and every route of the site: those of the URL conf, so that new ones are too.

Each is asked with each method, by several callers, with the secret in what is sent, and once more
with a failure in the middle of it; DEBUG on and off.
"""

import logging
import re
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core import mail
from django.core.cache import cache
from django.core.management import call_command
from django.db import transaction
from django.template.response import SimpleTemplateResponse
from django.test import Client
from rest_framework.test import APIClient
from rest_framework.views import APIView

from apikeys.models import Actor, AIKey, ApiKey
from apikeys.scopes import Scope
from connections.models import Connection
from encryption.models import RotationRun
from projects.models import Project
from projects.roles import Role
from tests.connections.factories import CANARY
from tests.connections.test_leaks import Search, broken_service, held, project
from tests.projects.factories import member
from tests.routes import routes

__all__ = ["broken_service", "held", "project"]

pytestmark = pytest.mark.django_db

METHODS = ("get", "head", "options", "post", "put", "patch", "delete")
#: What is sent to an API, and to a form: the secret wherever one is entered, right and wrong.
BODIES: list[Any] = [
    {"service": "stripe", "name": "x", "credentials": {"api_key": f"rk_{CANARY}"}},
    {"service": "stripe", "name": "x", "credentials": {"api_key": f"{CANARY}\n", CANARY: CANARY}},
    {"credentials": {"api_key": f"rk_{CANARY}"}, "status": "paused"},
    {"credentials": CANARY, "config": {"base_url": f"https://a:{CANARY}@b.example"}},
    {"api_key": f"sk-{CANARY}"},
    {"api_key": [CANARY], "scopes": [CANARY], "allowed_networks": [CANARY], CANARY: CANARY},
]
FORM = {
    "name": "x",
    "status": "active",
    "reason": "A reason of ten characters and more",
    "password": f"wrong {CANARY}",
    "overlap_hours": "1",
    "credential_api_key": f"rk_{CANARY}",
    "credential_token": f"ghp_{CANARY}",
    "credential_password": CANARY,
    "credential_bearer_token": CANARY,
    "config_base_url": f"https://user:{CANARY}@host.example",
    "api_key": f"sk-{CANARY}",
    "provider": "anthropic",
}


ROUTES = routes()


@pytest.fixture
def urls(project: Project, held: list[Connection]) -> list[str]:
    """An address for every route, with something behind it; for connections, one for each."""
    person = member(project, Role.VIEWER, username="viewer", is_staff=True)
    key, _ = ApiKey.objects.issue(
        project=project, name="key", scopes=Scope.values, by=Actor("user:0")
    )
    RotationRun.objects.create(status="done")
    LogEntry.objects.log_actions(project.owner.pk, held[:1], 2, "Changed.")
    known = {
        "<uuid:project_id>": project.pk,
        "<uuid:api_key_id>": key.pk,
        "<uuid:key_id>": key.pk,
        "<int:member_id>": project.memberships.get(user=person).pk,
        "<slug:provider>": "openai",
        "<path:content_type_id>": ContentType.objects.get_for_model(Connection).pk,
        "<id>": person.pk,
    }
    return [url for route in ROUTES for url in addresses(route, known, held)]


def addresses(route: str, known: dict[str, Any], held: list[Connection]) -> Iterator[str]:
    """The addresses of a route. Fails if it has a part that nobody thought of."""
    if "(?P<app_label>" in route:
        yield from (f"/admin/{app.label}/" for app in apps.get_app_configs())
        return
    if "(?P" in route or route.endswith("$"):
        yield "/" + route.split("(?P", maxsplit=1)[0] + "no-such-thing"
        return
    for placeholder, value in known.items():
        route = route.replace(placeholder, str(value))
    route = route.replace("<path:object_id>", str(object_of(route)))
    if "<uuid:connection_id>" in route or "connections/connection/" in route:
        for one in held:
            first = str(held[0].pk)
            yield "/" + route.replace("<uuid:connection_id>", str(one.pk)).replace(
                first, str(one.pk)
            )
        return
    assert "<" not in route, f"this test does not know what {route} is made of"
    yield f"/{route}"


def object_of(route: str) -> Any:
    """The id of the first object of the model whose page of the admin site this is."""
    parts = route.split("/")
    if "<path:object_id>" not in route or parts[1] == "r":
        return Connection.objects.order_by("created_at").values_list("pk", flat=True).first()
    model = apps.get_model(parts[1], parts[2])
    found = model._base_manager.first()
    if model is Connection:
        found = Connection.objects.order_by("created_at").first()
    assert found is not None or model.__name__ in {"Group"}, f"there is no {model.__name__} here"
    return 1 if found is None else found.pk


def callers(project: Project) -> Iterator[tuple[str, APIClient]]:
    """The owner, who is a superuser, a viewer and an API key; and how each is called."""
    for user in (project.owner, project.memberships.get(role=Role.VIEWER).user):
        client = APIClient(raise_request_exception=False)
        client.force_login(user)
        yield user.get_username(), client
    _, token = ApiKey.objects.issue(
        project=project, name="second", scopes=Scope.values, by=Actor("user:0")
    )
    headers = {"Authorization": f"Bearer {token.plaintext}"}
    yield "api key", APIClient(raise_request_exception=False, headers=headers)


def ask(client: APIClient, url: str, search: Search, name: str) -> None:
    """Send everything to one address, undo it, and search what comes back."""
    is_api = url.startswith("/api/")
    bodies = BODIES if name == "root" else BODIES[:1]
    for method in METHODS if is_api else ("get", "post"):
        writes = method in {"post", "put", "patch"}
        for body in (bodies if is_api else [FORM]) if writes else [None]:
            if "logout" in url:
                continue
            with transaction.atomic():
                kind = {"format": "json" if is_api else "multipart"} if writes else {}
                response = getattr(client, method)(url, body, **kind)
                content = b"".join(response) if response.streaming else response.content
                transaction.set_rollback(True)
            search(f"{name}: {method} {url}", [*response.items(), response.cookies, content])


@pytest.mark.parametrize("debug", [True, False], ids=["debug", "no debug"])
def test_no_route_gives_it_away(
    project: Project,
    urls: list[str],
    settings: Any,
    debug: bool,
    broken_service: None,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings.DEBUG = debug
    settings.ADMINS = ["root@example.test"]
    search = Search()
    with caplog.at_level(logging.DEBUG):
        # With DEBUG, what differs are pages about failures, which are those of one caller too.
        for name, client in list(callers(project))[: 1 if debug else None]:
            for url in urls:
                ask(client, url, search, name)
        search("log", caplog.text)
    search("output", capsys.readouterr())
    search("mail", [(one.subject, one.body, one.alternatives) for one in mail.outbox])
    search("LogEntry", list(LogEntry.objects.values()))
    search("cache", getattr(cache, "_cache", {}))
    out = StringIO()
    call_command("dumpdata", stdout=out)
    search("dumpdata", out.getvalue())
    assert search.found == []
    assert search.count > 800


@pytest.mark.parametrize("debug", [True, False], ids=["debug", "no debug"])
def test_no_failure_on_any_route_gives_it_away(
    project: Project,
    urls: list[str],
    settings: Any,
    debug: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every page and reply fails when it is made: with all that there was in the frames."""

    def fail(*args: Any, **kwargs: Any) -> None:
        plain = [one.credentials for one in Connection.objects.all()]
        plain += [key.api_key for key in AIKey.objects.all()]
        raise RuntimeError(f"broken with {len(plain)} secrets in this frame")

    settings.DEBUG = debug
    settings.ADMINS = ["root@example.test"]
    monkeypatch.setattr(APIView, "finalize_response", fail)
    monkeypatch.setattr(SimpleTemplateResponse, "render", fail)
    search = Search()
    client = APIClient(raise_request_exception=False)
    client.force_login(project.owner)
    failed = 0
    with caplog.at_level(logging.DEBUG):
        for url in urls:
            if "logout" in url:
                continue
            for method in ("get", "post"):
                is_api = url.startswith("/api/")
                body = {} if method == "get" else BODIES[0] if is_api else FORM
                kind = {"format": "json" if is_api else "multipart"} if method == "post" else {}
                with transaction.atomic():
                    response = getattr(client, method)(url, body, **kind)
                    transaction.set_rollback(True)
                content = b"".join(response) if response.streaming else response.content
                search(f"{method} {url}", content)
                failed += response.status_code == 500
        search("log", caplog.text)
    search("mail", [(one.subject, one.body, one.alternatives) for one in mail.outbox])
    assert search.found == []
    assert failed > 100


def test_the_routes_are_those_of_every_application(urls: list[str]) -> None:
    assert len(ROUTES) > 60
    for registered in admin.site._registry:
        page = f"/admin/{registered._meta.app_label}/{registered._meta.model_name}/"
        assert {page, f"{page}add/"} <= set(urls)
    assert re.search(r"/api/v1/projects/[^ ]*/api-keys/[^ ]*/rotate/", " ".join(urls))


def test_no_document_of_the_api_holds_it(project: Project, held: list[Connection]) -> None:
    search = Search()
    client = Client()
    client.force_login(project.owner)
    for url in ("/api/v1/schema/", "/api/v1/schema/?format=json", "/api/v1/docs/"):
        response = client.get(url)
        assert response.status_code == 200
        search(url, response.content)
    assert search.found == []
