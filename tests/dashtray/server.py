"""A real gunicorn with its real configuration."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from dashtray.environment import CHECKOUT
from tests.dashtray.production import PRODUCTION, manage


@dataclass
class Server:
    """A running server.

    Attributes:
        port: on 127.0.0.1.
        log: the file with all that it wrote.
        pid: of the master process.
    """

    port: int
    log: Path
    pid: int

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Ask over a new connection, as a proxy on the same machine that speaks HTTPS outside."""
        sent = {"host": "dashtray.example", "x-forwarded-proto": "https", **headers}
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=sent, timeout=20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def gunicorn(
    folder: Path, *options: str, module: str = "dashtray.wsgi", **environ: str
) -> Iterator[Server]:
    """Migrate a database in the folder and serve the site with two workers."""
    (folder / "static").mkdir(exist_ok=True)
    environment = {
        **PRODUCTION,
        "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
        "STATIC_ROOT": str(folder / "static"),
        "TRUST_X_FORWARDED_PROTO": "true",
        "PYTHONPATH": str(CHECKOUT),
        "TMPDIR": str(folder),
        **environ,
    }
    migrated = manage("migrate", "--verbosity", "0", **environment)
    assert migrated.returncode == 0, migrated.stderr
    environment["DJANGO_SETTINGS_MODULE"] = "tests.dashtray.site_settings"
    log = folder / "gunicorn.log"
    command = [sys.executable, "-m", "gunicorn", "--config", "deploy/gunicorn.conf.py"]
    # The server gets the socket itself, so that nobody else can take the port meanwhile.
    with log.open("w") as stream, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        process = subprocess.Popen(
            [*command, *options, module],
            cwd=CHECKOUT,
            env={
                "PATH": os.environ["PATH"],
                **environment,
                "BIND": f"fd://{listener.fileno()}",
            },
            stdout=stream,
            stderr=stream,
            pass_fds=[listener.fileno()],
        )
    server = Server(port, log, process.pid)
    try:
        _wait_until_ready(server, process)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


def end_workers(pids: Collection[int]) -> None:
    """End processes of a server, and wait until they are gone."""
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 60
    while any(map(_is_there, pids)):
        assert time.monotonic() < end, "a worker does not end"
        time.sleep(0.05)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_until_ready(server: Server, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, server.log.read_text()
        try:
            if server.get("/health/ready/").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(server.log.read_text())
