"""Rotations that are killed while others write.

Real processes on a real database: the command is killed with SIGKILL at random moments and started
again, while a process saves new secrets all the time. ROTATION_KILLS is how often it is killed;
what was counted is added to the file ROTATION_REPORT, a line of JSON for each test.
`python -m benchmarks.kill_rotations` is the long form.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from django.db import connection
from django.db.models import QuerySet
from pytest_django import Settings

from encryption.models import RotationRun
from encryption.registry import encrypted_columns
from encryption.status import column_status
from tests.fieldapp.factories import TenantFactory, UuidTenantFactory
from tests.fieldapp.models import Note, Vault
from tests.processes import database_url, environment_for, start

OLD = "the old master key, at least 32 characters long"
NEW = "the new master key, at least 32 characters long"
KILLS = int(os.environ.get("ROTATION_KILLS", "6"))
#: Of each of two tables with two columns each.
ROWS = int(os.environ.get("ROTATION_ROWS", "2000"))
MODELS = {"Note": Note, "Vault": Vault}


@pytest.fixture
def environment(transactional_db: None, settings: Settings) -> dict[str, str]:
    """What other processes need to work on the database of this test, under the old key."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite" and ("memory" in name or "mode=memory" in name):
        pytest.skip("other processes cannot see a database in memory")
    settings.ENCRYPTION = {"MASTER_KEY": OLD}
    is_file = connection.vendor == "sqlite"
    return environment_for(f"sqlite:///{name}" if is_file else database_url(connection))


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


def start_rotation(
    environment: dict[str, str], out: IO[str], *options: str, back: bool = False
) -> "subprocess.Popen[str]":
    """Start the command, in a session and so in a group of processes of its own."""
    to, by = (OLD, NEW) if back else (NEW, OLD)
    keys = {"MASTER_ENCRYPTION_KEY": to, "OLD_MASTER_KEY": by}
    command = ("manage.py", "rotate_master_key", "--batch-size", "100", *options)
    streams = {"stdout": out, "stderr": out}
    return start({**environment, **keys}, *command, **streams, start_new_session=True)


class Writer:
    """The process of `crashing.py` and its log."""

    def __init__(self, environment: dict[str, str], log: Path, *models: str, **keys: str) -> None:
        self._log = log
        with log.open("w") as file:
            self._process = start(
                {**environment, **keys},
                *("-m", "tests.encryption.crashing", str(random.random()), *models),
                stdout=file,
            )
        end = time.monotonic() + 120
        while "ready" not in log.read_text():
            assert self._process.poll() is None
            if time.monotonic() > end:
                self.kill()
                pytest.fail("the writer does not get ready")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it, wherever it is."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> list[tuple[tuple[str, str], str]]:
        """End it, and return what it committed."""
        assert self._process.poll() is None, "the writer died"
        self.kill()
        lines = [line.split() for line in self._log.read_text().splitlines()[1:]]
        return [((line[0], line[1]), line[2]) for line in lines if len(line) == 3]


@pytest.fixture
def start_writer(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Writer]]:
    """Start a process that saves, with its models and keys; it does not outlive the test."""
    writers: list[Writer] = []

    def start_writer(*models: str, **keys: str) -> Writer:
        log = tmp_path / f"writer-{len(writers)}.log"
        writers.append(Writer(environment, log, *models, **keys))
        return writers[-1]

    yield start_writer
    for writer in writers:
        writer.kill()


@pytest.fixture
def rotation_log(tmp_path: Path) -> Iterator[IO[str]]:
    with (tmp_path / "rotation.log").open("w+") as file:
        yield file


def await_runs(count: int) -> None:
    """Wait until so many rotations have begun."""
    end = time.monotonic() + 120
    while RotationRun.objects.count() < count:
        if time.monotonic() > end:
            pytest.fail("the rotation does not begin")
        time.sleep(0.02)


def is_any_unfinished() -> bool:
    return RotationRun.objects.filter(status="running").exists()


def stale() -> int:
    columns = [*encrypted_columns("fieldapp.Note"), *encrypted_columns("fieldapp.Vault")]
    return sum(column_status(column, "default").stale for column in columns)


def record(**counts: object) -> None:
    """Add what was counted to the report."""
    if path := os.environ.get("ROTATION_REPORT"):
        with Path(path).open("a") as file:
            file.write(json.dumps({"database": connection.vendor, **counts}) + "\n")


def check(rows: dict[tuple[str, str], str], saved: list[tuple[tuple[str, str], str]]) -> int:
    """Every value is there; a save that was committed and not yet written down may be as well.

    Returns how many values were decrypted and compared.
    """
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
    return len(expected)


