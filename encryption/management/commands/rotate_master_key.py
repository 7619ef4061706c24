"""``manage.py rotate_master_key``: bring every encrypted row to the primary key."""

import json
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections import Counter
from importlib.util import find_spec
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.utils.connection import ConnectionDoesNotExist

from encryption.conf import get_keyring
from encryption.management.terminal import Progress, StopSignal
from encryption.models import RotationRun
from encryption.ranges import DEFAULT_ROWS_PER_TASK, collect, plan, stale_rows, stop
from encryption.rotation import DEFAULT_BATCH_SIZE, Options
from encryption.runs import Place, Run, places, whoami

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
        parser.add_argument(
            "--celery",
            action="store_true",
            help="Have Celery workers do it, in ranges of primary keys, and wait for them. "
            "Ctrl-C stops them after their current pages.",
        )
        parser.add_argument(
            "--rows-per-task",
            type=_positive,
            default=DEFAULT_ROWS_PER_TASK,
            help=f"With --celery: rows of one task (default {DEFAULT_ROWS_PER_TASK}).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
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
        progress = Progress(self, chosen, quiet=options["json"])
        run = Run(chosen, how, whoami(), progress)
        with stop_signal:
            run.execute()
        progress.end()
        self._tell(run, options)
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
        run = plan(chosen, how, f"{whoami()} (Celery)"[:200], options["rows_per_task"])
        with stop_signal:
            self._send(run)
            self._wait_for(run, stop_signal, options)
        run = collect(run.pk)
        stale = stale_rows(chosen)
        if options["json"]:
            self.stdout.write(json.dumps(_record_as_json(run, stale), indent=2))
        else:
            for counts in run.columns:
                self.stdout.write(
                    f"{counts['column']} [{counts['database']}]: {counts['rotated']} "
                    f"{'would be ' if run.dry_run else ''}rotated, "
                    f"{counts['changed_meanwhile']} changed meanwhile, {counts['failed']} failed"
                )
            for failure in run.failures:
                self.stderr.write(f"  {failure['label']} pk={failure['pk']}: {failure['reason']}")
            self._tell_rest(run, stale)
        if run.status != RotationRun.Status.DONE or (stale and not run.dry_run):
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
                    f"{left} of {sum(counts.values())} tasks are left"
                    + ("" if counts[RotationRun.Status.RUNNING] else "; is a worker running?")
                )
            time.sleep(_SECONDS_BETWEEN_QUESTIONS)

    def _tell(self, run: Run, options: dict[str, Any]) -> None:
        if options["json"]:
            self.stdout.write(json.dumps(_record_as_json(run.record, run.stale), indent=2))
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
        self._tell_rest(run.record, run.stale)

    def _tell_rest(self, record: RotationRun, stale: int) -> None:
        if record.status == RotationRun.Status.STOPPED:
            self.stdout.write("Stopped after the current page. Run it again to go on from there.")
        if stale and not record.dry_run:
            self.stdout.write(f"{stale} rows are not under key {record.to_key_id} yet.")
        elif record.status == RotationRun.Status.DONE and not record.dry_run:
            self.stdout.write(f"All rows are under key {record.to_key_id}.")


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


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError("a whole number from 1 up")
    return int(text)
