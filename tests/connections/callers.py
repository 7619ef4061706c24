"""Who calls the API in the tests that are driven by its OpenAPI document, and what they send."""

import ipaddress
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import schemathesis
from django.contrib.auth.models import User
from django.middleware.csrf import _get_new_csrf_string
from django.test import Client
from hypothesis import strategies as st

from apikeys.models import Actor, ApiKey
from apikeys.scopes import Scope
from connections.models import Connection
from projects.models import Project
from projects.roles import Role
from tests.connections.factories import CANARY, ConnectionFactory
from tests.projects.factories import UserFactory, member

ROLES = ["owner", "viewer", "stranger", "api key"]
#: What another tenant's things are called: no reply to anybody here may hold it.
FOREIGN = "of another tenant 7c1e"
#: As a reply links to the page of what is older than this.
CURSOR = b64encode(b"p=2099-01-01+00%3A00%3A00%2B00%3A00").decode()

#: Times and networks that are accepted where the document has these formats.
schemathesis.openapi.format(
    "date-time", st.dates(date(2100, 1, 1), date(2199, 12, 31)).map("{}T00:00:00Z".format)
)
schemathesis.openapi.format(
    "cidr",
    st.ip_addresses()
    .filter(lambda address: getattr(address, "ipv4_mapped", None) is None)
    .map(lambda address: str(ipaddress.ip_network(address))),
)


@dataclass
class Caller:
    """Somebody's headers and cookies, and the ids of a project and of what is in it."""

    headers: dict[str, str]
    cookies: dict[str, str]
    ids: dict[str, Any]
    #: Of things that belong to nobody who calls.
    foreign: dict[str, Any] = field(default_factory=dict)

    def sign(self, schema: Any) -> None:
        """Let every request that is made of a document be this caller's."""
        somebody = self

        @schema.auth(refresh_interval=None)
        class _Auth:
            def get(self, case: schemathesis.Case, context: Any) -> Caller:
                return somebody

            def set(self, case: schemathesis.Case, data: Caller, context: Any) -> None:
                case.headers.update(data.headers)
                case.cookies = dict(data.cookies)


def caller(role: str, base_url: str) -> Caller:
    """Somebody with a role in a project, or none, or an API key of it.

    Args:
        base_url: of the server that the project's connection is to.
    """
    ids, project, viewer, token = filled(base_url)
    foreign, _, _, _ = filled(base_url, FOREIGN)
    if role == "api key":
        return Caller({"Authorization": f"Bearer {token}"}, {}, ids, foreign)
    user = {"owner": project.owner, "viewer": viewer}.get(role) or UserFactory()
    if role == "stranger":
        ids = foreign
    return Caller(*session(user), ids, foreign)


def filled(base_url: str, prefix: str = "own") -> tuple[dict[str, Any], Project, User, str]:
    """A project with a connection, a viewer and an API key: ids, and what is needed to call."""
    connection = ConnectionFactory(
        name=f"{prefix} connection",
        service="prometheus",
        config={"base_url": base_url, "queries": {"up": "up"}},
        credentials={"bearer_token": CANARY},
    )
    project = connection.project
    project.name = f"{prefix} project"
    project.save()
    viewer = member(project, Role.VIEWER, username=f"{prefix} viewer")
    key, token = ApiKey.objects.issue(
        project=project, name=f"{prefix} key", scopes=Scope.values, by=Actor("user:0")
    )
    ids = {
        "project_id": str(project.pk),
        "connection_id": str(connection.pk),
        "api_key_id": str(key.pk),
        "member_id": project.memberships.get(user=viewer).pk,
        "provider": "openai",
    }
    return ids, project, viewer, token.plaintext


def session(user: User) -> tuple[dict[str, str], dict[str, str]]:
    """The headers and cookies of a browser in which a user is logged in."""
    client = Client()
    client.force_login(user)
    token = _get_new_csrf_string()
    cookies = {"sessionid": client.cookies["sessionid"].value, "csrftoken": token}
    return {"X-CSRFToken": token}, cookies


def fit(case: schemathesis.Case) -> None:
    """Make of valid data what is valid for the things that are there.

    A document says how a request is made, and not which users exist, which service a connection
    is to, where a page begins, and which characters Unicode has by now.
    """
    if "cursor" in case.query:
        case.query["cursor"] = CURSOR
    if not isinstance(case.body, dict):
        return
    if isinstance(case.body.get("name"), str) and "/api-keys/" in case.operation.path:
        printable = "".join(filter(str.isprintable, case.body["name"])).strip()
        case.body["name"] = printable or "x"
    if case.operation.label == "POST /api/v1/projects/{project_id}/members/":
        case.body["user"] = UserFactory().username
    if case.operation.label.startswith("PATCH") and "connection_id" in case.path_parameters:
        _fit_to_service(case.body, case.path_parameters["connection_id"])


def _fit_to_service(body: dict[str, Any], connection_id: Any) -> None:
    connection = Connection.objects.filter(pk=connection_id).first()
    if connection is None or connection.integration is None:
        return
    fields = {
        "config": {one.name for one in connection.integration.config_fields},
        "credentials": {one.name for one in connection.integration.credential_fields},
    }
    for key, names in fields.items():
        if isinstance(body.get(key), dict):
            body[key] = {name: value for name, value in body[key].items() if name in names}


def leads_elsewhere(case: schemathesis.Case) -> bool:
    """Say whether a change gives a connection another destination, which asks for its
    credentials again: a rule of the design that no document can tell."""
    config = case.body.get("config") if isinstance(case.body, dict) else None
    return isinstance(config, dict) and not {"base_url", "api_url"}.isdisjoint(config)
