"""Real servers under load while the keyring changes as docs/rotating-keys.md tells.

At each step a new server with the next keyring is started, the clients go over to it, and then the
old one is stopped; so two keyrings are in use at once, as with any rolling restart. Nobody may ever
get a wrong value or an error. STRESS multiplies the requests of each client.
"""

import asyncio
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connection
from pytest_django import Settings

from encryption.conf import get_keyring
from encryption.registry import EncryptedColumn
from encryption.rotation import Rotation
from tests.encryption.test_concurrency import NEW, STEPS, STRESS
from tests.fieldapp.models import Note, Tenant
from tests.processes import CHECKOUT

pytestmark = pytest.mark.services

TENANTS = 200
#: Steps of each client at each keyring.
EACH = 5 * STRESS
# A connection is kept open for longer than any client is quiet: one that the server closes just as
# a client sends a request is an error, though none of ours.
GUNICORN = ["gunicorn", "tests.encryption.serving:wsgi", "--workers=3", "--threads=4"]
UVICORN = ["uvicorn", "tests.encryption.serving:asgi", "--workers=2", "--log-level=error"]


def gunicorn(port: int) -> list[str]:
    return [*GUNICORN, f"--bind=127.0.0.1:{port}", "--keep-alive=300"]


def preloading_gunicorn(port: int) -> list[str]:
    return [*gunicorn(port), "--preload"]


def uvicorn(port: int) -> list[str]:
    return [*UVICORN, f"--port={port}", "--timeout-keep-alive=300"]


Command = Callable[[int], list[str]]


@contextmanager
def server(command: Command, url: str, keyring: dict[str, Any], log: Path) -> Iterator[str]:
    """Run a server; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment = clean | {
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "tests.encryption.keys_of_environment",
        "KEYRING": json.dumps(keyring),
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command(port)],
            env=environment,
            cwd=CHECKOUT,
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(port, process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


class Clients:
    """Clients of the same site, each of which writes rows of its own and reads everybody's."""

    def __init__(self, count: int, prefix: str, tenants: list[int]) -> None:
        self.count = count
        self.prefix = prefix
        self.rows = range(1, len(tenants) + 1)
        self.tenants = tenants
        self.address = ""
        self.stopping = False
        self.saved: dict[int, str] = {}
        self.done = [0] * count
        self.kinds: Counter[str] = Counter()
        self.pids: set[int] = set()

    async def client(self, number: int, http: httpx.AsyncClient) -> None:
        while not self.address:
            await asyncio.sleep(0.01)
        chance = random.Random(number)
        mine = self.rows[number :: self.count]
        while not self.stopping:
            kind = chance.choice(["read", "read", "list", "save", "part", "move"])
            if kind == "list":
                pk = chance.choice(self.rows)
                found = await self.ask(http, "GET", f"notes/{pk}/")
                for one, row in found.items():
                    self.check(int(one), row)
            elif kind == "read":
                pk = chance.choice(self.rows)
                self.check(pk, await self.ask(http, "GET", f"note/{pk}/"))
            else:
                await self.write(http, kind, chance.choice(mine), chance)
            self.kinds[kind] += 1
            self.done[number] += 1

    async def write(
        self, http: httpx.AsyncClient, kind: str, pk: int, chance: random.Random
    ) -> None:
        before = await self.ask(http, "GET", f"note/{pk}/")
        assert before["secret"] == self.saved.get(pk, f"{pk}/0")
        if kind == "move":
            body: dict[str, Any] = {"tenant": chance.choice(self.tenants)}
        else:
            body = {"secret": f"{pk}/{chance.random()}", "part": kind == "part"}
        self.check(pk, await self.ask(http, "POST", f"note/{pk}/", json=body))
        self.saved[pk] = body.get("secret", before["secret"])

    async def ask(self, http: httpx.AsyncClient, method: str, path: str, **body: Any) -> Any:
        response = await http.request(method, f"{self.address}/{self.prefix}{path}", **body)
        assert response.status_code == 200, response.text
        return response.json()

    def check(self, pk: int, row: dict[str, Any]) -> None:
        """A value names the row that it was written to."""
        assert row["secret"].startswith(f"{pk}/")
        assert row["data"]["row"] == pk
        self.pids.add(row["pid"])

    async def work(self, steps: int) -> None:
        """Wait until each client has done some steps that began after this call."""
        goals = [done + 1 + steps for done in self.done]
        while any(done < goal for done, goal in zip(self.done, goals, strict=True)):
            await asyncio.sleep(0.01)
            for task in self.tasks:
                if task.done():
                    task.result()

    async def stop(self) -> None:
        self.stopping = True
        await asyncio.gather(*self.tasks)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Let the clients work meanwhile."""
        async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=64)) as http:
            self.tasks = [asyncio.create_task(self.client(n, http)) for n in range(self.count)]
            try:
                yield
            finally:
                self.stopping = True
                await asyncio.gather(*self.tasks, return_exceptions=True)


def rotate() -> None:
    for name in ("secret", "data"):
        column = EncryptedColumn(Note, Note._meta.get_field(name))  # type: ignore[arg-type]
        assert Rotation(column, "default").run().failed == 0
    connection.close()


@pytest.mark.parametrize(
    ("command", "clients", "prefix"),
    [
        pytest.param(gunicorn, 16, "", id="gunicorn"),
        pytest.param(preloading_gunicorn, 16, "", id="gunicorn-preload"),
        # Each request has a database connection, of which PostgreSQL allows a hundred.
        pytest.param(uvicorn, 24, "async/", id="asgi"),
    ],
)
def test_servers_while_the_keyring_changes(
    shared_database: str,
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    command: Command,
    clients: int,
    prefix: str,
) -> None:
    caplog.set_level(logging.WARNING, "httpx")
    settings.ENCRYPTION = STEPS[0]
    tenants = Tenant.objects.bulk_create(Tenant() for _ in range(TENANTS))
    Note.objects.bulk_create(
        Note(pk=number, tenant=tenant, secret=f"{number}/0", data={"row": number})
        for number, tenant in enumerate(tenants, 1)
    )
    everybody = Clients(clients, prefix, [tenant.pk for tenant in tenants])
    settings.ENCRYPTION = STEPS[-1]  # for the rotation
    asyncio.run(go_through(everybody, command, shared_database, tmp_path / "log"))

    for row in Note.objects.all():
        assert row.secret == everybody.saved.get(row.pk, f"{row.pk}/0")
        assert row.data["row"] == row.pk
    for tokens in Note.objects.values_list("secret", "data"):
        assert {token.key_id for token in tokens} == {get_keyring().primary.key_id}
    assert len(everybody.saved) > clients
    assert len(everybody.pids) >= len(STEPS)  # each server answered
    told = f"{sum(everybody.done)} steps: {dict(everybody.kinds)}, {len(everybody.pids)} processes"
    print(f"\n{told}")  # noqa: T201  # for docs/concurrency.md


async def go_through(everybody: Clients, command: Command, url: str, log: Path) -> None:
    """Bring the site from the old key to the new one, a server for each step."""
    with ExitStack() as servers:
        async with everybody.working():
            before = ExitStack()
            for keyring in (*STEPS, {"MASTER_KEY": NEW}):
                if keyring == {"MASTER_KEY": NEW}:
                    await asyncio.to_thread(rotate)
                running = servers.enter_context(ExitStack())
                starting = running.enter_context
                everybody.address = await asyncio.to_thread(
                    starting, server(command, url, keyring, log)
                )
                await everybody.work(1)  # nobody waits for the one before any more
                await asyncio.to_thread(before.close)
                before = running
                await everybody.work(EACH)
            await everybody.stop()
