"""The lines of the log: what stands in them, and that no route brings a secret into one."""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from connections.integrations.http import Api
from dashtray import logs
from encryption import encrypt
from tests.dashtray.production import PRODUCTION, run
from tests.fieldapp.factories import NoteFactory

PASSPHRASE = "correct horse battery staple, and more of them"
CANARIES = {
    "v2 token": encrypt("text", 1).rpartition(":")[2],
    "v1 token": "q8Xw1nE5ZzQp+3v/7bTfYkLmNoPqRsTuVwXyZ0123456789A==",
    "master key": "9a" * 32,
    "pass phrase": PASSPHRASE,
    "api key": "pp_live_abcDEF123456_" + "Zz9" * 14 + "a123456",
    "ai key": "sk-proj-abc123DEF456ghi789",
    "header": "Authorization: Bearer canary-of-header",
    "address": "postgres://user:canary-of-address@db.example/name",
}
LEAKS = [
    CANARIES["v2 token"],
    CANARIES["v1 token"],
    CANARIES["master key"],
    PASSPHRASE,
    CANARIES["api key"][8:],
    CANARIES["ai key"][3:],
    "canary-of-header",
    "canary-of-address",
]
EVERYTHING = " ".join(CANARIES.values())

Lines = Callable[[], str]


@pytest.fixture(params=["json", "line"])
def lines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """What the site's handler wrote since the test began."""
    monkeypatch.setenv("OLD_MASTER_KEY", PASSPHRASE)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        logs.JsonFormatter()
        if request.param == "json"
        else logs.LineFormatter("{asctime} {levelname} {name}: {message}", style="{")
    )
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream.getvalue
    root.setLevel(before)
    root.removeHandler(handler)


@pytest.fixture
def logger() -> logging.Logger:
    return logging.getLogger("canaries")


def assert_clean(text: str, said: str) -> None:
    assert said in text
    assert [leak for leak in LEAKS if leak in text] == []


def test_in_the_message(lines: Lines, logger: logging.Logger) -> None:
    logger.warning("said " + EVERYTHING)  # noqa: G003
    assert_clean(lines(), "said")


@pytest.mark.parametrize("name", CANARIES)
def test_in_the_arguments(lines: Lines, logger: logging.Logger, name: str) -> None:
    logger.warning("said %s %r", CANARIES[name], {"x": [CANARIES[name].encode()]})
    logger.warning("said %(x)s", {"x": CANARIES[name]})
    assert_clean(lines(), "said")


@pytest.mark.parametrize("formatter", [logs.JsonFormatter, logs.LineFormatter])
def test_in_arguments_that_do_not_fit(
    formatter: type[logging.Formatter], capsys: pytest.CaptureFixture[str]
) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter())
    handler.handle(logging.LogRecord("x", logging.INFO, "f", 1, "said %d", (EVERYTHING,), None))
    assert_clean(capsys.readouterr().err, "do not fit")


def test_in_an_exception_and_its_locals(lines: Lines, logger: logging.Logger) -> None:
    def work(held: str) -> None:
        local = held.upper().lower()
        raise ValueError(f"inner {held}", local and held)

    try:
        try:
            work(EVERYTHING)
        except ValueError as error:
            error.add_note(f"noted {EVERYTHING}")
            raise RuntimeError(EVERYTHING) from error
    except RuntimeError:
        logger.exception("failed")
    assert_clean(lines(), "inner")
    assert_clean(lines(), "RuntimeError")


def test_in_extra_fields(lines: Lines, logger: logging.Logger) -> None:
    logger.warning(
        "extra",
        extra={
            "plain": EVERYTHING,
            "nested": {EVERYTHING: [EVERYTHING, {"deep": EVERYTHING}]},
            "api_key": "anything",
            "raw": EVERYTHING.encode(),
        },
    )
    assert_clean(lines(), "extra")
    assert "anything" not in lines()


def test_in_a_stack(lines: Lines, logger: logging.Logger) -> None:
    eval("logger.warning('stack', stack_info=True) or " + repr(CANARIES["api key"]))
    assert_clean(lines(), "stack")


def test_in_statements(lines: Lines, db: None) -> None:
    backend = logging.getLogger("django.db.backends")
    before = backend.level
    backend.setLevel(logging.DEBUG)
    try:
        with CaptureQueriesContext(connection), connection.cursor() as cursor:
            note = NoteFactory(note="a note 'of canary-of-values")
            cursor.execute("SELECT %s, %s", [EVERYTHING, "it's canary-of-values"])
    finally:
        backend.setLevel(before)
    assert_clean(lines(), "INSERT INTO")
    assert note.secret not in lines()
    assert "canary-of-values" not in lines()


