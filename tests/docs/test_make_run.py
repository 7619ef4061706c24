"""`make run`, the first thing that the README asks for, on a port and with data of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.dashtray.server import free_port
from tests.docs.pages import ROOT

SECONDS = 120


def fetched(address: str) -> str:
    """The page, as soon as the site answers."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            with urlopen(address, timeout=10) as reply:
                text: str = reply.read().decode()
                return text
        except OSError:  # also of a connection that ends in the midst of the page
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


@pytest.mark.services
def test_make_run_starts_a_site_with_demo_data(tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            ["make", "run", f"PORT={port}", f"VENV={Path(sys.executable).parent.parent}"],
            cwd=ROOT,
            # Nothing of what the settings of the tests put into the environment.
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "ENV_FILE": str(tmp_path / "env"),
                "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
                "PYTHONUNBUFFERED": "1",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        assert "Dashtray" in fetched(f"{address}/admin/login/")
        assert fetched(f"{address}/api/v1/docs/")
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait(120)
    said = log.read_text()
    assert f"{address}/" in said
    key = re.search(r"MASTER_ENCRYPTION_KEY=(\w{64})", (tmp_path / "env").read_text())
    assert key is not None
    assert key[1] not in said
