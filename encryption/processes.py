"""The parts of a run in processes of this machine: each has a core of its own, without a broker.

The processes are forked, so they have the settings and keys of the command. Each takes the next
part that nobody has taken, and ends when there is none. They write nothing that a run in one
process would not write, so one that is killed costs the rows of its page some time.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections

from encryption.ranges import claim, execute_part, give_up, stop

#: Seconds that the processes of a run have to end after the command broke off.
_SECONDS_TO_END = 30


def can_fork() -> bool:
    """Say whether this system has the call; Windows has not."""
    return "fork" in multiprocessing.get_all_start_methods()


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

    def is_orphan() -> bool:
        return os.getppid() != parent

    while not is_orphan() and (part := claim(run_id)) is not None:
        execute_part(part, sum_up=False, should_stop=is_orphan)
