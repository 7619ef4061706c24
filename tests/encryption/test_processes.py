"""A rotation in several processes, as the command does it: real processes, a real database."""

import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
from pytest_django import Settings

from encryption.models import RotationRun
from encryption.ranges import claim, give_up, plan
from encryption.registry import encrypted_columns
from encryption.rotation import Options
from tests.encryption.database import store, stored
from tests.encryption.test_rotation_celery import check_all, fill
from tests.encryption.test_rotation_crashes import NEW, OLD, environment
from tests.fieldapp.models import Note
from tests.processes import start

__all__ = ["environment"]

#: So slow that one process is not done with all parts before the other one begins.
SLOWLY = ("--batch-size", "10", "--rate-limit", "10", "--rows-per-task", "100")

Rotate = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def rotate(environment: dict[str, str]) -> Rotate:
    def rotate(*options: str) -> "subprocess.Popen[str]":
        keys = {"MASTER_ENCRYPTION_KEY": NEW, "OLD_MASTER_KEY": OLD}
        command = ("manage.py", "rotate_master_key", "--processes", "2", *options)
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return start({**environment, **keys}, *command, **pipe, start_new_session=True)

    return rotate


def finish(command: "subprocess.Popen[str]", code: int = 0) -> str:
    out, _ = command.communicate(timeout=120)
    assert command.returncode == code, out
    return out


def await_part(command: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 120
    while RotationRun.objects.filter(part_of__isnull=False, status="running").count() < 2:
        assert command.poll() is None
        if time.monotonic() > end:
            pytest.fail("the parts do not begin")
        time.sleep(0.05)


def test_all_rows_and_then_none(rotate: Rotate, settings: Settings) -> None:
    fill(500)
    out = finish(rotate("--rows-per-task", "100", "--batch-size", "50"))
    assert "fieldapp.Note.secret [default]: 500 rotated, 0 changed meanwhile, 0 failed" in out
    assert "All rows are under key" in out
    check_all(settings, 500)
    run = RotationRun.objects.get(part_of=None)
    assert (run.status, run.parts.count()) == ("done", 12)  # 5 of 100, and one for rows to come
    before = [stored(note, "secret") for note in Note.objects.order_by("pk")]
    assert "All rows are under key" in finish(rotate())
    assert [stored(note, "secret") for note in Note.objects.order_by("pk")] == before


def test_a_bad_row_is_told_and_costs_the_others_nothing(rotate: Rotate) -> None:
    fill(100)
    bad = Note.objects.order_by("pk")[50]
    store(bad, "secret", "v2:00000000:" + "A" * 80)
    out = finish(rotate("--batch-size", "10"), 1)
    assert f"fieldapp.Note.secret pk={bad.pk}: UnknownKeyError: " in out
    assert "1 row is left to rotate to key" in out
    assert stored(bad, "secret") == "v2:00000000:" + "A" * 80


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_after_the_pages(rotate: Rotate, number: signal.Signals) -> None:
    fill(400)
    command = rotate(*SLOWLY)
    await_part(command)
    os.killpg(command.pid, number)  # as a terminal does it: to the command and its processes
    assert "Stopped after the current page" in finish(command, 1)
    assert RotationRun.objects.get(part_of=None).status == "stopped"
    assert "All rows are under key" in finish(rotate())


def test_a_command_that_is_killed_leaves_no_process_behind(rotate: Rotate) -> None:
    fill(400)
    command = rotate(*SLOWLY)
    await_part(command)
    command.kill()
    # The pipe is closed when the last process that holds it has ended.
    command.communicate(timeout=60)
    assert not RotationRun.objects.filter(part_of__isnull=False, status="running").exists()
    assert "All rows are under key" in finish(rotate())


def test_each_part_is_taken_once(db: None, settings: Settings) -> None:
    settings.ENCRYPTION = {"MASTER_KEY": OLD}
    fill(4)
    settings.ENCRYPTION = {"MASTER_KEY": NEW, "MASTER_KEY_FALLBACKS": [OLD]}
    (column,) = encrypted_columns("fieldapp.Note.secret")
    run = plan([(column, "default")], Options(), "a test", 2)
    taken = [claim(run.pk), claim(run.pk), claim(run.pk), claim(run.pk)]
    assert taken == [*run.parts.order_by("pk").values_list("pk", flat=True), None]
    give_up(run.pk)
    assert {part.status for part in run.parts.all()} == {"failed"}
