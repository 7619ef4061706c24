"""One secret in every credential, and every way out of the product searched for it."""

import json
import logging
import pickle
import re
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core import mail
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection as database
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone
from kombu.serialization import dumps
from rest_framework.test import APIClient

from apikeys.models import AIKey
from connections import sync, tasks
from connections.integrations.stripe import Stripe
from connections.models import Connection, CredentialEvent, Metric
from projects.models import Project
from tests.connections.factories import CANARY, ConnectionFactory
from tests.projects.factories import ProjectFactory

pytestmark = pytest.mark.django_db

#: The master key and what the settings hold must not come out either.
MASTER = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"


class Search:
    """Everything that came out, and whether the secret was in it."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.count = 0

    def __call__(self, what: str, text: object) -> None:
        self.count += 1
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        if CANARY in str(text) or MASTER in str(text):
            self.found.append(what)


@pytest.fixture
def project() -> Project:
    return ProjectFactory(owner=User.objects.create_superuser("root", password="a long password"))


@pytest.fixture
def held(project: Project) -> list[Connection]:
    """A connection to each service, one to an unknown one, and an AI key."""
    AIKey.objects.create(user=project.owner, provider="openai", api_key=f"sk-{CANARY}")
    held = [
        ConnectionFactory(project=project),
        ConnectionFactory(project=project, github=True),
        ConnectionFactory(project=project, prometheus=True),
        ConnectionFactory(
            project=project, service="fax", credentials={"pin": CANARY, CANARY: {"a": [CANARY]}}
        ),
        ConnectionFactory(project=project, credentials={"apiKey": CANARY, CANARY: "x"}),
    ]
    for connection in held:
        Metric.objects.create(connection=connection, metric_id="m", at=timezone.now(), value=1)
        CredentialEvent.objects.record("test", connection, "user:1", ["api_key"])
    return held


@pytest.fixture
def broken_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripe's client fails with the secret in its error and in its frames."""

    def fail(self: Stripe, credentials: dict[str, str], *args: object) -> None:
        header = f"Bearer {credentials['api_key']}"
        raise ValueError(header)

    monkeypatch.setattr(Stripe, "check", fail)
    monkeypatch.setattr(Stripe, "fetch_metrics", fail)


def api_client(project: Project) -> APIClient:
    client = APIClient(raise_request_exception=False)
    client.force_login(project.owner)
    return client


BODIES = [
    {"credentials": {"api_key": f"{CANARY}\n"}},
    {"credentials": {"api_key": f"****{CANARY}"}},
    {"credentials": {CANARY: CANARY}},
    {"credentials": CANARY},
    {"credentials": [CANARY]},
    {"config": {CANARY: CANARY}},
    {"config": {"owner": CANARY + "/", "base_url": f"https://a:{CANARY}@b.example"}},
    {"config": CANARY},
    {"service": CANARY, "name": CANARY * 10, "status": CANARY},
    {CANARY: CANARY},
    {"name": {"a": CANARY}},
    {"credentials": {"api_key": CANARY}, "id": CANARY},
]


