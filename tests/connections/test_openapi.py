"""schemathesis, with all its checks, as an owner, a viewer, a stranger and an API key.

The budget is fixed: EXAMPLES requests of each kind to each operation, and SEQUENCES sequences of
up to STEPS requests, always the same ones.
"""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, Phase, given, settings as budget
from hypothesis.errors import Unsatisfiable
from pytest_httpserver import HTTPServer
from schemathesis import GenerationMode
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import positive_data_acceptance

from dashtray.wsgi import application
from tests.connections.callers import FOREIGN, ROLES, Caller, caller, fit, leads_elsewhere
from tests.connections.factories import CANARY

pytestmark = [pytest.mark.django_db, pytest.mark.contract]

EXAMPLES = 6
SEQUENCES = 12
STEPS = 10
SCHEMA = "/api/v1/schema/?format=json"
PATCH_CONNECTION = "PATCH /api/v1/projects/{project_id}/connections/{connection_id}/"

BUDGET: dict[str, Any] = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}


@pytest.fixture
def prometheus(httpserver: HTTPServer) -> str:
    """The address of a server that answers as Prometheus does."""
    httpserver.expect_request("/api/v1/query").respond_with_json({"data": {"result": []}})
    httpserver.expect_request("/api/v1/query_range").respond_with_json({"data": {"result": []}})
    return str(httpserver.url_for("")).rstrip("/")


@pytest.fixture(autouse=True)
def no_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the hosts that are made up here, none may be asked for anything."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in {"localhost", "127.0.0.1"}:
            raise socket.gaierror
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def schema(settings: Any) -> Iterator[Any]:
    settings.ALLOWED_HOSTS = ["localhost"]
    settings.CONNECTIONS = {"ALLOWED_HOSTS": ["localhost", "127.0.0.1"], "TESTS_PER_MINUTE": 10**6}
    # A request through WSGI ends by closing the connection to the database, and with it the
    # transaction that this test is in. Django's own test client leaves this out as well.
    request_started.disconnect(close_old_connections)
    request_finished.disconnect(close_old_connections)
    schema = schemathesis.openapi.from_wsgi(SCHEMA, application)
    # No schema says so of each text, and every one of them refuses NUL.
    schema.config.generation.update(allow_x00=False)
    yield schema
    request_started.connect(close_old_connections)
    request_finished.connect(close_old_connections)


def prepare(case: schemathesis.Case) -> None:
    """Give a request what no document can know."""
    if "If-Match" in case.headers:
        case.headers["If-Match"] = "*"
    if case.meta is not None and case.meta.generation.mode.is_positive:
        fit(case)


def validate(response: Any, case: schemathesis.Case, **options: Any) -> None:
    """Make all checks, and two of our own.

    One check is left out for one kind of request, see :func:`leads_elsewhere`.
    """
    elsewhere = case.operation.label == PATCH_CONNECTION and leads_elsewhere(case)
    excluded = [positive_data_acceptance] if elsewhere else []
    case.validate_response(response, excluded_checks=excluded, **options)
    assert CANARY not in response.text
    assert FOREIGN not in response.text


def check(case: schemathesis.Case, ids: dict[str, Any]) -> None:
    """Send a request about what the caller may know of, check the answer, and undo it."""
    if case.meta is None or not case.meta.is_negative_at(ParameterLocation.PATH):
        for name in case.path_parameters:
            case.path_parameters[name] = ids[name]
    prepare(case)
    with transaction.atomic():
        try:
            validate(case.call(), case)
        finally:
            transaction.set_rollback(True)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("role", ROLES)
def test_every_operation(schema: Any, prometheus: str, role: str, mode: GenerationMode) -> None:
    somebody = caller(role, prometheus)
    somebody.sign(schema)
    failures = [
        failure
        for ids in (somebody.ids, somebody.foreign)
        for found in schema.get_all_operations()
        if (failure := run(schema, found.ok(), mode, ids))
    ]
    assert not failures, "\n".join(failures)


def run(schema: Any, operation: Any, mode: GenerationMode, ids: dict[str, Any]) -> str:
    """Send an operation its share of requests, and return what is wrong with the answers."""

    @budget(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.generate], **BUDGET)
    @given(case=operation.as_strategy(generation_mode=mode, auth_storage=schema.auth))
    def requests(case: schemathesis.Case) -> None:
        check(case, ids)

    try:
        requests()
    except Unsatisfiable:
        pass  # there is no way to send this operation something that it forbids
    except BaseException as error:  # noqa: BLE001  # failures come as a group
        return f"{operation.label}: {error!r} {getattr(error, 'exceptions', '')}"
    return ""


@pytest.mark.parametrize("role", ROLES)
def test_sequences_of_operations(schema: Any, prometheus: str, role: str) -> None:
    """Follow links: what one operation returned goes into the next."""
    caller(role, prometheus).sign(schema)
    sent: set[str] = set()
    followed: set[str] = set()

    class Machine(schema.as_state_machine()):  # type: ignore[misc]
        def before_call(self, case: schemathesis.Case) -> None:
            prepare(case)
            sent.add(case.operation.label)

        def after_call(self, response: Any, case: schemathesis.Case) -> None:
            if "{" in case.operation.path and response.status_code < 300:
                followed.add(case.operation.label)

        def validate_response(self, response: Any, case: schemathesis.Case, **options: Any) -> None:
            validate(response, case, **options)

    Machine.run(
        settings=budget(
            max_examples=SEQUENCES,
            stateful_step_count=STEPS,
            phases=[Phase.generate],
            **BUDGET,
        )
    )
    assert len(sent) >= 5
    assert followed


@pytest.mark.parametrize(
    ("role", "own", "foreign"),
    [
        ("owner", 200, 404),
        ("viewer", 200, 404),
        ("stranger", 404, 404),
        ("api key", 200, 404),
    ],
)
def test_each_caller_is_who_they_are(
    schema: Any, prometheus: str, role: str, own: int, foreign: int
) -> None:
    """Otherwise every reply above could be one and the same refusal."""
    somebody = caller(role, prometheus)
    operation = schema["/api/v1/projects/{project_id}/connections/{connection_id}/"]["GET"]

    def status(somebody: Caller, ids: dict[str, Any]) -> int:
        names = ("project_id", "connection_id")
        case = operation.Case(path_parameters={name: ids[name] for name in names})
        reply = case.call(headers=somebody.headers, cookies=somebody.cookies)
        return int(reply.status_code)

    assert (status(somebody, somebody.ids), status(somebody, somebody.foreign)) == (own, foreign)
