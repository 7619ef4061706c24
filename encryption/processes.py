"""The parts of a run in processes of this machine: each has a core of its own, without a broker.

The processes are forked, so they have the settings and keys of the command. Each takes the next
part that nobody has taken, and ends when there is none. They write nothing that a run in one
process would not write, so one that is killed costs the rows of its page some time.
"""

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from django.db import connections, router

from encryption.models import RotationRun
from encryption.ranges import (
    DEFAULT_ROWS_PER_TASK,
    claim,
    execute_part,
    give_up,
    plan,
    shrinking,
    stop,
)
from encryption.rotation import Options
from encryption.runs import Place

#: Without being told, a run does not take more: the site has to have its share of the database.
MOST_PROCESSES: Final = 4
#: With fewer rows, starting processes takes as long as they save.
_ROWS_OF_SEVERAL: Final = 20_000
#: Seconds that the processes of a run have to end after the command broke off.
_SECONDS_TO_END = 30


def can_fork() -> bool:
    """Say whether this system has the call; Windows has not."""
    return "fork" in multiprocessing.get_all_start_methods()


def best_count(rows: int, databases: Iterable[str]) -> int:
    """Say in how many processes to rotate so many rows: one for each core, if it is worth it.

    It is one where a fork could do harm or would not see the rows: beside other threads, within a
    transaction, and with SQLite in memory.

    Args:
        rows: how many rows there are to write.
        databases: the aliases of the databases that hold them.
    """
    if rows < _ROWS_OF_SEVERAL or not can_fork() or threading.active_count() > 1:
        return 1
    for alias in {*databases, router.db_for_write(RotationRun)}:
        connection = connections[alias]
        in_memory = getattr(connection, "is_in_memory_db", bool)
        if connection.in_atomic_block or in_memory():
            return 1
    return min(_cores(), MOST_PROCESSES)


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS does not tell which


def plan_for(
    count: int,
    due: Mapping[Place, int],
    options: Options,
    started_by: str,
    most: int = DEFAULT_ROWS_PER_TASK,
) -> RotationRun:
    """Make the record of a run in so many processes, and of its parts.

    Args:
        due: the columns, and how many rows of each there are to go over.
        most: rows of a part at most.
    """
    if options.rate_limit is not None:
        options = replace(options, rate_limit=options.rate_limit / count)
    # A page is the least that a process does at once.
    least = min(options.batch_size, most)
    sizes = [shrinking(rows, count, least, most) for rows in due.values()]
    return plan(list(due), options, started_by, sizes)


class Workers:
    """The processes of one run."""

    def __init__(self, run_id: int, count: int) -> None:
        self._run_id = run_id
        context = multiprocessing.get_context("fork")
        arguments = (run_id, os.getpid())
        self._processes = [context.Process(target=_work, args=arguments) for _ in range(count)]

    @contextmanager
    def running(self) -> Iterator["Workers"]:
        """Start them; on the way out they have ended, and so has each part of the run."""
        connections.close_all()  # a connection must not be used by two processes
        for process in self._processes:
            process.start()
        try:
            yield self
        except BaseException:
            stop(self._run_id)
            raise
        finally:
            for process in self._processes:
                process.join(_SECONDS_TO_END)
            give_up(self._run_id)

    def wait(self, seconds: float) -> bool:
        """Wait for them to end, so long at most; say whether they have."""
        for process in self._processes:
            process.join(seconds / len(self._processes))
        return not any(process.is_alive() for process in self._processes)

    @property
    def broken(self) -> int:
        """How many ended by an error or were killed."""
        return sum(bool(process.exitcode) for process in self._processes)


def _work(run_id: int, parent: int) -> None:
    # Ctrl-C reaches every process of the terminal; the command tells these by the run's record.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    # What was there before is no garbage of this process, and looking at it would copy its memory.
    gc.freeze()

    def is_orphan() -> bool:
        return os.getppid() != parent

    while not is_orphan() and (part := claim(run_id)) is not None:
        execute_part(part, sum_up=False, should_stop=is_orphan)
