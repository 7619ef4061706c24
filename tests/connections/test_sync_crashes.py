"""Workers that are killed while they sync: real processes, SIGKILL, a real database.

SYNC_KILLS is how often the command is killed at a random moment.
"""

import json
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from connections.conf import get_settings
from tests.processes import database_url, environment_for, run, start

pytestmark = pytest.mark.django_db(transaction=True)

KILLS = int(os.environ.get("SYNC_KILLS", "2"))
CONNECTIONS = 4
MOMENTS = 50
KEY = "a master key of this test, at least 32 characters long"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What other processes need to work on a database that they can see."""
    file = tmp_path / "killed.sqlite3"
    is_file = connection.vendor == "sqlite"
    environment = {
        **environment_for(f"sqlite:///{file}" if is_file else database_url(connection)),
        "MASTER_ENCRYPTION_KEY": KEY,
        "CONNECTIONS_ALLOWED_HOSTS": "localhost",
    }
    if is_file:
        run(environment, "manage.py", "migrate", "--verbosity", "0")
    return environment


def driver(environment: dict[str, str], *arguments: str) -> Any:
    """Have a command of ``crashing.py`` done in another process."""
    return json.loads(run(environment, "-m", "tests.connections.crashing", *arguments))


@pytest.fixture
def prometheus(httpserver: HTTPServer) -> str:
    """A server with one value for each of the last minutes, which takes a moment to answer."""
    newest = int(time.time()) // 60 * 60

    def answer(request: Request) -> Response:
        time.sleep(0.1)
        values = [[newest - 60 * minute, "1"] for minute in range(MOMENTS, 0, -1)]
        document = {"data": {"result": [{"metric": {}, "values": values}]}}
        return Response(json.dumps(document), content_type="application/json")

    httpserver.expect_request("/api/v1/query_range").respond_with_handler(answer)
    return f"http://localhost:{httpserver.port}"


def check_left(left: dict[str, Any]) -> None:
    """All of a fetch is stored or nothing, each value once, and nobody is kept out for ever."""
    assert len(left["moments"]) == len(set(left["moments"]))
    assert len(left["moments"]) in {0, MOMENTS}
    assert left["held"] <= get_settings().lease.total_seconds()
    assert (left["status"], left["health"]) == ("active", 100)
    assert not left["synced"] or len(left["moments"]) == MOMENTS


def check_healed(state: dict[str, Any]) -> None:
    assert len(state["moments"]) == len(set(state["moments"])) == MOMENTS
    assert (state["held"], state["synced"]) == (0, True)
    assert (state["status"], state["health"]) == ("active", 100)


def test_a_worker_is_killed_before_and_after_each_of_its_queries(
    environment: dict[str, str], prometheus: str
) -> None:
    driver(environment, "fill", prometheus, "1")
    *killed, last = driver(environment, "points")
    assert len(killed) >= 16
    assert all(one["killed"] for one in killed)
    for one in [*killed, last]:
        check_left(one["left"])
        assert one["healed"] == 0
        check_healed(one["after"])
    # It was killed with the connection in its hands, and with and without the metrics stored.
    assert {one["left"]["held"] > 0 for one in killed} == {True, False}
    assert {len(one["left"]["moments"]) for one in killed} == {0, MOMENTS}


def test_the_command_is_killed_at_random_moments(
    environment: dict[str, str], prometheus: str, httpserver: HTTPServer
) -> None:
    driver(environment, "fill", prometheus, str(CONNECTIONS))
    chance = random.Random(4)
    alive = 0
    for _ in range(KILLS):
        asked = len(httpserver.log)
        worker = start(environment, "manage.py", "sync_connections", "--all", stdout=-3)
        while len(httpserver.log) == asked and worker.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.1 * CONNECTIONS)
        alive += worker.poll() is None
        worker.kill()
        worker.wait()
        for left in driver(environment, "state"):
            check_left(left)
        driver(environment, "pass")
    assert alive, "the command was over before it was killed"
    assert "0 failed, 0 busy" in run(environment, "manage.py", "sync_connections", "--all")
    for state in driver(environment, "state"):
        check_healed(state)


def test_two_commands_at_once_fetch_each_connection_once(
    environment: dict[str, str], prometheus: str, httpserver: HTTPServer
) -> None:
    driver(environment, "fill", prometheus, str(CONNECTIONS))
    workers = [
        start(environment, "manage.py", "sync_connections", stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    out = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    for state in driver(environment, "state"):
        check_healed(state)
    assert len(httpserver.log) == CONNECTIONS, out
