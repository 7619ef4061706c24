"""The commands: exit status, what they print, how they are stopped."""

import io
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError, ManagementUtility, call_command
from django.db import connections
from pytest_django import Settings

from encryption import conf
from encryption.management.commands import rotate_master_key
from encryption.models import RotationRun
from encryption.registry import encrypted_columns
from encryption.rotation import Rotation
from encryption.status import column_status
from tests.encryption.database import damaged, store, stored
from tests.fieldapp.factories import NoteFactory, VaultFactory
from tests.fieldapp.models import Note

OLD = "the old master key, at least 32 characters long"
NEW = "the new master key, at least 32 characters long"


@pytest.fixture
def use(settings: Settings, db: None) -> Callable[..., None]:
    def use(primary: str, *fallbacks: str) -> None:
        settings.ENCRYPTION = {"MASTER_KEY": primary, "MASTER_KEY_FALLBACKS": list(fallbacks)}

    use(OLD)
    return use


def run(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command(*arguments, stdout=out, stderr=err, no_color=True)
    except SystemExit as ending:
        return int(str(ending.code)), out.getvalue(), err.getvalue()
    except CommandError as error:
        return error.returncode, out.getvalue(), str(error)
    return 0, out.getvalue(), err.getvalue()


Shell = Callable[..., int]


@pytest.fixture
def shell(use: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Run a command as a shell does, where usage errors are told and not raised."""
    # It would close the connection, and so end the transaction, of the test.
    monkeypatch.setattr(connections, "close_all", lambda: None)

    def shell(*arguments: str) -> int:
        try:
            ManagementUtility(["manage.py", *arguments]).execute()
        except SystemExit as ending:
            return int(str(ending.code))
        return 0

    return shell


# -- rotate_master_key ------------------------------------------------------------------------


def test_a_run_is_told_and_recorded(use: Callable[..., None]) -> None:
    NoteFactory.create_batch(3)
    old = conf.get_keyring().primary.key_id
    use(NEW, OLD)
    new = conf.get_keyring().primary.key_id
    code, out, err = run("rotate_master_key")
    assert (code, err) == (0, "")
    assert "fieldapp.Note.secret [default]: 3 rotated, 0 changed meanwhile, 0 failed" in out
    assert f"All rows are under key {new}." in out
    record = RotationRun.objects.get()
    assert (record.status, record.from_key_ids, record.to_key_id) == ("done", [old], new)
    assert record.finished_at is not None
    assert "@" in record.started_by


def test_a_bad_row_gives_1_until_it_is_mended(use: Callable[..., None]) -> None:
    notes, vaults = NoteFactory.create_batch(3), VaultFactory.create_batch(3)
    good = stored(notes[0], "secret"), stored(vaults[0], "secret")
    bad = damaged(good[0]), damaged(good[1])
    store(notes[0], "secret", bad[0])
    store(vaults[0], "secret", bad[1])
    use(NEW, OLD)
    code, out, err = run("rotate_master_key")
    assert code == 1
    assert f"fieldapp.Note.secret pk={notes[0].pk}: TamperedError: " in err
    assert f"fieldapp.Vault.secret pk={vaults[0].pk}: TamperedError: " in err
    assert "2 rows are left to rotate to key" in out
    assert (stored(notes[0], "secret"), stored(vaults[0], "secret")) == bad
    record = RotationRun.objects.get()
    assert record.status == "incomplete"
    assert {one["label"] for one in record.failures} == {
        "fieldapp.Note.secret",
        "fieldapp.Vault.secret",
    }
    assert bad[0] not in json.dumps(record.failures)
    assert sum(counts["rotated"] for counts in record.columns) == 10
    store(notes[0], "secret", good[0])
    store(vaults[0], "secret", good[1])
    assert run("rotate_master_key")[0] == 0


def test_a_dry_run_leaves_all(use: Callable[..., None]) -> None:
    note = NoteFactory()
    before = stored(note, "secret")
    use(NEW, OLD)
    code, out, _ = run("rotate_master_key", "--dry-run")
    assert code == 1  # rows are left
    assert "fieldapp.Note.secret [default]: 1 would be rotated" in out
    assert stored(note, "secret") == before
    assert RotationRun.objects.get().dry_run


def test_one_model_or_field(use: Callable[..., None]) -> None:
    note, vault = NoteFactory(), VaultFactory()
    use(NEW, OLD)
    key = f"v2:{conf.get_keyring().primary.key_id}:"
    assert run("rotate_master_key", "--model", "fieldapp.note.secret")[0] == 0
    assert stored(note, "secret").startswith(key)
    assert not stored(note, "data").startswith(key)
    assert run("rotate_master_key", "--model", "fieldapp.Note")[0] == 0
    assert stored(note, "data").startswith(key)
    assert not stored(vault, "data").startswith(key)


def test_json(use: Callable[..., None]) -> None:
    NoteFactory()
    use(NEW, OLD)
    code, out, _ = run("rotate_master_key", "--json", "--model", "fieldapp.Note.secret")
    told = json.loads(out)
    assert code == 0
    assert told["status"] == "done"
    assert told["columns"] == [
        {
            "column": "fieldapp.Note.secret",
            "database": "default",
            "examined": 1,
            "rotated": 1,
            "only_indexes": 0,
            "changed_meanwhile": 0,
            "failed": 0,
        }
    ]
    assert (told["failed"], told["stale"], told["failures"]) == (0, 0, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "fieldapp.Tenant"),
        ("--model", "nothing"),
        ("--database", "nowhere"),
        ("--batch-size", "0"),
        ("--batch-size", "many"),
        ("--rate-limit", "-1"),
        ("--master-key", "x"),
        ("--rows-per-task", "100"),
        ("--rows-per-task", "100", "--processes", "1"),
        ("--rows-per-task", "0", "--processes", "2"),
        ("--celery", "--processes", "2"),
    ],
)
def test_wrong_usage_is_2(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell("rotate_master_key", *arguments) == 2
    assert RotationRun.objects.count() == 0


def test_no_key_is_2(shell: Shell, use: Callable[..., None]) -> None:
    use("short")
    assert shell("rotate_master_key", "--skip-checks") == 2
    assert shell("encryption_status", "--skip-checks") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_page(
    use: Callable[..., None], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    NoteFactory.create_batch(5)
    use(NEW, OLD)
    original = Rotation._write

    def write(self: Rotation, changes: Any) -> Any:
        os.kill(os.getpid(), number)
        return original(self, changes)

    monkeypatch.setattr(Rotation, "_write", write)
    code, out, _ = run("rotate_master_key", "--batch-size", "2", "--model", "fieldapp.Note.secret")
    assert code == 1
    assert "2 rotated" in out
    assert "Stopped after the current page. Run it again to go on from there." in out
    assert "3 rows are left to rotate to key" in out
    assert RotationRun.objects.get().status == "stopped"
    assert signal.getsignal(number) is not None
    monkeypatch.undo()
    use(NEW, OLD)
    assert run("rotate_master_key")[0] == 0


def test_a_run_that_breaks_off_says_so(
    use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    NoteFactory.create_batch(3)
    use(NEW, OLD)
    original, pages = Rotation._write, []

    def write(self: Rotation, changes: Any) -> Any:
        pages.append(changes)
        if len(pages) == 2:
            raise RuntimeError("the disk with 'a secret' is full")
        return original(self, changes)

    monkeypatch.setattr(Rotation, "_write", write)
    with pytest.raises(RuntimeError):
        run("rotate_master_key", "--batch-size", "1", "--model", "fieldapp.Note.secret")
    record = RotationRun.objects.get()
    assert record.status == "failed"
    assert record.finished_at is not None
    assert record.columns[-1]["rotated"] == 1
    assert record.columns[-1]["error"] == "RuntimeError"
    assert "secret'" not in json.dumps(record.columns)


def test_without_celery(use: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotate_master_key, "find_spec", lambda name: None)
    code, _, err = run("rotate_master_key", "--celery")
    assert code == 2
    assert "dashtray[celery]" in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_on_a_terminal(use: Callable[..., None]) -> None:
    NoteFactory.create_batch(4)
    use(NEW, OLD)
    out = Terminal()
    call_command("rotate_master_key", "--batch-size", "1", stdout=out, no_color=True)
    assert "\r[###............" in out.getvalue()
    assert "4/8 " in out.getvalue()
    assert "s left" in out.getvalue()


# -- encryption_status ------------------------------------------------------------------------


def test_status_counts_by_key(use: Callable[..., None]) -> None:
    NoteFactory.create_batch(2)
    old = conf.get_keyring().primary.key_id
    use(NEW, OLD)
    NoteFactory(data=None)
    new = conf.get_keyring().primary.key_id
    code, out, _ = run("encryption_status", "--model", "fieldapp.Note")
    assert code == 0
    first, second = sorted([f"1 under {new} (primary)", f"2 under {old}"], key=lambda t: t[8:])
    assert f"fieldapp.Note.secret [default]: {first}, {second}; 0 empty; 2 stale" in out
    assert f"fieldapp.Note.data [default]: 2 under {old}; 1 empty; 2 stale" in out


def test_status_tells_what_is_configured(use: Callable[..., None]) -> None:
    third = "a third master key, at least 32 characters long"
    assert run("encryption_status")[1].splitlines()[1] == "no fallback keys"
    use(NEW, OLD, third)
    primary, *fallbacks = conf.get_keyring().key_ids()
    assert run("encryption_status")[1].splitlines()[:2] == [
        f"primary key {primary}",
        f"fallback keys {', '.join(fallbacks)}",
    ]
    told = json.loads(run("encryption_status", "--json")[1])
    assert (told["primary"], told["fallbacks"]) == (primary, fallbacks)


def test_fail_if_stale(use: Callable[..., None]) -> None:
    NoteFactory()
    assert run("encryption_status", "--fail-if-stale")[0] == 0
    use(NEW, OLD)
    assert run("encryption_status")[0] == 0
    assert run("encryption_status", "--fail-if-stale")[0] == 1
    run("rotate_master_key")
    assert run("encryption_status", "--fail-if-stale")[0] == 0


def test_a_missing_key_is_told(use: Callable[..., None]) -> None:
    NoteFactory()
    old = conf.get_keyring().primary.key_id
    use(NEW)
    code, out, _ = run("encryption_status", "--fail-if-stale")
    assert code == 1
    assert f"MISSING KEY: 2 rows are under key {old}, which the keyring lacks. " in out
    Note.objects.update(data=None)
    out = run("encryption_status")[1]
    assert f"MISSING KEY: 1 row is under key {old}, which the keyring lacks. " in out


def test_verify_decrypts_all(use: Callable[..., None]) -> None:
    note = NoteFactory()
    assert run("encryption_status", "--verify")[0] == 0
    store(note, "secret", damaged(stored(note, "secret")))
    assert run("encryption_status", "--fail-if-stale")[0] == 0
    code, out, err = run("encryption_status", "--verify")
    assert code == 1
    assert "fieldapp.Note.secret [default]: 0 decrypted, 1 failed" in out
    assert f"pk={note.pk}: TamperedError" in err


def test_status_as_json(use: Callable[..., None]) -> None:
    NoteFactory()
    code, out, _ = run("encryption_status", "--json", "--model", "fieldapp.Note.secret", "--verify")
    told = json.loads(out)
    key_id = conf.get_keyring().primary.key_id
    assert code == 0
    assert (told["primary"], told["stale"], told["missing_keys"]) == (key_id, 0, {})
    assert told["columns"][0]["keys"] == {key_id: 1}
    assert told["verified"][0]["examined"] == 1


@pytest.mark.parametrize("arguments", [("--model", "x.Y"), ("--database", "nowhere"), ("--nope",)])
def test_wrong_usage_of_status_is_2(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell("encryption_status", *arguments) == 2


def test_it_asks_once_for_each_column(
    use: Callable[..., None], django_assert_num_queries: Any
) -> None:
    NoteFactory()
    with django_assert_num_queries(1) as queries:
        column_status(encrypted_columns("fieldapp.Note.secret")[0], "default")
    assert "GROUP BY" in queries[0]["sql"]


def test_a_new_master_key(db: None) -> None:
    first, second = run("generate_master_key")[1].strip(), run("generate_master_key")[1].strip()
    assert len(first) == 64
    assert int(first, 16) != int(second, 16)
