"""The tasks of connections, with real workers on real brokers."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection as BrokerConnection
from pytest_httpserver import HTTPServer

from tests.connections.factories import CANARY
from tests.connections.test_sync_crashes import (
    check_healed,
    check_left,
    driver,
    environment,
    prometheus,
)
from tests.processes import BROKERS, CELERY, Starts, broker, run, workers

__all__ = ["environment", "prometheus"]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(name="broker", params=BROKERS)
def _broker(
    request: pytest.FixtureRequest, environment: dict[str, str]
) -> Iterator[dict[str, str]]:
    with broker(request.param, environment, 4) as found:
        yield found


@pytest.fixture
def start_worker(broker: dict[str, str], tmp_path: Path) -> Iterator[Starts]:
    with workers(broker, tmp_path, "--loglevel", "DEBUG") as start_worker:
        yield start_worker
    for log in tmp_path.glob("worker*.log"):
        assert CANARY not in log.read_text()


def send_due(broker: dict[str, str]) -> None:
    """What the beat does each minute."""
    run(broker, *CELERY, "call", "connections.sync_due")


def wait_for(what: Callable[[], Any], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)


def test_a_killed_worker_leaves_nothing_behind(
    broker: dict[str, str],
    start_worker: Starts,
    prometheus: str,
    httpserver: HTTPServer,
) -> None:
    driver(broker, "fill", prometheus, "1")
    worker = start_worker()
    send_due(broker)
    wait_for(lambda: httpserver.log)  # the service has been asked, and the answer is on its way
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    (left,) = driver(broker, "state")
    check_left(left)
    start_worker()  # gets the task once more, and finds the connection held
    driver(broker, "pass")
    send_due(broker)
    wait_for(lambda: driver(broker, "state")[0]["synced"])
    wait_for(lambda: not driver(broker, "state")[0]["held"])
    check_healed(driver(broker, "state")[0])


def test_no_message_in_the_broker_holds_a_secret(broker: dict[str, str], prometheus: str) -> None:
    driver(broker, "fill", prometheus, "2")
    code = "import connections.tasks as t; import sys; sys.stdout.write(str(t.sync_due()))"
    assert run(broker, "-c", f"import django; django.setup(); {code}") == "2"
    with BrokerConnection(broker["CELERY_BROKER_URL"]) as connection:
        queue = connection.SimpleQueue(broker["CELERY_QUEUE"])
        messages = [queue.get(timeout=10) for _ in range(2)]
        for message in messages:
            message.ack()
        queue.close()
    raw = [(message.body, message.headers, message.properties) for message in messages]
    assert "connections.sync" in str(raw)
    assert CANARY not in str(raw)
    assert "v2:" not in str(raw)
