"""A rotation in parts: ranges of primary keys that any number of workers may rotate.

Each part has a record of its own, made before it is sent, so what goes to a queue is its id and
nothing else. A part is idempotent: sent twice, or lost with its worker and sent again, it goes
over its range and writes what is still stale.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any, Final

from django.db import transaction
from django.utils import timezone

from encryption.conf import get_keyring
from encryption.models import RotationRun
from encryption.pages import Table
from encryption.registry import encrypted_columns
from encryption.rotation import MOST_FAILURES_KEPT, Options
from encryption.runs import MOST_LOOKS, Place, Run, whoami
from encryption.status import column_status

DEFAULT_ROWS_PER_TASK: Final = 20_000
_SECONDS_BETWEEN_QUESTIONS: Final = 1.0
_UNFINISHED: Final = (RotationRun.Status.QUEUED, RotationRun.Status.RUNNING)

Range = tuple[Any, Any]


def shrinking(rows: int, workers: int, least: int, most: int) -> Iterator[int]:
    """Sizes of parts for workers of which none shall wait long for the last one, without an end.

    Each part is half of one worker's share of what is left: guided self-scheduling
    (Polychronopoulos and Kuck, IEEE Transactions on Computers C-36(12), 1987).

    Args:
        rows: how many there are in all.
        workers: how many take parts.
        least: rows of the smallest parts, one page or so.
        most: rows of a part at most.
    """
    left = rows
    while True:
        size = min(most, max(least, left // (2 * workers)))
        yield size
        left -= size


def ranges_of(place: Place, sizes: Iterable[int], *, dry_run: bool = False) -> Iterator[Range]:
    """Split the rows that a rotation has to look at: exclusive lower and inclusive upper bounds.

    Together the ranges hold every primary key there is, so a row that is inserted meanwhile is in
    one of them. Of a composite primary key there is one range. A column in which nothing is left
    to do has none.

    Args:
        sizes: rows of each range; as many numbers are taken as there are ranges.
    """
    column, alias = place
    table = Table(column, alias)
    rows = table.rows() if dry_run else table.stale(get_keyring())
    pks = rows.values_list("pk", flat=True)
    if pks.first() is None:
        return
    after = None
    for size in sizes if len(column.model._meta.pk_fields) == 1 else ():
        bound = (pks if after is None else pks.filter(pk__gt=after))[size - 1 : size].first()
        if bound is None:
            break
        yield after, bound
        after = bound
    yield after, None


def plan(
    chosen: Sequence[Place],
    options: Options,
    started_by: str,
    sizes: int | Sequence[Iterable[int]],
) -> RotationRun:
    """Make the record of a run and of its parts, each still to be sent.

    Args:
        sizes: rows of each part, or for each place the sizes of its parts one after the other.
    """
    keyring = get_keyring()
    each = [repeat(sizes)] * len(chosen) if isinstance(sizes, int) else sizes
    run = RotationRun.objects.create(
        started_by=started_by,
        dry_run=options.dry_run,
        to_key_id=keyring.primary.key_id,
        write_format=keyring.write_format,
    )
    _add_parts(
        run,
        options,
        [
            (place, bounds)
            for place, its in zip(chosen, each, strict=True)
            for bounds in ranges_of(place, its, dry_run=options.dry_run)
        ],
    )
    collect(run.pk)
    return run


def _add_parts(run: RotationRun, options: Options, parts: Iterable[tuple[Place, Range]]) -> None:
    RotationRun.objects.bulk_create(
        [
            RotationRun(
                part_of=run,
                status=RotationRun.Status.QUEUED,
                dry_run=run.dry_run,
                to_key_id=run.to_key_id,
                write_format=run.write_format,
                scope={
                    "column": column.label,
                    "database": alias,
                    "after": None if after is None else str(after),
                    "upto": None if upto is None else str(upto),
                    "batch_size": options.batch_size,
                    "rate_limit": options.rate_limit,
                },
            )
            for (column, alias), (after, upto) in parts
        ],
        batch_size=500,
    )


def claim(run_id: int) -> int | None:
    """Take the next part that waits, and return its id; ``None`` if there is none."""
    waiting = RotationRun.objects.filter(part_of=run_id, status=RotationRun.Status.QUEUED)
    for pk in list(waiting.order_by("pk").values_list("pk", flat=True)):
        # Of those who try at once, one changes the row.
        if waiting.filter(pk=pk).update(status=RotationRun.Status.RUNNING):
            return pk
    return None


def give_up(run_id: int) -> None:
    """Record as failed what should be running and is not, after those who worked have ended."""
    RotationRun.objects.filter(part_of=run_id, status__in=_UNFINISHED).update(
        status=RotationRun.Status.FAILED, finished_at=timezone.now(), updated_at=timezone.now()
    )


def execute_part(
    part_id: int, *, sum_up: bool = True, should_stop: Callable[[], bool] = lambda: False
) -> None:
    """Rotate one part, unless it is over already or its run was stopped.

    Args:
        sum_up: bring the run's record up to date afterwards.
        should_stop: asked after each page, beside the run's record.

    Raises:
        DoesNotExist: there is no such part.
        ValueError: the master keys of this process are not those that the run was started with.
        LookupError: this process has no such column.
        EncryptionError, DatabaseError: see :meth:`encryption.rotation.Rotation.run`.
    """
    part = RotationRun.objects.get(pk=part_id)
    over = part.status in {RotationRun.Status.DONE, RotationRun.Status.STOPPED}
    if over or part.part_of_id is None or part.scope is None:
        return
    try:
        place, options = _task_of(part, part.part_of_id, part.scope)
        asks = options.should_stop
        options = replace(options, should_stop=lambda: should_stop() or asks())
        Run([place], options, whoami(), record=part, count=False).execute()
    except (ValueError, LookupError):
        part.status, part.finished_at = RotationRun.Status.FAILED, timezone.now()
        part.save()
        raise
    finally:
        if sum_up:
            collect(part.part_of_id)


def _task_of(part: RotationRun, run_id: int, scope: dict[str, Any]) -> tuple[Place, Options]:
    key_id = get_keyring().primary.key_id
    if key_id != part.to_key_id:
        raise ValueError(
            f"This worker's primary key is {key_id} and the run rotates to {part.to_key_id}. "
            "Start the workers again with the keys of the command, then run it again."
        )
    (column,) = encrypted_columns(scope["column"])
    to_python = column.model._meta.pk.to_python
    after, upto = scope["after"], scope["upto"]
    return (column, scope["database"]), Options(
        batch_size=scope["batch_size"],
        dry_run=part.dry_run,
        rate_limit=scope["rate_limit"],
        after=None if after is None else to_python(after),
        upto=None if upto is None else to_python(upto),
        should_stop=_StopOf(run_id),
    )


class _StopOf:
    """Asks a run's record, now and then, whether it was stopped."""

    def __init__(self, run_id: int) -> None:
        self._run_id = run_id
        self._asked = 0.0

    def __call__(self) -> bool:
        if time.monotonic() - self._asked < _SECONDS_BETWEEN_QUESTIONS:
            return False
        self._asked = time.monotonic()
        stopped = RotationRun.Status.STOPPED
        return RotationRun.objects.filter(pk=self._run_id, status=stopped).exists()