def check_with_the_new_key(
    rows: dict[tuple[str, str], str],
    saved: list[tuple[tuple[str, str], str]],
    settings: Settings,
    **counts: object,
) -> None:
    """With the new key alone nothing is stale and every value is there; record what was counted."""
    settings.ENCRYPTION = {"MASTER_KEY": NEW}
    compared = check(rows, saved)
    assert stale() == 0
    record(
        **counts,
        saves=len(saved),
        values_compared=compared,
        lost_edits=0,
        unreadable=0,
        stale=0,
    )


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_killed_rotations_lose_nothing(
    environment: dict[str, str],
    rows: dict[tuple[str, str], str],
    start_writer: Callable[..., Writer],
    rotation_log: IO[str],
    settings: Settings,
    at_once: int,
) -> None:
    writer = start_writer(MASTER_ENCRYPTION_KEY=NEW, OLD_MASTER_KEY=OLD)
    kills = max(-(-KILLS // at_once), 2)
    begun = alive = rounds = 0
    # To the new key, back to the old one, and so on: every rotation has something to do. It goes
    # on until one was killed at work, which may take some more kills on a machine that is busy.
    while rounds < kills or not is_any_unfinished():
        assert rounds < kills + 40, "the rotations are over before they are killed"
        back = rounds % 2 == 1
        running = [start_rotation(environment, rotation_log, back=back) for _ in range(at_once)]
        rounds += 1
        begun += at_once
        await_runs(begun)
        time.sleep(random.random() * 0.2)
        for process in running:
            alive += process.poll() is None
            process.kill()
            process.wait()
    last = [start_rotation(environment, rotation_log) for _ in range(at_once)]
    codes = [process.wait(timeout=120) for process in last]
    saved = writer.stop()
    assert saved
    # A row that was loaded before the last look and saved after it has its old token again, and
    # the count says so: one more run, then.
    assert set(codes) <= {0, 1}, _tail(rotation_log)
    assert [code == 0 for code in codes].count(False) <= _tail(rotation_log).count(
        " left to rotate"
    )
    assert start_rotation(environment, rotation_log).wait(timeout=120) == 0, _tail(rotation_log)
    # A record that nobody could finish does not claim that it is done.
    unfinished = RotationRun.objects.filter(status="running").count()
    assert 1 <= unfinished <= alive
    assert RotationRun.objects.filter(status="done").exists()
    check_with_the_new_key(
        rows,
        saved,
        settings,
        rotations_at_once=at_once,
        kills=rounds * at_once,
        killed_at_work=unfinished,
    )


def test_killed_rotations_of_two_processes_lose_nothing(
    environment: dict[str, str],
    rows: dict[tuple[str, str], str],
    start_writer: Callable[..., Writer],
    rotation_log: IO[str],
    settings: Settings,
) -> None:
    """All of a run's processes are killed at once, or the command alone, or one of the two."""
    writer = start_writer(MASTER_ENCRYPTION_KEY=NEW, OLD_MASTER_KEY=OLD)
    parts = RotationRun.objects.filter(part_of__isnull=False)
    kills = at_work = rounds = 0
    while kills < max(KILLS, 3) or not at_work:
        assert rounds < KILLS + 40, "the rotations are over before they are killed"
        known = [0, *parts.order_by("pk").values_list("pk", flat=True)][-1]
        back = rounds % 2 == 1
        rounds += 1
        command = start_rotation(environment, rotation_log, "--processes", "2", back=back)
        if not _is_at_work(command, parts.filter(pk__gt=known)):
            # The one before was killed ahead of its first write: nothing was to be taken back.
            assert command.wait() in {0, 1}, _tail(rotation_log)
            continue
        time.sleep(random.random() * 0.2)
        at_work += command.poll() is None
        if kills % 3 == 0:
            _kill(command.pid, all_of_them=True)
        elif kills % 3 == 1:
            command.kill()
        elif forked := _children(command.pid):
            _kill(random.choice(forked))
            # The other process goes on alone, and the command says that one is missing.
            assert command.wait(timeout=120) in {0, 1}, _tail(rotation_log)
        command.wait(timeout=120)
        kills += 1
    # By the end of this one the processes without a command have ended: they do so after a page.
    last = start_rotation(environment, rotation_log, "--processes", "2")
    assert last.wait(timeout=120) in {0, 1}
    saved = writer.stop()
    assert saved
    last = start_rotation(environment, rotation_log, "--processes", "2")
    assert last.wait(timeout=120) == 0, _tail(rotation_log)
    check_with_the_new_key(
        rows,
        saved,
        settings,
        processes=2,
        kills=kills,
        killed_at_work=at_work,
    )


def _is_at_work(command: "subprocess.Popen[str]", parts: QuerySet[RotationRun]) -> bool:
    """Wait until a process has begun with a part; False if the command ended without any part."""
    end = time.monotonic() + 120
    while not parts.exclude(status="queued").exists():
        assert time.monotonic() < end, "the rotation does not begin"
        if command.poll() is not None and not parts.exists():
            return False
        time.sleep(0.02)
    return True


def _children(pid: int) -> list[int]:
    """The processes that a process has forked; none where Linux does not tell them."""
    try:
        told = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(child) for child in told.split()]


def _kill(pid: int, *, all_of_them: bool = False) -> None:
    try:
        (os.killpg if all_of_them else os.kill)(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has just ended
        pass


def test_a_worker_that_still_writes_under_the_old_key(
    environment: dict[str, str],
    rows: dict[tuple[str, str], str],
    start_writer: Callable[..., Writer],
    rotation_log: IO[str],
    settings: Settings,
) -> None:
    writer = start_writer(MASTER_ENCRYPTION_KEY=OLD, OLD_MASTER_KEY=NEW)
    codes = [start_rotation(environment, rotation_log).wait(timeout=120) for _ in range(2)]
    assert set(codes) <= {0, 1}
    saved = writer.stop()
    settings.ENCRYPTION = {"MASTER_KEY": NEW, "MASTER_KEY_FALLBACKS": [OLD]}
    left = stale()
    check(rows, saved)
    assert start_rotation(environment, rotation_log).wait(timeout=120) == 0, _tail(rotation_log)
    check_with_the_new_key(
        rows,
        saved,
        settings,
        writer_under_old_key=True,
        stale_while_it_wrote=left,
    )
    # It saved after the first rotation had gone by, and the count said so.
    assert left > 0


def _tail(log: IO[str]) -> str:
    log.seek(0)
    return log.read()[-3_000:]
