"""schemathesis, with all its checks, as an owner, a viewer, a stranger and an API key."""

from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from django.contrib.auth.models import User
from django.db import transaction
from django.middleware.csrf import _get_new_csrf_string
from django.test import Client
from hypothesis import HealthCheck, Phase, given, settings as budget
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    negative_data_rejection,
    positive_data_acceptance,
)

from apikeys.models import Actor, ApiKey
from apikeys.scopes import Scope
from dashtray.wsgi import application
from projects.roles import Role
from tests.connections.factories import ConnectionFactory
from tests.projects.factories import UserFactory, member

# The checks drive the site from threads of their own, so they run once, on SQLite in memory.
pytestmark = [pytest.mark.django_db, pytest.mark.contract]

EXAMPLES = 6
SEQUENCES = 6
SCHEMA = "/api/v1/schema/?format=json"


@dataclass
class Caller:
    """Somebody's headers, and the ids of a project and what is in it."""

    headers: dict[str, str]
    cookies: dict[str, str]
    ids: dict[str, Any]


def session(user: User) -> tuple[dict[str, str], dict[str, str]]:
    """The headers and cookies of a browser in which a user is logged in."""
    client = Client()
    client.force_login(user)
    token = _get_new_csrf_string()
    cookies = {"sessionid": client.cookies["sessionid"].value, "csrftoken": token}
    return {"X-CSRFToken": token}, cookies


def caller(role: str) -> Caller:
    """Somebody with a role in a project, or none, or an API key of it."""
    connection = ConnectionFactory(service="fax")
    project = connection.project
    viewer = member(project, Role.VIEWER)
    key, token = ApiKey.objects.issue(
        project=project, name="key", scopes=Scope.values, by=Actor("user:0")
    )
    ids = {
        "project_id": str(project.pk),
        "connection_id": str(connection.pk),
        "api_key_id": str(key.pk),
        "member_id": project.memberships.get(user=viewer).pk,
        "provider": "openai",
    }
    if role == "api key":
        return Caller({"Authorization": f"Bearer {token.plaintext}"}, {}, ids)
    user = {"owner": project.owner, "viewer": viewer}.get(role) or UserFactory()
    return Caller(*session(user), ids)


@pytest.fixture
def schema(settings: Any) -> Any:
    settings.ALLOWED_HOSTS = ["localhost"]
    settings.DRF_STANDARDIZED_ERRORS = {
        **settings.DRF_STANDARDIZED_ERRORS,
        "ERROR_SCHEMAS": dict.fromkeys(
            ("400", "401", "403", "404", "405", "406", "415", "429", "500"),
            "projects.errors.ErrorReplySerializer",
        ),
    }
    schema = schemathesis.openapi.from_wsgi(SCHEMA, application)
    # No schema says so of each text, and every one of them refuses NUL.
    schema.config.generation.update(allow_x00=False)
    return schema


#: Where a schema cannot tell what will be accepted, and why.
BEYOND_SCHEMA = {
    "PUT /api/v1/me/ai-keys/{provider}/": "what is shown in place of a key",
    "POST /api/v1/projects/{project_id}/api-keys/": "names, networks and times",
    "PATCH /api/v1/projects/{project_id}/api-keys/{api_key_id}/": "names",
    "POST /api/v1/projects/{project_id}/api-keys/{api_key_id}/rotate/": "names and times",
    "PATCH /api/v1/projects/{project_id}/connections/{connection_id}/": "the stored service",
    "POST /api/v1/projects/{project_id}/members/": "who is a user, and no member yet",
    "PATCH /api/v1/projects/{project_id}/members/{member_id}/": "whose membership it is",
}

#: Pages of REST framework take another size than the one that was sent, if that is none.
LENIENT = {"GET /api/v1/projects/{project_id}/api-keys/"}


def prepare(case: schemathesis.Case) -> None:
    """Take out what schemathesis made up for who calls, and for which version is meant."""
    for name in ("Authorization", "Cookie", "X-CSRFToken"):
        case.headers.pop(name, None)
    case.cookies.clear()
    if "If-Match" in case.headers:
        case.headers["If-Match"] = "*"


def excluded(case: schemathesis.Case, caller: Caller) -> list[Any]:
    """The checks that are not made of this case, of all that there are."""
    checks: list[Any] = []
    if case.operation.label in BEYOND_SCHEMA:
        checks.append(positive_data_acceptance)
    if case.operation.label in LENIENT:
        checks.append(negative_data_rejection)
    if caller.cookies:
        # It takes a cookie that is sent beside the case for one that it made up. That no session
        # means 401 everywhere has a test of its own.
        checks.append(ignored_auth)
    return checks


def check(case: schemathesis.Case, caller: Caller) -> None:
    """Send a request about what the caller may know of, check the answer, and undo it."""
    prepare(case)
    if case.meta is None or not case.meta.is_negative_at(ParameterLocation.PATH):
        for name in case.path_parameters:
            case.path_parameters[name] = caller.ids[name]
    with transaction.atomic():
        try:
            case.call_and_validate(
                headers=caller.headers,
                cookies=caller.cookies,
                excluded_checks=excluded(case, caller),
            )
        finally:
            transaction.set_rollback(True)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("role", ["owner", "viewer", "stranger", "api key"])
def test_every_operation(schema: Any, role: str, mode: GenerationMode) -> None:
    somebody = caller(role)
    failures = []
    for found in schema.get_all_operations():
        operation = found.ok()

        @budget(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def run(case: schemathesis.Case) -> None:
            check(case, somebody)

        try:
            run()
        except Unsatisfiable:
            continue  # there is no way to send this operation something that it forbids
        except BaseException as error:  # noqa: BLE001  # failures come as a group
            failures.append(f"{operation.label}: {error!r} {getattr(error, 'exceptions', '')}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("role", ["owner", "api key"])
def test_sequences_of_operations(schema: Any, role: str) -> None:
    """Follow links: what one operation returned goes into the next."""
    somebody = caller(role)
    labels: set[str] = set()

    class Machine(schema.as_state_machine()):  # type: ignore[misc]
        def before_call(self, case: schemathesis.Case) -> None:
            prepare(case)
            labels.add(case.operation.label)

        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
            return {"headers": somebody.headers, "cookies": somebody.cookies}

        def validate_response(self, response: Any, case: schemathesis.Case, **kwargs: Any) -> None:
            case.validate_response(
                response, excluded_checks=[*excluded(case, somebody), ignored_auth]
            )

    Machine.run(
        settings=budget(
            max_examples=SEQUENCES,
            stateful_step_count=8,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
    )
    assert len(labels) >= 5


@pytest.mark.parametrize(
    ("role", "status"), [("owner", 200), ("viewer", 200), ("stranger", 404), ("api key", 200)]
)
def test_each_caller_is_who_they_are(schema: Any, role: str, status: int) -> None:
    """Otherwise every reply above could be one and the same refusal."""
    somebody = caller(role)
    operation = schema["/api/v1/projects/{project_id}/connections/{connection_id}/"]["GET"]
    case = operation.Case(
        path_parameters={name: somebody.ids[name] for name in ("project_id", "connection_id")}
    )
    reply = case.call(headers=somebody.headers, cookies=somebody.cookies)
    assert reply.status_code == status
