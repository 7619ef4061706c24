"""deploy/Containerfile, instruction by instruction, where no container engine is needed.

Its folder and its account get other names, and `python` is that of a fresh environment.
"""

import getpass
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.dashtray.server import free_port
from tests.docs.checkout import copy
from tests.docs.pages import ROOT

UID = 10001


def instructions() -> list[tuple[str, str]]:
    """Each word in capitals, and what it is about; comments go first, then lines are joined."""
    lines = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    found = (line.split(" ", 1) for line in text.replace("\\\n", " ").splitlines())
    return [(word, rest) for word, rest in found]


class Image:
    """What the instructions make: a folder, an environment, an account, a command."""

    def __init__(self, base: Path) -> None:
        self.base, self.account = base, base.name
        self.folder = base / "site"
        # As in docs/deployment.md: a Python that every account may run.
        subprocess.run(["/usr/bin/python3", "-m", "venv", base / "python"], check=True)
        # What pip needs to find packages; no setting of the tests.
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("PIP_") or name in {"LANG", "LC_ALL"}
        } | {"PATH": f"{base}/python/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.user, self.command = "", [""]
        for word, rest in instructions():
            getattr(self, word)(rest)

    def FROM(self, image: str) -> None:  # noqa: N802  # named as the instructions are
        assert re.fullmatch(r"docker\.io/library/python:3\.1[1-3]-slim", image)

    def ENV(self, pairs: str) -> None:  # noqa: N802
        self.environment |= dict(pair.split("=", 1) for pair in shlex.split(pairs))

    def WORKDIR(self, folder: str) -> None:  # noqa: N802
        assert folder == "/opt/dashtray"
        self.folder.mkdir()

    def COPY(self, what: str) -> None:  # noqa: N802
        assert what == ". ."
        ignored = (ROOT / ".containerignore").read_text(encoding="utf-8").split()
        copy(self.folder, ignored)

    def RUN(self, command: str) -> None:  # noqa: N802
        command, count = re.subn(r"(?<=nologin )dashtray\b", self.account, command)
        assert count == 1
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def USER(self, user: str) -> None:  # noqa: N802
        assert user == str(UID)
        self.user = user

    def EXPOSE(self, port: str) -> None:  # noqa: N802
        assert self.environment["BIND"].endswith(f":{port}")

    def CMD(self, command: str) -> None:  # noqa: N802
        self.command = json.loads(command)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Run a command, or that of the image, as a container does."""
        words = command or tuple(self.command)
        return subprocess.Popen(
            [shutil.which(words[0], path=self.environment["PATH"]) or words[0], *words[1:]],
            cwd=self.folder,
            env=self.environment | environment,
            user=int(self.user),
            group=int(self.user),
            extra_groups=[],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def image() -> Iterator[Image]:
    # pytest's own folders can be entered by their owner alone.
    base = Path("/var/tmp") / f"dashtray{secrets.token_hex(3)}"
    base.mkdir(mode=0o755)
    try:
        yield Image(base)
    finally:
        shutil.rmtree(base)
        subprocess.run(["userdel", base.name], check=False, capture_output=True)


@pytest.mark.services
@pytest.mark.skipif(getpass.getuser() != "root", reason="makes an account")
def test_the_instructions_give_a_site_that_runs(image: Image) -> None:
    key, data = image.base / "master-key", image.base / "data"
    key.write_text(secrets.token_hex(32))
    data.mkdir()
    for path in (key, data):
        os.chown(path, UID, UID)
    key.chmod(0o400)
    settings = {
        "SECRET_KEY": secrets.token_hex(32),
        "ALLOWED_HOSTS": "dashtray.example",
        "MASTER_ENCRYPTION_KEY_FILE": str(key),
        "DATABASE_URL": f"sqlite:///{data}/db.sqlite3",
        "TRUST_X_FORWARDED_PROTO": "true",
    }
    before = {path for path in image.folder.rglob("*") if path.is_file()}
    migrated = image.start("python", "manage.py", "migrate", "--verbosity", "0", **settings)
    said, _ = migrated.communicate(timeout=120)
    assert migrated.returncode == 0, said

    port = free_port()
    server = image.start(**settings, BIND=f"127.0.0.1:{port}")
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                ready = httpx.get(f"{address}/health/ready/", timeout=20)
                break
            except httpx.TransportError:
                assert server.poll() is None, server.communicate()[0]
                time.sleep(0.2)
        else:
            pytest.fail("the site does not answer")
        assert ready.json() == {"status": "ready"}
        headers = {"host": "dashtray.example", "x-forwarded-proto": "https"}
        page = httpx.get(f"{address}/admin/login/", headers=headers, timeout=20)
        assert page.status_code == 200
        (style,) = set(re.findall(r'href="(/static/admin/css/base\.\w+\.css)"', page.text))
        assert httpx.get(f"{address}{style}", headers=headers, timeout=20).status_code == 200
    finally:
        server.terminate()
        server.communicate(timeout=60)
    # The root file system may be read-only: nothing was written beside the database.
    assert {path for path in image.folder.rglob("*") if path.is_file()} == before
