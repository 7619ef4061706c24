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


#: Does its own preparation, and returns what is to be timed.
Task = Callable[[], Callable[[], object]]


def once(task: Task) -> float:
    """Return the seconds that the timed part of a task takes, without the garbage collector."""
    timed = task()
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        timed()
        return time.perf_counter() - start
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