def test_no_reply_of_the_api_holds_it(
    project: Project, held: list[Connection], broken_service: None, caplog: pytest.LogCaptureFixture
) -> None:
    search = Search()
    client = api_client(project)
    base = f"/api/v1/projects/{project.pk}/connections/"
    addresses = [base, *(f"{base}{one.pk}/" for one in held)]
    addresses += [f"{base}{one.pk}/{end}/" for one in held for end in ("sync", "test", "metrics")]
    addresses += ["/api/v1/projects/", f"/api/v1/projects/{project.pk}/", "/api/v1/schema/"]
    addresses += [f"/api/v1/projects/{project.pk}/api-keys/", "/api/v1/me/ai-keys/openai/"]
    with caplog.at_level(logging.DEBUG):
        for address in addresses:
            for method in ("get", "options", "put", "head"):
                response = getattr(client, method)(address)
                search(f"{method} {address}", [*response.items(), response.content])
            for body in BODIES:
                for method in ("post", "patch"):
                    response = getattr(client, method)(address, body, format="json")
                    search(f"{method} {address} {list(body)}", response.content)
                    assert response.status_code < 500, (method, address, body)
            for query in ("status", "service", "cursor", "start", "health_below", "metric_id"):
                response = client.get(address, {query: CANARY})
                # The link to the next page repeats the client's own query; a list has none here.
                search(f"{address}?{query}", response.content)
        for raw in (f'"{CANARY}', f'{{"{CANARY}": 1, "{CANARY}": 2}}', f"{CANARY}={CANARY}"):
            response = client.generic("POST", base, raw, "application/json")
            search(raw, response.content)
            response = client.generic("POST", base, raw, f"text/{CANARY}")
            search(raw, response.content)
        search("log", caplog.text)
    assert search.count > 300
    assert search.found == []


def admin_pages(held: list[Connection]) -> Iterator[tuple[str, str]]:
    """Every route of the admin site, with the ids of what there is."""

    def walk(resolver: URLResolver, prefix: str) -> Iterator[tuple[str, str | None]]:
        for pattern in resolver.url_patterns:
            route = prefix + str(pattern.pattern)
            if isinstance(pattern, URLResolver):
                yield from walk(pattern, route)
            elif isinstance(pattern, URLPattern):
                yield route, pattern.name

    for route, _name in walk(get_resolver(), ""):
        if not route.startswith("admin/") or "logout" in route:
            continue
        if "connections/connection/" in route:
            for connection in held:
                yield f"/{re.sub('<[^>]*>', str(connection.pk), route)}", route
        elif "<" in route:
            yield f"/{re.sub('<[^>]*>', '1', route)}", route
        else:
            yield f"/{route}", route


def test_no_page_of_the_admin_holds_it(
    project: Project, held: list[Connection], broken_service: None, caplog: pytest.LogCaptureFixture
) -> None:
    search = Search()
    client = Client(raise_request_exception=False)
    client.force_login(project.owner)
    pages = list(admin_pages(held))
    with caplog.at_level(logging.DEBUG):
        for address, route in pages:
            if route.startswith("^") or "(?P" in route:
                continue
            response = client.get(address)
            search(address, response.content)
            if "delete" not in route and "reveal" not in route:
                body = {"name": CANARY[:6], "status": CANARY, "credential_api_key": f"{CANARY}\n"}
                response = client.post(address, body, follow=True)
                search(f"post {address}", response.content)
        for service in ("stripe", "github", "prometheus"):
            address = f"{reverse('admin:connections_connection_add')}?service={service}"
            search(address, client.get(address).content)
            names = ("credential_api_key", "credential_token", "credential_password")
            response = client.post(address, {**dict.fromkeys(names, CANARY), "name": ""})
            search(f"post {address}", response.content)
        changed = reverse("admin:connections_connection_change", args=[held[0].pk])
        body = {"name": "New", "status": "active", "credential_api_key": f"rk_{CANARY}"}
        response = client.post(changed, body, follow=True)
        search("changed", response.content)
        assert Connection.objects.get(pk=held[0].pk).credentials["api_key"] == f"rk_{CANARY}"
        history = reverse("admin:connections_connection_history", args=[held[0].pk])
        search("history", client.get(history).content)
        listed = reverse("admin:connections_connection_changelist")
        for action in ("test_selected", "sync_selected", "delete_selected"):
            chosen = [str(one.pk) for one in held]
            body = {"action": action, "_selected_action": chosen}
            search(action, client.post(listed, body, follow=True).content)
        for query in ("q=x", "service=fax", "status=active", "o=1", "project=x"):
            search(query, client.get(f"{listed}?{query}").content)
        search("log", caplog.text)
    for entry in LogEntry.objects.all():
        search("LogEntry", [entry.change_message, entry.object_repr])
    assert LogEntry.objects.exists()
    assert search.count > 80
    assert search.found == []


