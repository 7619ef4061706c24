"""The figures for Prometheus: who may read them, what they say, and how workers add up."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from encryption import decrypt, encrypt
from encryption.models import RotationRun
from tests.dashtray.production import PRODUCTION, manage
from tests.dashtray.server import Server, end_workers, gunicorn
from tests.encryption.database import store
from tests.fieldapp.factories import NoteFactory

TOKEN = "a token of thirty-two characters!"
OLD = "the old master key, at least 32 characters long"
NEW = "the new master key, at least 32 characters long"


@pytest.fixture(autouse=True)
def token(settings: Settings) -> None:
    settings.METRICS_TOKEN = TOKEN


def figures(text: str) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    }


def read(client: Client) -> dict[str, float]:
    answer = client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return figures(answer.text)


# -- who may read them ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer \xff"]
)
def test_nobody_reads_them_without_the_token(client: Client, db: None, header: str) -> None:
    answer = client.get("/metrics", headers={"authorization": header} if header else {})
    assert (answer.status_code, answer.content) == (401, b"")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer None"])
def test_without_a_token_in_the_settings_no_token_is_right(
    client: Client, settings: Settings, db: None, header: str
) -> None:
    settings.METRICS_TOKEN = ""
    assert client.get("/metrics", headers={"authorization": header}).status_code == 401


def test_staff_read_them_and_other_users_do_not(client: Client, db: None) -> None:
    client.force_login(User.objects.create_user("user"))
    assert client.get("/metrics").status_code == 401
    client.force_login(User.objects.create_user("staff", is_staff=True))
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert "no-store" in answer.headers["Cache-Control"]


def test_a_short_token_is_refused() -> None:
    done = manage("check", **PRODUCTION, METRICS_TOKEN="short")
    assert done.returncode != 0
    assert "openssl rand -hex 32" in done.stderr


# -- what they say ----------------------------------------------------------------------------


def test_operations_are_counted(client: Client, db: None) -> None:
    before = read(client)
    for _ in range(3):
        decrypt(encrypt("text", "a tenant of this test"), "a tenant of this test")
    with pytest.raises(ValueError, match="salt"):
        encrypt("text", "")
    after = read(client)
    grown = {name: after[name] - before.get(name, 0) for name in after if "_total" in name}
    assert {name: count for name, count in grown.items() if count} == {
        'encryption_operations_total{operation="encrypt"}': 3,
        'encryption_operations_total{operation="decrypt"}': 3,
        'encryption_key_cache_lookups_total{result="hit"}': 5,
        'encryption_key_cache_lookups_total{result="miss"}': 1,
        "encryption_key_derivations_total": 1,
        'encryption_failures_total{error="MissingSaltError"}': 1,
    }


def test_rows_and_the_last_rotation(client: Client, settings: Settings, db: None) -> None:
    settings.ENCRYPTION = {"MASTER_KEY": OLD}
    NoteFactory.create_batch(2, data=None)
    settings.ENCRYPTION = {"MASTER_KEY": NEW, "MASTER_KEY_FALLBACKS": [OLD]}
    NoteFactory(data=None)
    store(NoteFactory(data=None), "secret", "v2:00000000:" + "A" * 80)
    counts = {"examined": 5, "rotated": 4, "changed_meanwhile": 1, "failed": 0}
    RotationRun.objects.create(
        started_by="x", to_key_id="0", write_format="v2", columns=[counts, counts]
    )
    found = read(client)
    column = 'column="fieldapp.Note.secret",database="default"'
    assert found[f'encryption_rows{{{column},state="primary"}}'] == 1
    assert found[f'encryption_rows{{{column},state="fallback"}}'] == 2
    assert found[f'encryption_rows{{{column},state="missing"}}'] == 1
    assert found["encryption_rows_counted"] == 1
    assert found["encryption_stale_rows"] == 3
    assert found['encryption_rotation_rows{outcome="rotated"}'] == 8
    assert found['encryption_rotation_status{status="running"}'] == 1
    assert found['encryption_rotation_status{status="done"}'] == 0
    assert abs(found["encryption_rotation_started_timestamp_seconds"] - time.time()) < 60


def test_without_a_keyring_the_rows_are_not_counted(
    client: Client, settings: Settings, db: None
) -> None:
    settings.ENCRYPTION = {"MASTER_KEY": "short"}
    found = read(client)
    assert found["encryption_rows_counted"] == 0
    assert not [name for name in found if name.startswith("encryption_rows{")]


# -- two workers ------------------------------------------------------------------------------


@pytest.fixture(params=[(), ("--preload",)], ids=["plain", "preload"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with gunicorn(tmp_path, *request.param, METRICS_TOKEN=TOKEN) as site:
        yield site


def scrape(server: Server) -> dict[str, float]:
    answer = server.get("/metrics", authorization=f"Bearer {TOKEN}", host="10.1.2.3")
    assert answer.status_code == 200, answer.text
    return figures(answer.text)


def until_two_worked(server: Server) -> Counter[int]:
    done: Counter[int] = Counter()
    end = time.monotonic() + 60
    while len(done) < 2:
        assert time.monotonic() < end, "one worker answered everything"
        done[int(server.get("/effort/").text)] += 1
    return done


def test_two_workers_add_up_also_after_one_has_ended(site: Server) -> None:
    done = until_two_worked(site)
    for _ in range(5):  # whichever answers
        found = scrape(site)
        assert found['encryption_operations_total{operation="encrypt"}'] == 10 * done.total()
        assert found['encryption_operations_total{operation="decrypt"}'] == 10 * done.total()
        assert found["encryption_key_derivations_total"] == 2
    end_workers({min(done)})
    more = until_two_worked(site)
    found = scrape(site)
    expected = 10 * (done.total() + more.total())
    assert found['encryption_operations_total{operation="decrypt"}'] == expected


def test_the_log_of_the_server_is_json_without_probes_and_secrets(tmp_path: Path) -> None:
    with gunicorn(tmp_path, METRICS_TOKEN=TOKEN) as server:
        assert server.get("/effort/?key=sk-canary-of-the-query").status_code == 200
        assert server.get("/fail/?key=sk-canary-of-the-query").status_code == 500
        for _ in range(3):
            server.get("/health/live/")
    text = server.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    access = [line["message"] for line in lines if line["logger"] == "gunicorn.access"]
    access.sort()  # two workers may write their lines in either order
    assert re.fullmatch(r'127\.0\.0\.1 "GET /effort/ HTTP/1\.1" 200 \d+ \d+ms', access[0])
    assert re.fullmatch(r'127\.0\.0\.1 "GET /fail/ HTTP/1\.1" 500 \d+ \d+ms', access[1])
    assert len(access) == 2
    (error,) = [line for line in lines if line["level"] == "ERROR"]
    assert error["error"] == "RuntimeError"
    assert error["request"] == "GET /fail/"
    assert len(error["request_id"]) == 16
    assert "canary" not in text
    assert not list(tmp_path.glob("dashtray-metrics-*"))
