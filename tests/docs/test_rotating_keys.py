"""docs/rotating-keys.md is walked through under load.

gunicorn with two workers serves reads and writes all the time, the keys change in a file, and each
"restart all" is a graceful reload. No request may fail.
"""

import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytest_django import Settings

from encryption.core.errors import UnknownKeyError
from tests.encryption.test_rotation_crashes import NEW, OLD, environment
from tests.fieldapp.factories import TenantFactory
from tests.fieldapp.models import Note
from tests.processes import CHECKOUT

__all__ = ["environment"]

pytestmark = pytest.mark.services

ROWS = 300
SITE = """
import os
from pathlib import Path

os.environ["KEYRING"] = Path(os.environ["KEYRING_FILE"]).read_text()
from tests.encryption.serving import wsgi
"""


class Load:
    """Clients that read and write rows of their own, and count what is not as it should be."""

    def __init__(self, port: int, clients: int = 3) -> None:
        self.port = port
        self.saved: dict[int, str] = {}
        self.wrong: list[str] = []
        self.done = 0
        self.pids: set[int] = set()
        self.stopping = False
        pks = list(Note.objects.order_by("pk").values_list("pk", flat=True))
        self.threads = [
            threading.Thread(target=self.work, args=(pks[n::clients],)) for n in range(clients)
        ]

    def work(self, pks: list[int]) -> None:
        chance = random.Random(pks[0])
        while not self.stopping:
            pk = chance.choice(pks)
            if chance.random() < 0.5:
                self.saved[pk] = f"{pk}/{chance.random()}"
                self.ask(pk, "POST", json={"secret": self.saved[pk], "part": chance.random() < 0.5})
            else:
                self.ask(pk, "GET")

    def ask(self, pk: int, method: str, **body: Any) -> None:
        """Ask over a new connection, as through a proxy."""
        url = f"http://127.0.0.1:{self.port}/note/{pk}/"
        try:
            answer = httpx.request(method, url, timeout=60, **body)
        except httpx.HTTPError as error:
            self.wrong.append(repr(error))
            return
        self.done += 1
        if answer.status_code != 200:
            self.wrong.append(answer.text[-500:])
        elif answer.json()["secret"] != self.saved.get(pk, f"{pk}/0"):
            self.wrong.append(f"another value of {pk}")
        else:
            self.pids.add(answer.json()["pid"])

    @contextmanager
    def going_on(self) -> Iterator[None]:
        for thread in self.threads:
            thread.start()
        try:
            yield
        finally:
            self.stopping = True
            for thread in self.threads:
                thread.join(60)


class Site:
    """gunicorn with two workers, and the commands of the guide beside it."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = environment
        self.keys = folder / "keyring.json"
        self.log = folder / "gunicorn.log"
        (folder / "walked_site.py").write_text(SITE)
        self.folder = folder
        # gunicorn gets the socket itself, so that nobody else can take the port meanwhile.
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]

    @contextmanager
    def serving(self) -> Iterator[None]:
        options = ("--workers=2", "--threads=4", f"--bind=fd://{self.listener.fileno()}")
        with self.log.open("w") as log, self.listener:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *options, "walked_site:wsgi"],
                cwd=CHECKOUT,
                env={
                    **self.environment,
                    "KEYRING_FILE": str(self.keys),
                    "PYTHONPATH": f"{CHECKOUT}:{self.folder}",
                },
                stdout=log,
                stderr=log,
                pass_fds=[self.listener.fileno()],
            )
        try:
            self._await(2)
            yield
        finally:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def _await(self, boots: int) -> None:
        """Wait until so many workers were started in all, and the older ones have ended."""
        for _ in range(1_200):
            log = self.log.read_text()
            ended = log.count("Worker exiting")
            if log.count("Booting worker") >= boots and ended >= boots - 2:
                return
            assert self.process.poll() is None, log
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def restart_all(self, load: Load, primary: str, *fallbacks: str) -> None:
        """Write the keys into the file, and reload gracefully."""
        boots = self.log.read_text().count("Booting worker")
        self.use(primary, *fallbacks)
        self.process.send_signal(signal.SIGHUP)
        self._await(boots + 2)
        self.work(load)

    def use(self, primary: str, *fallbacks: str) -> None:
        keys = {"MASTER_KEY": primary, "MASTER_KEY_FALLBACKS": list(fallbacks)}
        self.keys.write_text(json.dumps(keys))

    def work(self, load: Load) -> None:
        """Let the clients do something in this state."""
        goal = load.done + 30
        while load.done < goal:
            assert not load.wrong, load.wrong[:3]
            time.sleep(0.05)

    def manage(self, *arguments: str, key: str = NEW, old: str = "") -> tuple[int, str]:
        keys = {"MASTER_ENCRYPTION_KEY": key, **({"OLD_MASTER_KEY": old} if old else {})}
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            env={**self.environment, **keys},
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


def test_the_guide_under_load(
    environment: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    tenants = TenantFactory.create_batch(5)
    Note.objects.bulk_create(
        Note(pk=n, tenant=tenants[n % 5], secret=f"{n}/0", data={"row": n})
        for n in range(1, ROWS + 1)
    )
    site = Site(environment, tmp_path)
    load = Load(site.port)
    site.use(OLD)
    with site.serving(), load.going_on():
        site.work(load)
        site.restart_all(load, OLD, NEW)  # 2
        site.restart_all(load, NEW, OLD)  # 3
        code, out = site.manage("rotate_master_key", "--dry-run", old=OLD)  # 4
        assert (code, "would be rotated" in out) == (1, True), out
        assert site.manage("encryption_status", "--fail-if-stale", old=OLD)[0] == 1
        # Step 4 left out: the check says what is missing, before any process is without the key.
        code, out = site.manage("check", "--database", "default")
        assert (code, "encryption.E030" in out) == (1, True), out
        code, out = site.manage("rotate_master_key", old=OLD)
        assert (code, "All rows are under key" in out) == (0, True), out
        code, out = site.manage("encryption_status", "--fail-if-stale", old=OLD)  # 5
        assert code == 0, out
        assert site.manage("check", "--database", "default")[0] == 0
        site.restart_all(load, NEW)  # 6
    assert load.wrong == []
    assert len(load.pids) >= 6  # two workers of several generations
    settings.ENCRYPTION = {"MASTER_KEY": NEW}
    for row in Note.objects.all():
        assert row.secret == load.saved.get(row.pk, f"{row.pk}/0")
    _go_back(site, settings)


def _go_back(site: Site, settings: Settings) -> None:
    """Swap the keys and rotate again; and what a process sees that was left out of step 2."""
    settings.ENCRYPTION = {"MASTER_KEY": OLD}
    with pytest.raises(UnknownKeyError):
        Note.objects.all()[0].secret  # noqa: B018
    code, out = site.manage("rotate_master_key", key=OLD, old=NEW)
    assert code == 0, out
    assert site.manage("encryption_status", "--fail-if-stale", key=OLD)[0] == 0
    assert Note.objects.count() == len([note.secret for note in Note.objects.all()])
