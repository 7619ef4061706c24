"""Times of things that take turns, so that what disturbs the machine disturbs them all."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """One figure.

    Args:
        microseconds: the median time of one operation.
        ratio: the median of the ratios to the baseline, each of one repetition.
    """

    microseconds: float
    ratio: float


class Clock:
    """What tells the time: seconds on the wall, or of processor time.

    SQLite in memory waits for nothing, so its processor time is the time it takes on a machine
    that does nothing else. PostgreSQL works in another process, so there the wall counts.
    """

    now: Callable[[], float] = staticmethod(time.perf_counter)

    @classmethod
    def use(cls, clock: Callable[[], float]) -> None:
        cls.now = staticmethod(clock)


#: Does its own preparation, and returns what is to be timed.
Task = Callable[[], Callable[[], object]]


def repeated(function: Callable[[], object], times: int) -> Task:
    """A task that calls a function so many times, and has nothing to prepare."""

    def run() -> None:
        for _ in range(times):
            function()

    return lambda: run


def once(task: Task) -> float:
    """Return the seconds that the timed part of a task takes, without the garbage collector."""
    timed = task()
    gc.collect()
    gc.disable()
    try:
        now = Clock.now
        start = now()
        timed()
        return now() - start
    finally:
        gc.enable()


def interleaved(tasks: Mapping[str, Task], operations: int, repetitions: int) -> dict[str, Timing]:
    """Time tasks in turns: A B C, A B C, ...

    Args:
        tasks: by name; the first one is the baseline.
        operations: how many a task does, the divisor of its time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        once(task)  # imports, caches and prepared statements are made in this round
    for _ in range(repetitions):
        for name, task in tasks.items():
            seconds[name].append(once(task))
    base = next(iter(seconds.values()))
    return {
        name: Timing(
            statistics.median(times) / operations * 1e6,
            statistics.median(mine / its for mine, its in zip(times, base, strict=True)),
        )
        for name, times in seconds.items()
    }
