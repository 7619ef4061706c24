"""``manage.py rotate_master_key``: bring every encrypted row to the primary key."""

import json
import signal
import sys
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError
from types import FrameType
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.utils.connection import ConnectionDoesNotExist

from encryption.rotation import DEFAULT_BATCH_SIZE, ColumnReport, Options
from encryption.runs import Place, Run, places, whoami
from encryption.status import column_status


class Command(BaseCommand):
    help = (
        "Encrypt every encrypted column anew under the primary master key, while the site runs. "
        "The keys come from the settings or the environment (MASTER_ENCRYPTION_KEY, "
        "MASTER_ENCRYPTION_KEY_FALLBACKS, OLD_MASTER_KEY), never from the command line. Can be "
        "stopped, killed and run again at any time. Exit status: 0 all rows are current, 1 rows "
        "are left or failed, 2 wrong usage."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="Decrypt every row and write nothing."
        )
        parser.add_argument(
            "--model", metavar="APP.MODEL[.FIELD]", help="Only this model, or only this field."
        )
        parser.add_argument("--database", metavar="ALIAS", help="Only this database.")
        parser.add_argument(
            "--batch-size",
            type=_positive,
            default=DEFAULT_BATCH_SIZE,
            help=f"Rows of one page and one transaction (default {DEFAULT_BATCH_SIZE}).",
        )
        parser.add_argument(
            "--rate-limit", type=_positive, metavar="ROWS_PER_SECOND", help="No faster than this."
        )
        parser.add_argument("--json", action="store_true", help="Print the result as JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            chosen = places(options["model"], options["database"])
        except (LookupError, ConnectionDoesNotExist, ImproperlyConfigured) as error:
            raise CommandError(str(error.args[0]), returncode=2) from None
        stop = _StopSignal()
        progress = _Progress(self, chosen, quiet=options["json"])
        run = Run(
            chosen,
            Options(
                batch_size=options["batch_size"],
                dry_run=options["dry_run"],
                rate_limit=options["rate_limit"],
                should_stop=stop,
            ),
            whoami(),
            progress,
        )
        with stop:
            run.execute()
        progress.end()
        self._tell(run, options)
        if run.stopped or run.failed or run.stale:
            sys.exit(1)

    def _tell(self, run: Run, options: dict[str, Any]) -> None:
        if options["json"]:
            self.stdout.write(json.dumps(_as_json(run), indent=2))
            return
        verb = "would be rotated" if run.record.dry_run else "rotated"
        for report in run.reports:
            self.stdout.write(
                f"{report.label} [{report.database}]: {report.rotated} {verb}, "
                f"{report.changed} changed meanwhile, {report.failed} failed"
            )
            for failure in report.failures:
                self.stderr.write(f"  {report.label} pk={failure.pk}: {failure.reason}")
            if report.failed > len(report.failures):
                self.stderr.write(f"  and {report.failed - len(report.failures)} more")
        if run.stopped:
            self.stdout.write("Stopped after the current page. Run it again to go on from there.")
        if run.stale and not run.record.dry_run:
            self.stdout.write(f"{run.stale} rows are not under key {run.record.to_key_id} yet.")
        elif not run.failed and not run.stopped and not run.record.dry_run:
            self.stdout.write(f"All rows are under key {run.record.to_key_id}.")


def _as_json(run: Run) -> dict[str, Any]:
    return {
        "status": run.record.status,
        "dry_run": run.record.dry_run,
        "to_key_id": run.record.to_key_id,
        "from_key_ids": run.record.from_key_ids,
        "columns": run.record.columns,
        "failures": run.record.failures,
        "failed": run.failed,
        "stale": run.stale,
    }


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError("a whole number from 1 up")
    return int(text)


class _StopSignal:
    """Turns Ctrl-C and SIGTERM into an answer to "should I stop?"; a second Ctrl-C is final."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self._asked

    def __enter__(self) -> "_StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True


class _Progress:
    """A bar with rate and time left on a terminal, a line now and then elsewhere."""

    seconds_between_lines = 10.0
    width = 30

    def __init__(self, command: BaseCommand, chosen: list[Place], quiet: bool) -> None:
        self._out = command.stdout
        self._quiet = quiet
        self._bar = not quiet and bool(getattr(command.stdout, "isatty", bool)())
        statuses = [] if quiet else [column_status(*place) for place in chosen]
        self._due = {(one.label, one.database): one.stale for one in statuses}
        self._done: dict[tuple[str, str], int] = {}
        self._total = sum(self._due.values())
        self._started = self._told = time.monotonic()

    def __call__(self, report: ColumnReport) -> None:
        if self._quiet:
            return
        self._done[report.label, report.database] = report.examined
        now = time.monotonic()
        done = sum(self._done.values())
        rate = done / max(now - self._started, 0.001)
        left = max(self._total - done, 0) / rate if rate else 0.0
        if self._bar:
            filled = self.width * min(done, self._total) // max(self._total, 1)
            bar = "#" * filled + "." * (self.width - filled)
            text = f"\r[{bar}] {done}/{self._total}  {rate:,.0f} rows/s  {left:,.0f} s left "
            self._out.write(text, ending="")
            self._out.flush()
        elif now - self._told >= self.seconds_between_lines:
            self._told = now
            self._out.write(f"{report.label}: {done} of {self._total}, {rate:,.0f} rows/s")

    def end(self) -> None:
        """Leave the bar's line."""
        if self._bar:
            self._out.write("")
