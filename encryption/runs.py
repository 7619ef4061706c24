"""One run over all encrypted columns, recorded while it goes on."""

import getpass
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any, Final

from django.db import DatabaseError
from django.utils import timezone

from encryption.conf import get_keyring
from encryption.models import RotationRun
from encryption.registry import EncryptedColumn, databases_of, encrypted_columns
from encryption.rotation import MOST_FAILURES_KEPT, ColumnReport, Options, Rotation
from encryption.status import ColumnStatus, column_status

#: How often the record is written while a run goes on.
_SECONDS_BETWEEN_RECORDS: Final = 1.0

#: How often a run looks again for rows that were saved under an old key after their turn.
MOST_LOOKS: Final = 3

Place = tuple[EncryptedColumn, str]


def places(only: str | None = None, database: str | None = None) -> list[Place]:
    """List the columns to rotate, with the database that each is in.

    Raises:
        LookupError: ``only`` names no encrypted column.
        ConnectionDoesNotExist: there is no such database.
    """
    return [
        (column, alias)
        for column in encrypted_columns(only)
        for alias in databases_of(column, database)
    ]


def whoami() -> str:
    """Who starts a run from a shell: user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:200]


def written_text(counts: dict[str, Any], *, dry_run: bool) -> str:
    """Say for people what was written of a column, or in a dry run would be.

    Args:
        counts: an entry of ``RotationRun.columns``.
    """
    # Runs that were recorded before there was this count have none.
    only_indexes = counts.get("only_indexes", 0)
    text = f"{counts['rotated'] - only_indexes} {'would be ' if dry_run else ''}rotated"
    if only_indexes:
        text += f", {only_indexes} {'would get' if dry_run else 'got'} blind indexes"
    return text


def counts_of(report: ColumnReport) -> dict[str, Any]:
    """What ``RotationRun.columns`` holds of a column."""
    return {
        "column": report.label,
        "database": report.database,
        "examined": report.examined,
        "rotated": report.rotated,
        "only_indexes": report.rotated - sum(report.from_keys.values()),
        "changed_meanwhile": report.changed,
        "failed": report.failed,
    }


class Run:
    """A rotation of several columns and its record.

    Args:
        chosen: the columns, from :func:`places`.
        options: as for one column.
        started_by: who or what started it, for the record.
        on_page: called after each page with the report of its column.
        record: one that was made before, for a part of a run; else a new one is made.
        count: count what is left in the end. A part does not: it would count the whole column.
    """

    def __init__(
        self,
        chosen: Iterable[Place],
        options: Options,
        started_by: str,
        on_page: Callable[[ColumnReport], None] = lambda report: None,
        record: RotationRun | None = None,
        count: bool = True,
    ) -> None:
        self.chosen = list(chosen)
        self.keyring = get_keyring()
        self.reports: list[ColumnReport] = []
        self.left: list[ColumnStatus] = []
        self._on_page = on_page
        self._options = replace(options, on_page=self._after_page)
        self._counts = count
        self._recorded = time.monotonic()
        self.record = record or RotationRun()
        self.record.started_by = started_by
        self.record.dry_run = options.dry_run
        self.record.to_key_id = self.keyring.primary.key_id
        self.record.write_format = self.keyring.write_format
        self.record.status = RotationRun.Status.RUNNING
        self.record.save()

    def execute(self) -> RotationRun:
        """Rotate, count what is left, and return the finished record.

        Raises:
            EncryptionError, DatabaseError: see :meth:`Rotation.run`; the record says so.
        """
        try:
            rotations = [Rotation(*place, self._options, self.keyring) for place in self.chosen]
            self._rotate(rotations)
            if self._counts:
                self._look_again(rotations)
        except BaseException as error:
            self._broke_off(error)
            raise
        self.record.status = self._outcome()
        self.record.finished_at = timezone.now()
        self._save()
        return self.record

    def _rotate(self, rotations: Iterable[Rotation]) -> None:
        for rotation in rotations:
            if not any(report is rotation.report for report in self.reports):
                self.reports.append(rotation.report)
            rotation.run()
            if rotation.report.stopped:
                break

    def _look_again(self, rotations: list[Rotation]) -> None:
        """Count what is left, and rotate what got there behind the back of this run.

        Somebody loaded a row before its turn and saved it afterwards, or writes under an old key
        still. A column in which something failed waits for somebody to mend that.
        """
        for look in range(MOST_LOOKS + 1):
            self.left = [column_status(*place, self.keyring) for place in self.chosen]
            again = [
                rotation
                for rotation, status in zip(rotations, self.left, strict=True)
                if status.stale and not rotation.report.failed
            ]
            if not again or self.stopped or self.record.dry_run or look == MOST_LOOKS:
                break
            self._rotate(again)

    def _broke_off(self, error: BaseException) -> None:
        """Record that this run ended in the middle, by which error (a database's message may
        quote values, so not what it says)."""
        self.record.status = RotationRun.Status.FAILED
        self.record.finished_at = timezone.now()
        try:
            self._save(type(error).__name__)
        except DatabaseError:  # what ended the run may be the database itself
            pass

    @property
    def stopped(self) -> bool:
        """Whether somebody asked to stop."""
        return any(report.stopped for report in self.reports)

    @property
    def failed(self) -> int:
        """Rows that cannot be decrypted."""
        return sum(report.failed for report in self.reports)

    @property
    def stale(self) -> int:
        """Rows that are not under the primary key now; a dry run leaves them all."""
        return sum(status.stale for status in self.left)

    def _outcome(self) -> RotationRun.Status:
        if self.stopped:
            return RotationRun.Status.STOPPED
        if self.failed or (self.stale and not self.record.dry_run):
            return RotationRun.Status.INCOMPLETE
        return RotationRun.Status.DONE

    def _after_page(self, report: ColumnReport) -> None:
        if time.monotonic() - self._recorded >= _SECONDS_BETWEEN_RECORDS:
            self._save()
            self._recorded = time.monotonic()
        self._on_page(report)

    def _save(self, error: str = "") -> None:
        """Bring the record up to date: counts and reasons, no token and no secret."""
        failures = [asdict(failure) for report in self.reports for failure in report.failures]
        self.record.failures = failures[:MOST_FAILURES_KEPT]
        self.record.columns = [counts_of(report) for report in self.reports]
        if error and self.record.columns:
            self.record.columns[-1]["error"] = error
        self.record.from_key_ids = sorted({key for one in self.reports for key in one.from_keys})
        self.record.save()