@pytest.mark.parametrize("debug", [True, False])
def test_no_traceback_page_and_no_mail_holds_it(
    project: Project,
    held: list[Connection],
    settings: object,
    debug: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.DEBUG = debug  # type: ignore[attr-defined]
    settings.ADMINS = ["root@example.test"]  # type: ignore[attr-defined]

    def broken(*args: object, **kwargs: object) -> None:
        credentials = held[0].credentials
        plain = credentials["api_key"]
        raise RuntimeError(f"broken with {len(plain)} characters")

    monkeypatch.setattr(sync, "check_connection", broken)
    monkeypatch.setattr(Connection, "save", broken)
    client = api_client(project)
    search = Search()
    address = f"/api/v1/projects/{project.pk}/connections/"
    page = reverse("admin:connections_connection_change", args=[held[0].pk])
    form = {"name": "x", "status": "active", "credential_api_key": f"rk_{CANARY}"}
    body = {"service": "stripe", "name": "x", "credentials": {"api_key": f"rk_{CANARY}"}}
    with caplog.at_level(logging.DEBUG):
        for response in (
            client.post(f"{address}{held[0].pk}/test/"),
            client.post(address, body),
            client.post(page, form, format="multipart"),
            client.patch(f"{address}{held[0].pk}/", {"credentials": {"api_key": CANARY}}),
        ):
            assert response.status_code == 500
            search("page", response.content)
    search("log", caplog.text)
    search("mail", [(one.subject, one.body, one.alternatives) for one in mail.outbox])
    assert search.found == []


def test_no_dump_holds_it(project: Project, held: list[Connection]) -> None:
    search = Search()
    out = StringIO()
    call_command("dumpdata", stdout=out)
    search("dumpdata", out.getvalue())
    assert "connections.connection" in out.getvalue()
    with database.cursor() as cursor:
        for table in database.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {database.ops.quote_name(table)}")
            search(table, cursor.fetchall())
    assert search.count > 10
    assert search.found == []


def test_no_cache_and_no_message_of_the_broker_holds_it(
    project: Project, held: list[Connection], broken_service: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search()
    connection = Connection.objects.get(pk=held[0].pk)
    assert CANARY in connection.credentials["api_key"]
    cache.set("a-connection", connection)
    search("cache", pickle.dumps(connection))
    client = api_client(project)
    client.post(f"/api/v1/projects/{project.pk}/connections/{connection.pk}/test/")
    search("cache of the process", getattr(cache, "_cache", {}))
    sent: list[object] = []
    monkeypatch.setattr(
        tasks.sync, "apply_async", lambda *args, **kwargs: sent.append((args, kwargs))
    )
    Connection.objects.update(last_tried_at=timezone.now() - timedelta(days=1))
    assert tasks.sync_due() == len(held) == len(sent)
    search("broker", dumps(sent, serializer="json"))
    search("broker", json.dumps(sent))
    assert search.found == []
    cache.clear()


def test_no_repr_holds_it(held: list[Connection]) -> None:
    search = Search()
    for connection in Connection.objects.all():
        assert connection.credentials
        search("repr", [repr(connection), str(connection), connection.__dict__])
        if connection.integration is not None:
            search("outcome", sync.check_connection)
    assert search.found == []


def test_a_command_prints_none_of_it(
    held: list[Connection], broken_service: None, capsys: pytest.CaptureFixture[str]
) -> None:
    search = Search()
    with pytest.raises(Exception, match="could not be synced"):
        call_command("sync_connections", "--all")
    search("output", capsys.readouterr())
    assert search.found == []


def test_the_search_finds_what_is_there() -> None:
    search = Search()
    search("text", f"a {CANARY} b")
    search("bytes", f"a {CANARY} b".encode())
    search("list", [{"a": CANARY}])
    assert search.found == ["text", "bytes", "list"]
