"""The rotation over Celery, with real workers on real brokers."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import pytest
from pytest_django import Settings

from encryption import ranges
from encryption.models import RotationRun
from encryption.registry import EncryptedColumn, encrypted_columns
from encryption.rotation import Options
from encryption.status import column_status
from tests.encryption.database import store, stored
from tests.encryption.test_rotation_crashes import NEW, OLD, environment
from tests.fieldapp.factories import NoteFactory, TenantFactory, UuidTenantFactory
from tests.fieldapp.models import Note, Vault
from tests.processes import BROKERS, Starts, broker, start, workers

__all__ = ["environment"]


def column(label: str) -> EncryptedColumn:
    return encrypted_columns(label)[0]


@pytest.fixture(name="broker", params=BROKERS)
def _broker(
    request: pytest.FixtureRequest, environment: dict[str, str]
) -> Iterator[dict[str, str]]:
    keys = {"MASTER_ENCRYPTION_KEY": NEW, "OLD_MASTER_KEY": OLD}
    with broker(request.param, {**environment, **keys}, 3) as found:
        yield found


@pytest.fixture
def start_worker(broker: dict[str, str], tmp_path: Path) -> Iterator[Starts]:
    with workers(broker, tmp_path) as start_worker:
        yield start_worker


def fill(rows: int) -> None:
    tenant, owner = TenantFactory(), UuidTenantFactory()
    Note.objects.bulk_create(
        [Note(tenant=tenant, secret=f"note {n}", note="n") for n in range(rows)], batch_size=500
    )
    Vault.objects.bulk_create(
        [Vault(tenant=owner, host="h", secret=f"vault {n}") for n in range(rows)], batch_size=500
    )


def start_command(broker: dict[str, str], *options: str) -> "subprocess.Popen[str]":
    command = ("manage.py", "rotate_master_key", "--celery", *options)
    return start(broker, *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(command: "subprocess.Popen[str]") -> str:
    out, _ = command.communicate(timeout=120)
    assert command.returncode == 0, out
    return out


def check_all(settings: Settings, rows: int) -> None:
    settings.ENCRYPTION = {"MASTER_KEY": NEW}
    assert {note.secret for note in Note.objects.all()} == {f"note {n}" for n in range(rows)}
    assert {vault.secret for vault in Vault.objects.all()} == {f"vault {n}" for n in range(rows)}


def test_workers_rotate_the_ranges(
    broker: dict[str, str], start_worker: Starts, settings: Settings
) -> None:
    fill(500)
    start_worker()
    out = finish(start_command(broker, "--rows-per-task", "200"))
    assert "All rows are under key" in out
    check_all(settings, 500)
    run = RotationRun.objects.get(part_of=None)
    assert run.status == "done"
    assert run.parts.count() == 6  # 200 + 200 + 100, of each of two tables
    assert sum(counts["rotated"] for counts in run.columns) == 1_000
    assert {part.scope["column"] for part in run.parts.all()} == {
        "fieldapp.Note.secret",
        "fieldapp.Vault.secret",
    }


def test_a_worker_that_is_killed_in_a_task(
    broker: dict[str, str], start_worker: Starts, settings: Settings
) -> None:
    fill(600)
    worker = start_worker()
    command = start_command(
        broker, "--rows-per-task", "600", "--batch-size", "20", "--rate-limit", "150"
    )
    end = time.monotonic() + 120
    while not RotationRun.objects.filter(part_of__isnull=False, status="running").exists():
        if time.monotonic() > end:
            pytest.fail("the task does not begin")
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(worker.pid, signal.SIGKILL)  # the worker and its child
    worker.wait()
    (killed,) = RotationRun.objects.filter(part_of__isnull=False, status="running")
    start_worker()
    assert "All rows are under key" in finish(command)
    killed.refresh_from_db()
    assert killed.status == "done"
    check_all(settings, 600)


# -- without a broker -------------------------------------------------------------------------


@pytest.fixture
def old_key(settings: Settings, db: None) -> None:
    settings.ENCRYPTION = {"MASTER_KEY": OLD}


@pytest.fixture
def new_key(settings: Settings) -> Callable[[], None]:
    def use() -> None:
        settings.ENCRYPTION = {"MASTER_KEY": NEW, "MASTER_KEY_FALLBACKS": [OLD]}

    return use


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("label", ["fieldapp.Note.secret", "fieldapp.Vault.secret"])
def test_ranges_hold_every_row_once(
    old_key: None, new_key: Callable[[], None], label: str, size: int
) -> None:
    fill(5)
    new_key()
    found = list(ranges.ranges_of((column(label), "default"), repeat(size)))
    assert found[0][0] is None
    assert found[-1][1] is None
    assert [upto for _, upto in found[:-1]] == [after for after, _ in found[1:]]
    run = ranges.plan([(column(label), "default")], Options(), "a test", size)
    for part in run.parts.all():
        ranges.execute_part(part.pk)
    run.refresh_from_db()
    assert run.status == "done"
    assert run.columns[0]["rotated"] == 5
    assert column_status(column(label), "default").stale == 0
    assert list(ranges.ranges_of((column(label), "default"), repeat(size))) == []


def test_a_part_may_run_twice(old_key: None, new_key: Callable[[], None]) -> None:
    fill(3)
    new_key()
    run = ranges.plan([(column("fieldapp.Note.secret"), "default")], Options(), "a test", 10)
    (part,) = run.parts.all()
    ranges.execute_part(part.pk)
    before = [stored(note, "secret") for note in Note.objects.order_by("pk")]
    RotationRun.objects.filter(pk=part.pk).update(status="running")  # as a lost worker leaves it
    ranges.execute_part(part.pk)
    ranges.execute_part(part.pk)
    assert [stored(note, "secret") for note in Note.objects.order_by("pk")] == before
    run.refresh_from_db()
    assert run.status == "done"


def test_a_bad_row_is_in_the_record_of_the_run(old_key: None, new_key: Callable[[], None]) -> None:
    notes = NoteFactory.create_batch(3)
    store(notes[1], "secret", "v2:00000000:" + "A" * 80)
    new_key()
    run = ranges.plan([(column("fieldapp.Note.secret"), "default")], Options(), "a test", 2)
    for part in run.parts.all():
        ranges.execute_part(part.pk)
    run.refresh_from_db()
    assert run.status == "incomplete"
    assert [failure["pk"] for failure in run.failures] == [str(notes[1].pk)]


def test_a_worker_with_other_keys_refuses(
    old_key: None, new_key: Callable[[], None], settings: Settings
) -> None:
    fill(2)
    new_key()
    run = ranges.plan([(column("fieldapp.Note.secret"), "default")], Options(), "a test", 10)
    settings.ENCRYPTION = {"MASTER_KEY": OLD}
    with pytest.raises(ValueError, match="Start the workers again"):
        ranges.execute_part(run.parts.get().pk)
    run.refresh_from_db()
    assert run.status == "failed"


def test_a_run_that_was_stopped_begins_nothing(old_key: None, new_key: Callable[[], None]) -> None:
    fill(2)
    new_key()
    run = ranges.plan([(column("fieldapp.Note.secret"), "default")], Options(), "a test", 10)
    ranges.stop(run.pk)
    ranges.execute_part(run.parts.get().pk)
    run.refresh_from_db()
    assert run.status == "stopped"
    assert column_status(column("fieldapp.Note.secret"), "default").stale == 2
