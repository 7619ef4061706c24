"""``manage.py rotate_master_key``: bring every encrypted row to the primary key."""

import json
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections import Counter
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.utils.connection import ConnectionDoesNotExist
from django.utils.translation import ngettext

from encryption.conf import get_keyring
from encryption.core import tokens
from encryption.management.terminal import Progress, StopSignal
from encryption.models import RotationRun
from encryption.processes import MOST_PROCESSES, Workers, best_count, can_fork, plan_for
from encryption.ranges import DEFAULT_ROWS_PER_TASK, collect, plan, stop, sweep
from encryption.rotation import (
    DEFAULT_BATCH_SIZE,
    MOST_ROWS_OF_A_PAGE,
    ColumnReport,
    Options,
    Rotation,
)
from encryption.runs import Place, Run, counts_of, places, whoami, written_text
from encryption.status import ColumnStatus, column_status

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_QUESTIONS = 0.5


class Command(BaseCommand):
    help = (
        "Encrypt every encrypted column anew under the primary master key, while the site runs. "
        "The keys come from the settings or the environment (MASTER_ENCRYPTION_KEY, "
        "MASTER_ENCRYPTION_KEY_FALLBACKS, OLD_MASTER_KEY), never from the command line. Can be "
        "stopped, killed and run again at any time. Exit status: 0 all rows are current, 1 rows "
        "are left or failed, 2 wrong usage."
    )

    #: Typed as a command, and not called by other code.
    _is_from_a_shell = False

    def run_from_argv(self, argv: list[str]) -> None:
        self._is_from_a_shell = True
        super().run_from_argv(argv)

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
            type=_batch,
            default=DEFAULT_BATCH_SIZE,
            help=f"Rows of one page and one transaction (default {DEFAULT_BATCH_SIZE}).",
        )
        parser.add_argument(
            "--rate-limit", type=_positive, metavar="ROWS_PER_SECOND", help="No faster than this."
        )
        parser.add_argument("--json", action="store_true", help="Print the result as JSON.")
        parser.add_argument(
            "--celery",
            action="store_true",
            help="Have Celery workers do it, in ranges of primary keys, and wait for them. "
            "Ctrl-C stops them after their current pages.",
        )
        parser.add_argument(
            "--processes",
            type=_positive,
            metavar="N",
            help="Rotate in N processes of this machine, in ranges of primary keys (default: one "
            f"for each core, {MOST_PROCESSES} at most, and one alone for few rows or with "
            "--rate-limit).",
        )
        parser.add_argument(
            "--rows-per-task",
            type=_positive,
            metavar="N",
            help="With --celery or --processes: rows of one range at most "
            f"(default {DEFAULT_ROWS_PER_TASK}).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        _check_ranges(options)
        try:
            get_keyring()
            chosen = places(options["model"], options["database"])
        except (LookupError, ConnectionDoesNotExist, ImproperlyConfigured) as error:
            raise CommandError(str(error.args[0]), returncode=2) from None
        stop_signal = StopSignal()
        how = Options(
            batch_size=options["batch_size"],
            dry_run=options["dry_run"],
            rate_limit=options["rate_limit"],
            should_stop=stop_signal,
        )
        if options["celery"]:
            self._with_celery(chosen, how, stop_signal, options)
            return
        statuses = {place: column_status(*place) for place in chosen}
        due = {place: _rows_of(status, how) for place, status in statuses.items()}
        progress = Progress(self, due, quiet=options["json"])
        count = options["processes"] or self._best_count(due, how)
        if count > 1:
            if not can_fork():
                raise CommandError("--processes needs a system that can fork.", returncode=2)
            with stop_signal:
                knows_all = self._derive_ahead(statuses, how, options)
            if knows_all or options["processes"]:
                run_id = plan_for(count, due, how, whoami(), _rows_per_task(options)).pk
                self._watch(run_id, count, progress, stop_signal)
                self._tell_parts(run_id, chosen, sweep(run_id, chosen, how), options)
                return
        run = Run(chosen, how, whoami(), progress)
        with stop_signal:
            run.execute()
        progress.end()
        failures = [asdict(failure) for report in run.reports for failure in report.failures]
        self._tell(run.record, failures, run.stale, options)
        if run.stopped or run.failed or run.stale:
            sys.exit(1)

    def _with_celery(
        self, chosen: list[Place], how: Options, stop_signal: StopSignal, options: dict[str, Any]
    ) -> None:
        if not find_spec("celery"):
            raise CommandError(
                "--celery needs Celery: install dashtray[celery]. Without it, any number of these "
                "commands may run at once.",
                returncode=2,
            )
        run = plan(chosen, how, f"{whoami()} (Celery)"[:200], _rows_per_task(options))
        with stop_signal:
            self._send(run)
            self._wait_for(run, stop_signal, options)
        self._tell_parts(run.pk, chosen, sweep(run.pk, chosen, how), options)

    def _best_count(self, due: dict[Place, int], how: Options) -> int:
        # Forking closes the connections, which other code than a command line may have set up.
        if how.rate_limit or not self._is_from_a_shell:
            return 1
        return best_count(sum(due.values()), [alias for _, alias in due])

    def _derive_ahead(
        self, statuses: dict[Place, ColumnStatus], how: Options, options: dict[str, Any]
    ) -> bool:
        """Derive the keys of v1 rows on all cores; say whether all tenants' can be kept."""
        knows_all = True
        for (column, alias), status in statuses.items():
            nameless = sum(status.keys.get(name, 0) for name in (tokens.V1, "plaintext"))
            if nameless and not options["json"]:
                self.stdout.write(f"{column.label}: deriving the keys of {nameless} rows' tenants")
            knows_all &= not nameless or Rotation(column, alias, how).derive_ahead()
        return knows_all

    def _watch(self, run_id: int, count: int, progress: Progress, stop_signal: StopSignal) -> None:
        """Have processes work at a run, and tell how it goes until they have ended."""
        workers = Workers(run_id, count)
        with stop_signal, workers.running():
            while not workers.wait(_SECONDS_BETWEEN_QUESTIONS):
                if stop_signal():
                    stop(run_id)
                for counts in collect(run_id).columns:
                    done = counts["examined"]
                    progress(ColumnReport(counts["column"], counts["database"], examined=done))
        progress.end()
        if workers.broken:
            self.stderr.write(f"Of {count} processes {workers.broken} ended by an error.")

    def _tell_parts(
        self, run_id: int, chosen: list[Place], stale: int, options: dict[str, Any]
    ) -> None:
        run = collect(run_id)
        # Of a column in which nothing was left to do there is no part.
        counted = {(counts["column"], counts["database"]): counts for counts in run.columns}
        run.columns = [
            counted.get((column.label, alias)) or counts_of(ColumnReport(column.label, alias))
            for column, alias in chosen
        ]
        self._tell(run, run.failures, stale, options)
        if run.status != RotationRun.Status.DONE or stale:
            sys.exit(1)

    def _send(self, run: RotationRun) -> None:
        # Celery is an extra, and Kombu comes with it.
        from kombu.exceptions import OperationalError  # noqa: PLC0415

        from encryption.tasks import rotate_range  # noqa: PLC0415

        try:
            for pk in run.parts.order_by("pk").values_list("pk", flat=True):
                rotate_range.delay(pk)
        except OperationalError as error:
            stop(run.pk)
            raise CommandError(
                f"The broker cannot be reached ({type(error).__name__}). Set CELERY_BROKER_URL, "
                "or whatever your project's Celery application takes it from."
            ) from None

    def _wait_for(self, run: RotationRun, stop_signal: StopSignal, options: dict[str, Any]) -> None:
        told = time.monotonic()
        while True:
            run.refresh_from_db()
            counts = Counter(run.parts.values_list("status", flat=True))
            left = counts[RotationRun.Status.QUEUED] + counts[RotationRun.Status.RUNNING]
            if not left:
                return
            if stop_signal():
                stop(run.pk)
                return
            if not options["json"] and time.monotonic() - told >= _SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                self.stdout.write(
                    f"Tasks left: {left} of {sum(counts.values())}"
                    + ("" if counts[RotationRun.Status.RUNNING] else "; is a worker running?")
                )
            time.sleep(_SECONDS_BETWEEN_QUESTIONS)

    def _tell(
        self,
        record: RotationRun,
        failures: list[dict[str, Any]],
        stale: int,
        options: dict[str, Any],
    ) -> None:
        if options["json"]:
            self.stdout.write(json.dumps(_record_as_json(record, stale), indent=2))
            return
        for counts in record.columns:
            self.stdout.write(
                f"{counts['column']} [{counts['database']}]: "
                f"{written_text(counts, dry_run=record.dry_run)}, "
                f"{counts['changed_meanwhile']} changed meanwhile, {counts['failed']} failed"
            )
        for failure in failures:
            self.stderr.write(f"  {failure['label']} pk={failure['pk']}: {failure['reason']}")
        more = sum(counts["failed"] for counts in record.columns) - len(failures)
        if more:
            self.stderr.write(f"  and {more} more")
        if record.status == RotationRun.Status.STOPPED:
            self.stdout.write("Stopped after the current page. Run it again to go on from there.")
        if stale and not record.dry_run:
            left = ngettext("row is left", "rows are left", stale)
            self.stdout.write(f"{stale} {left} to rotate to key {record.to_key_id}.")
        elif record.status == RotationRun.Status.DONE and not record.dry_run:
            self.stdout.write(f"All rows are under key {record.to_key_id}.")


def _rows_of(status: ColumnStatus, how: Options) -> int:
    """How many rows of a column a run has to go over."""
    if how.dry_run or get_keyring().write_format == tokens.V1:
        return sum(status.keys.values())
    return status.stale


def _record_as_json(record: RotationRun, stale: int) -> dict[str, Any]:
    return {
        "run": record.pk,
        "status": record.status,
        "dry_run": record.dry_run,
        "to_key_id": record.to_key_id,
        "from_key_ids": record.from_key_ids,
        "columns": record.columns,
        "failures": record.failures,
        "failed": sum(counts["failed"] for counts in record.columns),
        "stale": stale,
    }


def _check_ranges(options: dict[str, Any]) -> None:
    several = (options["processes"] or 1) > 1
    if options["celery"] and several:
        raise CommandError("--celery and --processes exclude each other.", returncode=2)
    if options["rows_per_task"] and not options["celery"] and not several:
        raise CommandError(
            "--rows-per-task needs --celery, or --processes with more than one.", returncode=2
        )


def _rows_per_task(options: dict[str, Any]) -> int:
    return int(options["rows_per_task"] or DEFAULT_ROWS_PER_TASK)


def _batch(text: str) -> int:
    if _positive(text) > MOST_ROWS_OF_A_PAGE:
        raise ArgumentTypeError(f"a whole number from 1 to {MOST_ROWS_OF_A_PAGE}")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError("a whole number from 1 up")
    return int(text)