def collect(run_id: int) -> RotationRun:
    """Sum up the parts of a run in its record; when the last one is over, so is the run."""
    with transaction.atomic(using=RotationRun.objects.db):
        # Two parts that end at once are summed up one after the other. This locks the row, and
        # a transaction that begins by writing is one that SQLite lets wait for others.
        RotationRun.objects.filter(pk=run_id).update(updated_at=timezone.now())
        run = RotationRun.objects.get(pk=run_id)
        parts = list(run.parts.order_by("pk"))
        sums: dict[tuple[str, str], dict[str, Any]] = {}
        for part in parts:
            for counts in part.columns:
                name = counts["column"], counts["database"]
                total = sums.setdefault(name, {"column": name[0], "database": name[1]})
                for key in ("examined", "rotated", "only_indexes", "changed_meanwhile", "failed"):
                    # A part that an older release wrote does not count the indexes apart.
                    total[key] = total.get(key, 0) + counts.get(key, 0)
        run.columns = list(sums.values())
        failures = [failure for part in parts for failure in part.failures]
        run.failures = failures[:MOST_FAILURES_KEPT]
        run.from_key_ids = sorted({key for part in parts for key in part.from_key_ids})
        if run.status != RotationRun.Status.STOPPED:
            run.status = _status(parts)
            # A part that failed may be tried again, and then the run goes on.
            run.finished_at = None if run.status in _UNFINISHED else timezone.now()
        run.save()
    return run


def _status(parts: list[RotationRun]) -> RotationRun.Status:
    found = {part.status for part in parts}
    if found.intersection(_UNFINISHED):
        return RotationRun.Status.RUNNING
    for status in (
        RotationRun.Status.FAILED,
        RotationRun.Status.STOPPED,
        RotationRun.Status.INCOMPLETE,
    ):
        if status in found:
            return status
    return RotationRun.Status.DONE


def stop(run_id: int) -> None:
    """Have the parts of a run end after their current pages, and those that wait not begin."""
    RotationRun.objects.filter(pk=run_id, status__in=_UNFINISHED).update(
        status=RotationRun.Status.STOPPED, finished_at=timezone.now(), updated_at=timezone.now()
    )
    RotationRun.objects.filter(part_of=run_id, status=RotationRun.Status.QUEUED).update(
        status=RotationRun.Status.STOPPED, finished_at=timezone.now(), updated_at=timezone.now()
    )


def sweep(run_id: int, chosen: list[Place], options: Options) -> int:
    """Rotate here, as a part of its own, what was saved under an old key behind the parts' backs.

    Returns how many rows are left; a run that was stopped or in which something failed is left as
    it is.
    """
    looks = 0
    while True:
        stale = {place: status.stale for place in chosen if (status := column_status(*place)).stale}
        run = RotationRun.objects.get(pk=run_id)
        done = run.status == RotationRun.Status.DONE and not run.dry_run
        if not stale or not done or looks == MOST_LOOKS:
            return sum(stale.values())
        looks += 1
        _add_parts(run, options, [(place, (None, None)) for place in stale])
        while (part := claim(run_id)) is not None:
            execute_part(part)
