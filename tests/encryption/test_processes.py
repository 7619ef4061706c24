"""A rotation in several processes, as the command does it: real processes, a real database."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import islice

import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction
from pytest_django import Settings

from encryption.management.commands import rotate_master_key
from encryption.models import RotationRun
from encryption.processes import _cores, best_count
from encryption.ranges import claim, give_up, plan, shrinking
from encryption.registry import encrypted_columns
from encryption.rotation import Options
from tests.encryption.database import store, stored
from tests.encryption.test_rotation_celery import check_all, fill
from tests.encryption.test_rotation_crashes import NEW, OLD, environment
from tests.fieldapp.factories import NoteFactory, TenantFactory
from tests.fieldapp.models import Note
from tests.processes import start

__all__ = ["environment"]

#: So slow that one process is not done with all parts before the other one begins.
SLOWLY = ("--batch-size", "10", "--rate-limit", "10", "--rows-per-task", "100")

#: Where a column of many rows stands among those of the tests.
SECRET = [column.label for column in encrypted_columns()].index("fieldapp.Note.secret")

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
    out, errors = command.communicate(timeout=120)
    assert command.returncode == code, (out, errors)
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
    # Of each column 100, 100, 75, 56, 50, 50, 50, and one for the rest and rows to come.
    assert (run.status, run.parts.count()) == ("done", 16)
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


def fill_one_tenant(count: int) -> None:
    tenant = TenantFactory.create()
    Note.objects.bulk_create([Note(tenant=tenant, secret="a secret") for _ in range(count)])


def command(environment: dict[str, str], *options: str) -> "subprocess.Popen[str]":
    keys = {"MASTER_ENCRYPTION_KEY": NEW, "OLD_MASTER_KEY": OLD}
    # Apart: what is printed as JSON is not for the warnings of the system checks.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return start({**environment, **keys}, "manage.py", "rotate_master_key", *options, **pipes)


@pytest.mark.skipif(_cores() == 1, reason="several processes need several cores")
def test_many_rows_are_shared_by_the_cores_without_being_told(environment: dict[str, str]) -> None:
    fill_one_tenant(20_000)
    told = json.loads(finish(command(environment, "--json", "--dry-run"), 1))
    assert told["columns"][SECRET]["rotated"] == 20_000
    told = json.loads(finish(command(environment, "--json")))
    labels = [column.label for column in encrypted_columns()]
    assert [counts["column"] for counts in told["columns"]] == labels  # also those of no row
    assert (told["columns"][SECRET]["rotated"], told["stale"], told["failed"]) == (20_000, 0, 0)
    dry, run = RotationRun.objects.filter(part_of=None).order_by("pk")
    assert dry.parts.count() > 2
    # Halves of a share, down to a page: none waits long for the last one.
    sizes = [part.columns[0]["rotated"] for part in run.parts.order_by("pk")]
    assert sizes[0] == 20_000 // (2 * min(_cores(), 4))
    assert sizes == sorted(sizes, reverse=True)
    # And one process is enough where nothing is left to do.
    assert json.loads(finish(command(environment, "--json")))["stale"] == 0
    assert not RotationRun.objects.filter(pk__gt=run.pk).exclude(part_of=None).exclude(part_of=run)


def test_more_v1_tenants_than_are_kept_are_left_to_one_process(
    db: None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several would each derive the keys of all of them."""
    settings.ENCRYPTION = {"MASTER_KEY": OLD, "WRITE_FORMAT": "v1"}
    NoteFactory.create_batch(2)
    keys = {"MASTER_KEY": NEW, "MASTER_KEY_FALLBACKS": [OLD]}
    settings.ENCRYPTION = {**keys, "KEY_CACHE_SIZE": 1}
    monkeypatch.setattr(rotate_master_key, "best_count", lambda *args: 2)
    monkeypatch.setattr(rotate_master_key.Command, "_is_from_a_shell", True)
    call_command("rotate_master_key", "--json")
    (run,) = RotationRun.objects.all()
    assert run.columns[SECRET]["rotated"] == 2


@pytest.mark.parametrize(("from_a_shell", "options"), [(False, []), (True, ["--rate-limit", "9"])])
def test_it_does_not_fork_of_itself(
    db: None, monkeypatch: pytest.MonkeyPatch, from_a_shell: bool, options: list[str]
) -> None:
    """In other people's code, whose connections a fork would close, and where it shall be slow."""
    NoteFactory.create()
    monkeypatch.setattr(rotate_master_key, "best_count", lambda *args: pytest.fail("it forks"))
    monkeypatch.setattr(rotate_master_key.Command, "_is_from_a_shell", from_a_shell)
    call_command("rotate_master_key", "--json", *options)


@pytest.mark.django_db(transaction=True)
def test_how_many_processes_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    many = 20_000
    monkeypatch.setattr("encryption.processes._cores", lambda: 3)
    monkeypatch.setattr("threading.active_count", lambda: 1)  # the tests' own may be there
    in_memory = getattr(connection, "is_in_memory_db", bool)()
    assert best_count(many, ["default"]) == (1 if in_memory else 3)
    monkeypatch.setattr(connections["default"], "is_in_memory_db", bool, raising=False)
    assert best_count(many, ["default"]) == 3
    assert best_count(many - 1, ["default"]) == 1
    with transaction.atomic():
        assert best_count(many, ["default"]) == 1
        assert best_count(many, []) == 1  # the record of the run is in that database
    with monkeypatch.context() as patch:
        patch.setattr("threading.active_count", lambda: 2)
        assert best_count(many, ["default"]) == 1
    monkeypatch.setattr("encryption.processes._cores", lambda: 64)
    assert best_count(many, ["default"]) == 4
    monkeypatch.setattr("encryption.processes.can_fork", lambda: False)
    assert best_count(many, ["default"]) == 1


def test_parts_shrink_to_a_page() -> None:
    assert list(islice(shrinking(100_000, 2, 2_000, 20_000), 14)) == [
        *(20_000, 20_000, 15_000, 11_250, 8_437, 6_328, 4_746, 3_559, 2_670, 2_002),
        *(2_000, 2_000, 2_000, 2_000),
    ]


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
