"""The answers to probes, and to staff."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from dashtray import health
from encryption import conf
from tests.dashtray.production import PRODUCTION, run
from tests.encryption.database import store
from tests.fieldapp.factories import NoteFactory

OLD = "the old master key, at least 32 characters long"
NEW = "the new master key, at least 32 characters long"
FOREIGN = "v2:00000000:" + "A" * 80


@pytest.fixture(autouse=True)
def forget(settings: Settings) -> Iterator[None]:
    settings.ENCRYPTION = {"MASTER_KEY": OLD}  # a keyring that no count was made with
    health._last_problems = []
    yield
    health._last_problems = []


@pytest.fixture
def staff(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_user("staff", is_staff=True))
    return client


def test_live_asks_nothing(client: Client) -> None:
    answer = client.get(health.LIVE)  # no access to the database in this test
    assert (answer.status_code, answer.json()) == (200, {"status": "live"})


def test_a_probe_is_told_yes_and_nothing_else(client: Client, db: None) -> None:
    store(NoteFactory(), "data", None)
    answer = client.get(health.READY)
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
    assert "no-store" in answer.headers["Cache-Control"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not answer.cookies


def test_a_missing_key_makes_it_unavailable(
    client: Client, staff: Client, caplog: pytest.LogCaptureFixture
) -> None:
    store(NoteFactory(), "secret", FOREIGN)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            answer = client.get(health.READY)
            assert (answer.status_code, answer.json()) == (503, {"status": "unavailable"})
    said = [record.getMessage() for record in caplog.records]
    assert said == ["Not ready: 1 row is under key 00000000, which the keyring lacks"]

    answer = staff.get(health.READY)
    assert answer.status_code == 503
    body = answer.json()
    assert body["missing_key_ids"] == {"00000000": 1}
    assert body["problems"] == ["1 row is under key 00000000, which the keyring lacks"]


def test_staff_are_told_the_keys_and_what_is_stale(staff: Client, settings: Settings) -> None:
    old = conf.get_keyring().primary.key_id
    NoteFactory.create_batch(2, data=None)
    settings.ENCRYPTION = {"MASTER_KEY": NEW, "MASTER_KEY_FALLBACKS": [OLD]}
    NoteFactory(data=None)
    for stale in (2, 3):
        answer = staff.get(health.READY)
        assert answer.status_code == 200
        assert answer.json() == {
            "status": "ready",
            "problems": [],
            "primary_key_id": conf.get_keyring().primary.key_id,
            "fallback_key_ids": [old],
            "missing_key_ids": {},
            "stale_rows": stale,
        }
        # What staff see is of now.
        settings.ENCRYPTION = {"MASTER_KEY": OLD, "MASTER_KEY_FALLBACKS": [NEW]}
        NoteFactory(data=None)
        settings.ENCRYPTION = {"MASTER_KEY": NEW, "MASTER_KEY_FALLBACKS": [OLD]}


def test_a_user_who_is_not_staff_is_told_no_more_than_a_probe(client: Client, db: None) -> None:
    client.force_login(User.objects.create_user("user"))
    assert client.get(health.READY).json() == {"status": "ready"}


def test_probes_count_once_and_decrypt_nothing(client: Client, db: None) -> None:
    NoteFactory()
    client.get(health.READY)
    before = conf.COUNTS.snapshot()
    with CaptureQueriesContext(connection) as queries:
        client.get(health.READY)
    assert [query["sql"] for query in queries] == ["SELECT 1"]
    assert conf.COUNTS.snapshot() == before


def test_a_count_grows_old(client: Client, settings: Settings, db: None) -> None:
    settings.HEALTH_COUNT_SECONDS = 0
    note = NoteFactory()
    assert client.get(health.READY).status_code == 200
    store(note, "secret", FOREIGN)
    assert client.get(health.READY).status_code == 503


def test_another_keyring_is_counted_anew(client: Client, settings: Settings, db: None) -> None:
    NoteFactory()
    assert client.get(health.READY).status_code == 200
    settings.ENCRYPTION = {"MASTER_KEY": NEW}
    assert client.get(health.READY).status_code == 503


@pytest.mark.parametrize("key", ["", "short"], ids=["none", "short"])
def test_without_a_keyring(
    client: Client, staff: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.delenv("MASTER_ENCRYPTION_KEY", raising=False)
    settings.ENCRYPTION = {"MASTER_KEY": key}
    answer = client.get(health.READY)
    assert (answer.status_code, answer.json()) == (503, {"status": "unavailable"})
    (problem,) = staff.get(health.READY).json()["problems"]
    assert "generate_master_key" in problem


class BrokenProvider:
    def __init__(self, options: object) -> None:
        pass

    def keys(self) -> None:
        raise TimeoutError("https://user:secret@kms.example")


def test_a_key_service_that_fails(staff: Client, settings: Settings) -> None:
    settings.ENCRYPTION = {"KEY_PROVIDER": f"{__name__}.BrokenProvider"}
    answer = staff.get(health.READY)
    assert (answer.status_code, answer.json()["problems"]) == (503, ["keyring: TimeoutError"])


def test_a_cache_that_does_not_answer(client: Client, staff: Client, settings: Settings) -> None:
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://127.0.0.1:1",
        }
    }
    assert client.get(health.READY).status_code == 503
    assert staff.get(health.READY).json()["problems"] == ["cache: ConnectionError"]
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    assert client.get(health.READY).status_code == 200


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_probes_only_read(client: Client, method: str) -> None:
    assert getattr(client, method)(health.LIVE).status_code == 405
    assert getattr(client, method)(health.READY).status_code == 405


def test_head_is_answered(client: Client, db: None) -> None:
    assert client.head(health.LIVE).status_code == 200
    assert client.head(health.READY).status_code == 200


ASK = """
import json
from django.test import Client
client = Client(raise_request_exception=False, headers={"host": HOST})
answers = [client.get(path) for path in ("/health/live/", "/health/ready/", "/")]
print(json.dumps([(answer.status_code, answer.text) for answer in answers]))
"""


MIGRATE = "from django.core.management import call_command; call_command('migrate', verbosity=0)"
NO_DATABASE = {
    **PRODUCTION,
    "DATABASE_URL": "postgres://user:the-password@127.0.0.1:1/none",
}


def test_in_production_a_probe_needs_neither_https_nor_the_name_of_the_site(tmp_path: Path) -> None:
    code = MIGRATE + ASK.replace("HOST", "'10.1.2.3:8000'")
    done = run(code, **PRODUCTION, STATIC_ROOT=str(tmp_path))
    live, ready, page = json.loads(done.stdout.splitlines()[-1])
    assert live == [200, '{"status": "live"}']
    assert ready == [200, '{"status": "ready"}']
    assert page[0] == 400
    assert "dashtray.health" not in done.stderr


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    code = ASK.replace("HOST", "'dashtray.example'")
    done = run(code, **NO_DATABASE, STATIC_ROOT=str(tmp_path))
    live, ready, _ = json.loads(done.stdout.splitlines()[-1])
    assert live == [200, '{"status": "live"}']
    assert ready == [503, '{"status": "unavailable"}']
    assert "Not ready: database default: OperationalError" in done.stderr
    assert "Traceback" not in done.stderr
    assert "the-password" not in done.stderr


def test_staff_without_a_database_are_answered_as_a_probe(tmp_path: Path) -> None:
    code = ASK.replace("client.get(path)", "client.get(path, secure=True)").replace(
        "answers =", "client.cookies['sessionid'] = 'x' * 32\nanswers ="
    )
    code = code.replace("HOST", "'dashtray.example'")
    done = run(code, **NO_DATABASE, STATIC_ROOT=str(tmp_path))
    live, ready, _ = json.loads(done.stdout.splitlines()[-1])
    assert live == [200, '{"status": "live"}']
    assert ready == [503, '{"status": "unavailable"}']
