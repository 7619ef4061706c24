"""The record of a run, while it goes on and afterwards."""

from collections.abc import Callable
from typing import Any

import pytest
from pytest_django import Settings

from encryption import ranges, runs
from encryption.models import RotationRun
from encryption.registry import EncryptedColumn
from encryption.rotation import Options
from encryption.runs import Run, places
from encryption.status import ColumnStatus, column_status
from tests.encryption.database import store, stored
from tests.fieldapp.factories import NoteFactory

OLD = "the old master key, at least 32 characters long"
NEW = "the new master key, at least 32 characters long"


@pytest.fixture
def stale(settings: Settings, db: None) -> list[Any]:
    settings.ENCRYPTION = {"MASTER_KEY": OLD}
    notes = NoteFactory.create_batch(4)
    settings.ENCRYPTION = {"MASTER_KEY": NEW, "MASTER_KEY_FALLBACKS": [OLD]}
    return notes


def a_run(**options: Any) -> Run:
    return Run(places("fieldapp.Note.secret"), Options(batch_size=1, **options), "a test")


def test_the_record_is_written_while_it_goes_on(
    stale: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_SECONDS_BETWEEN_RECORDS", 0)
    seen: list[int] = []

    def look(report: object) -> None:
        record = RotationRun.objects.get()
        assert record.status == "running"
        assert record.finished_at is None
        seen.append(record.columns[0]["rotated"])

    run = Run(places("fieldapp.Note.secret"), Options(batch_size=1), "a test", look)
    assert RotationRun.objects.get().status == "running"
    run.execute()
    assert seen == [1, 2, 3, 4]
    assert RotationRun.objects.get().status == "done"


def test_the_record_is_not_written_for_every_page(
    stale: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    django_assert_num_queries: Callable[..., Any],
) -> None:
    monkeypatch.setattr(runs, "_SECONDS_BETWEEN_RECORDS", 3600)
    run = a_run()
    with django_assert_num_queries(1, info="the last one"):
        for _ in range(3):
            run._after_page(run.reports[0] if run.reports else None)  # type: ignore[arg-type]
        run._save()


def test_failures_are_in_the_record_in_bounds(
    stale: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MOST_FAILURES_KEPT", 2)
    for note in stale[:3]:
        store(note, "secret", "no token")
    record = a_run().execute()
    assert record.status == "incomplete"
    assert record.columns[0]["failed"] == 3
    assert len(record.failures) == 2
    assert set(record.failures[0]) == {"label", "database", "pk", "reason"}


@pytest.mark.parametrize(("times", "status", "stale_rows"), [(1, "done", 0), (99, "incomplete", 1)])
def test_a_column_is_gone_over_again(
    stale: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    times: int,
    status: str,
    stale_rows: int,
) -> None:
    """A row that was loaded before its turn and saved after it, unread, has its old token."""
    token = stored(stale[0], "secret")
    left = iter(range(times))

    def save_and_count(column: EncryptedColumn, *place: Any) -> ColumnStatus:
        if column.label == "fieldapp.Note.secret" and next(left, None) is not None:
            store(stale[0], "secret", token)
        return column_status(column, *place)

    monkeypatch.setattr(runs, "column_status", save_and_count)
    chosen = places("fieldapp.Note")
    run = Run(chosen, Options(), "a test")
    record = run.execute()
    assert (record.status, run.stale) == (status, stale_rows)
    assert [counts["column"] for counts in record.columns] == [one.label for one, _ in chosen]
    assert record.columns[0]["rotated"] == 4 + min(times, runs.MOST_LOOKS)


def test_parts_are_gone_over_again(stale: list[Any]) -> None:
    chosen = places("fieldapp.Note")
    token = stored(stale[0], "secret")
    run = ranges.plan(chosen, Options(), "a test", 2)
    parts = run.parts.count()
    for part in run.parts.all():
        ranges.execute_part(part.pk)
    assert ranges.sweep(run.pk, chosen, Options()) == 0
    store(stale[0], "secret", token)
    assert ranges.sweep(run.pk, chosen, Options()) == 0
    run.refresh_from_db()
    assert (run.status, run.parts.count()) == ("done", parts + 1)
    assert run.columns[0]["rotated"] == 5


def test_a_sweep_leaves_what_failed_or_was_stopped(stale: list[Any]) -> None:
    chosen = places("fieldapp.Note.secret")
    store(stale[0], "secret", "v2:00000000:" + "A" * 80)
    run = ranges.plan(chosen, Options(), "a test", 10)
    ranges.execute_part(run.parts.get().pk)
    assert ranges.sweep(run.pk, chosen, Options()) == 1
    run.refresh_from_db()
    assert (run.status, run.columns[0]["failed"], run.parts.count()) == ("incomplete", 1, 1)
    stopped = ranges.plan(chosen, Options(), "a test", 10)
    ranges.stop(stopped.pk)
    assert ranges.sweep(stopped.pk, chosen, Options()) == 1
    assert stopped.parts.count() == 1


def test_stopping(stale: list[Any]) -> None:
    run = a_run(should_stop=lambda: True)
    assert run.execute().status == "stopped"
    assert (run.stopped, run.stale) == (True, 3)


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert "@" in runs.whoami()
