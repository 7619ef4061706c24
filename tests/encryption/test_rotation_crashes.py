"""Rotations that are killed while others write.

Real processes on a real database: the command is killed with SIGKILL at random moments and started
again, while a process saves new secrets all the time. ROTATION_KILLS is how often it is killed.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from django.db import connection
from pytest_django import Settings

from encryption.models import RotationRun
from encryption.registry import encrypted_columns
from encryption.status import column_status
from tests.fieldapp.factories import TenantFactory, UuidTenantFactory
from tests.fieldapp.models import Note, Vault

OLD = "the old master key, at least 32 characters long"
NEW = "the new master key, at least 32 characters long"
KILLS = int(os.environ.get("ROTATION_KILLS", "6"))
#: Of each of two tables with two columns each; so many that most kills find something going on.
ROWS = int(os.environ.get("ROTATION_ROWS", str(400 * KILLS)))
CHECKOUT = Path(__file__).parent.parent.parent
MODELS = {"Note": Note, "Vault": Vault}


@pytest.fixture
def environment(transactional_db: None, settings: Settings) -> dict[str, str]:
    """What other processes need to work on the database of this test, under the old key."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite" and ("memory" in name or "mode=memory" in name):
        pytest.skip("other processes cannot see a database in memory")
    url = {
        "sqlite": f"sqlite:///{name}",
        "postgresql": f"postgres://postgres@127.0.0.1:5432/{name}",
        "mysql": f"mysql://root@127.0.0.1:3306/{name}",
    }[connection.vendor]
    settings.ENCRYPTION = {"MASTER_KEY": OLD}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    return {
        **clean,
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "tests.encryption.keys_of_environment",
    }


@pytest.fixture
def rows(environment: dict[str, str]) -> dict[tuple[str, str], str]:
    """Rows of two tables, and the secret of each."""
    tenants = TenantFactory.create_batch(5)
    owners = UuidTenantFactory.create_batch(5)
    notes = [
        Note(tenant=tenants[n % 5], secret=f"note {n}", data={"n": n}, note="n")
        for n in range(ROWS)
    ]
    vaults = [
        Vault(tenant=owners[n % 5], host="host.example.com", secret=f"vault {n}", data={"n": n})
        for n in range(ROWS)
    ]
    Note.objects.bulk_create(notes, batch_size=500)
    Vault.objects.bulk_create(vaults, batch_size=500)
    return {
        (name, str(row.pk)): row.secret
        for name, model in MODELS.items()
        for row in model._base_manager.all()
    }


def start(environment: dict[str, str], *arguments: str, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, cwd=CHECKOUT, text=True, **options
    )


def start_rotation(environment: dict[str, str], out: IO[str]) -> "subprocess.Popen[str]":
    keys = {"MASTER_ENCRYPTION_KEY": NEW, "OLD_MASTER_KEY": OLD}
    command = ("manage.py", "rotate_master_key", "--batch-size", "100")
    return start({**environment, **keys}, *command, stdout=out, stderr=out)


class Writer:
    """The process of `crashing.py` and its log."""

    def __init__(self, environment: dict[str, str], log: Path, **keys: str) -> None:
        self._log = log
        with log.open("w") as file:
            self._process = start(
                {**environment, **keys},
                *("-m", "tests.encryption.crashing", str(random.random())),
                stdout=file,
            )
        for _ in range(600):
            if "ready" in log.read_text():
                return
            assert self._process.poll() is None
            time.sleep(0.05)
        raise AssertionError("the writer does not get ready")

    def stop(self) -> list[tuple[tuple[str, str], str]]:
        """End it after its save, and return what it committed."""
        assert self._process.poll() is None, "the writer died"
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        lines = [line.split() for line in self._log.read_text().splitlines()[1:]]
        return [((line[0], line[1]), line[2]) for line in lines if len(line) == 3]


@pytest.fixture
def writer_log(tmp_path: Path) -> Path:
    return tmp_path / "writer.log"


@pytest.fixture
def rotation_log(tmp_path: Path) -> Iterator[IO[str]]:
    with (tmp_path / "rotation.log").open("w+") as file:
        yield file


def await_runs(count: int) -> None:
    """Wait until so many rotations have begun."""
    for _ in range(1_200):
        if RotationRun.objects.count() >= count:
            return
        time.sleep(0.02)
    raise AssertionError("the rotation does not begin")


def stale() -> int:
    columns = [*encrypted_columns("fieldapp.Note"), *encrypted_columns("fieldapp.Vault")]
    return sum(column_status(column, "default").stale for column in columns)


def check(rows: dict[tuple[str, str], str], saved: list[tuple[tuple[str, str], str]]) -> None:
    """Every value is there; a save that was committed and not yet written down may be as well."""
    expected = {**rows, **dict(saved)}
    differing = []
    for name, model in MODELS.items():
        for row in model._base_manager.all():
            assert row.data == {"n": row.data["n"]}
            if row.secret != expected[name, str(row.pk)]:
                differing.append((name, row.pk, row.secret))
    # At most the one save that the writer was killed in.
    assert len(differing) <= 1, differing
    if differing:
        assert len(differing[0][2]) in {12, 40, 120}


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_killed_rotations_lose_nothing(
    environment: dict[str, str],
    rows: dict[tuple[str, str], str],
    writer_log: Path,
    rotation_log: IO[str],
    settings: Settings,
    at_once: int,
) -> None:
    writer = Writer(environment, writer_log, MASTER_ENCRYPTION_KEY=NEW, OLD_MASTER_KEY=OLD)
    kills = max(KILLS // at_once, 2)
    begun = alive = 0
    for _ in range(kills):
        running = [start_rotation(environment, rotation_log) for _ in range(at_once)]
        begun += at_once
        await_runs(begun)
        time.sleep(random.random() * 0.5)
        for process in running:
            alive += process.poll() is None
            process.kill()
            process.wait()
    last = [start_rotation(environment, rotation_log) for _ in range(at_once)]
    assert [process.wait(timeout=120) for process in last] == [0] * at_once, _tail(rotation_log)
    saved = writer.stop()
    assert len(saved) > kills
    assert alive >= kills * at_once // 3, "the rotations were over before they were killed"
    # A record that nobody could finish does not claim that it is done.
    assert 1 <= RotationRun.objects.filter(status="running").count() <= alive
    assert RotationRun.objects.filter(status="done").count() >= at_once
    settings.ENCRYPTION = {"MASTER_KEY": NEW}
    check(rows, saved)
    assert stale() == 0


def test_a_worker_that_still_writes_under_the_old_key(
    environment: dict[str, str],
    rows: dict[tuple[str, str], str],
    writer_log: Path,
    rotation_log: IO[str],
    settings: Settings,
) -> None:
    writer = Writer(environment, writer_log, MASTER_ENCRYPTION_KEY=OLD, OLD_MASTER_KEY=NEW)
    codes = [start_rotation(environment, rotation_log).wait(timeout=120) for _ in range(2)]
    assert set(codes) <= {0, 1}
    saved = writer.stop()
    settings.ENCRYPTION = {"MASTER_KEY": NEW, "MASTER_KEY_FALLBACKS": [OLD]}
    left = stale()
    check(rows, saved)
    assert start_rotation(environment, rotation_log).wait(timeout=120) == 0, _tail(rotation_log)
    settings.ENCRYPTION = {"MASTER_KEY": NEW}
    assert stale() == 0
    check(rows, saved)
    # It saved after the first rotation had gone by, and the count said so.
    assert left > 0


def _tail(log: IO[str]) -> str:
    log.seek(0)
    return log.read()[-3_000:]