def test_in_a_refused_request(lines: Lines, client: Client) -> None:
    path = f"/nowhere/{CANARIES['api key']}"
    client.get(
        path, {"x": CANARIES["ai key"]}, headers={"authorization": "Bearer canary-of-header"}
    )
    logging.getLogger("django.request").error(
        "failed", extra={"request": RequestFactory().get("/a/", {"x": EVERYTHING})}
    )
    assert_clean(lines(), "Not Found")


def test_a_line_of_json_says_what_happened(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    formatter = logs.JsonFormatter()
    record = logging.LogRecord("a.b", logging.INFO, "f", 1, "%d rows", (3,), None)
    record.rows = 3
    line = json.loads(formatter.format(record))
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "INFO", "logger": "a.b", "message": "3 rows", "rows": 3}
    try:
        raise KeyError("x")
    except KeyError:
        record.exc_info = sys.exc_info()
    line = json.loads(formatter.format(record))
    assert line["error"] == "KeyError"
    assert line["traceback"].startswith("Traceback (most recent call last)")


def test_a_lone_surrogate_and_a_line_break_stay_within_one_line() -> None:
    record = logging.LogRecord("a", logging.INFO, "f", 1, "\udcff\n{}", (), None)
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text
    text.encode("ascii")


def test_each_request_has_a_name(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    class Names(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(logs.request_id.get())

    handler = Names()
    logging.getLogger("django.request").addHandler(handler)
    try:
        answers = [client.get("/nowhere/", headers={"x-request-id": "mine"}) for _ in range(2)]
    finally:
        logging.getLogger("django.request").removeHandler(handler)
    names = [answer.headers["X-Request-ID"] for answer in answers]
    assert seen == names
    assert len(set(names)) == 2
    assert all(len(name) == 16 for name in names)
    assert logs.request_id.get() == ""


def test_known_secrets_are_those_of_the_environment(tmp_path: Any) -> None:
    file = tmp_path / "key"
    file.write_text("the key in the file, with more than 32 letters\n")
    found = set(
        logs.known_secrets(
            {
                "SECRET_KEY": "one",
                "MASTER_ENCRYPTION_KEY_FALLBACKS": "two,three\nfour",
                "MASTER_ENCRYPTION_KEY_FILE": str(file),
                "DEMO_PASSWORD": "five",
                "PATH": "/bin",
            }
        )
    )
    assert {"one", "two", "three", "four", "five"} < found
    assert "the key in the file, with more than 32 letters" in found
    assert "/bin" not in found


CELERY = """
import threading
from celery.contrib.testing.worker import start_worker
from celery.signals import task_postrun
from celery.utils.log import get_task_logger
from dashtray.celery import app

done = threading.Event()

@task_postrun.connect  # comes after the failure is logged
def tell(**_):
    done.set()

@app.task(name="canary")
def canary(*args, **kwargs):
    get_task_logger("canary").warning("working with %s %s", args, kwargs)
    local = args
    raise ValueError("failed with", *args)

with start_worker(app, perform_ping_check=False, loglevel="DEBUG", shutdown_timeout=30):
    canary.delay(EVERYTHING, "canary-of-values", password=EVERYTHING)
    assert done.wait(60)
"""


def test_in_the_arguments_of_a_task_that_fails() -> None:
    done = run(
        f"EVERYTHING = {EVERYTHING!r}\n{CELERY}",
        **PRODUCTION,
        CELERY_BROKER_URL="memory://",
        OLD_MASTER_KEY=PASSPHRASE,
    )
    assert_clean(done.stderr + done.stdout, "raised unexpected")
    assert "working with" in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["logger"] for line in lines if "working with" in line["message"]] == ["canary"]


def test_a_refused_request_in_production(tmp_path: Any) -> None:
    code = (
        "from django.test import Client\n"
        "client = Client(headers={'host': 'x'})\n"
        f"client.get('/', {{'key': {CANARIES['ai key']!r}}}, secure=True)\n"
    )
    done = run(code, **PRODUCTION, STATIC_ROOT=str(tmp_path))
    assert_clean(done.stderr, "DisallowedHost")
    for line in done.stderr.splitlines():
        json.loads(line)


def test_the_address_of_a_request_to_a_service_is_not_logged(
    lines: Lines, httpserver: Any, settings: Any
) -> None:
    settings.CONNECTIONS = {"ALLOWED_HOSTS": ["127.0.0.1"]}
    httpserver.expect_request("/path-of-service").respond_with_data("fine")
    with Api(f"http://127.0.0.1:{httpserver.port}") as api:
        api.get("path-of-service", {"query": "canary-of-query"})
    # The server of this test has a log of its own.
    told = [line for line in lines().splitlines() if "werkzeug" not in line]
    assert "path-of-service" not in "\n".join(told)
