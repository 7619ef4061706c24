"""Other processes on the database of a test: commands, and Celery's workers on real brokers."""

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper

CHECKOUT = Path(__file__).parents[1]
CELERY = ("-m", "celery", "--app", "dashtray")
#: Brokers by name, and their ports on this machine.
BROKERS = {"redis": 6379, "rabbitmq": 5672}

Environment = Mapping[str, str]
Starts = Callable[[], "subprocess.Popen[str]"]


def database_url(connection: BaseDatabaseWrapper) -> str:
    """The database of a connection to PostgreSQL or MariaDB, as ``DATABASE_URL``."""
    server = {
        "postgresql": "postgres://postgres@127.0.0.1:5432",
        "mysql": "mysql://root@127.0.0.1:3306",
    }[connection.vendor]
    return f"{server}/{connection.settings_dict['NAME']}"


def environment_for(url: str) -> dict[str, str]:
    """What a process needs to work on a database, its master keys in the environment."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    settings = "tests.encryption.keys_of_environment"
    return {**clean, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": settings}


def start(environment: Environment, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
    """Start Python with these arguments."""
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, cwd=CHECKOUT, text=True, **options
    )


def run(environment: Environment, *arguments: str) -> str:
    """Run Python with these arguments; what it printed.

    Raises:
        AssertionError: it failed; with what it said.
    """
    process = start(environment, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return out


@contextmanager
def broker(name: str, environment: Environment, redis_database: int) -> Iterator[dict[str, str]]:
    """An environment with a queue of its own on a broker, which is emptied afterwards."""
    port = BROKERS[name]
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)):
            pytest.fail(f"{name} does not answer on port {port}")
    url = f"redis://127.0.0.1:{port}/{redis_database}" if name == "redis" else ""
    queue = {
        "CELERY_BROKER_URL": url or f"amqp://127.0.0.1:{port}//",
        "CELERY_QUEUE": f"test-{uuid.uuid4()}",
    }
    yield {**environment, **queue}
    run({**environment, **queue}, *CELERY, "purge", "--force")


@contextmanager
def workers(environment: Environment, folder: Path, *options: str) -> Iterator[Starts]:
    """Start workers of one process each, whose logs are worker*.log in a folder, and end them."""
    running: list[subprocess.Popen[str]] = []

    def start_worker() -> "subprocess.Popen[str]":
        with (folder / f"worker{len(running)}.log").open("w") as log:
            command = (*CELERY, "worker", "--concurrency", "1", *options)
            worker = start(environment, *command, stdout=log, stderr=log, start_new_session=True)
        running.append(worker)
        return worker

    yield start_worker
    for worker in running:
        if worker.poll() is None:
            worker.terminate()
            worker.wait(timeout=120)
