"""What a long-running command needs of its terminal: a way to be stopped, and a way to tell."""

import signal
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand

from encryption.rotation import ColumnReport
from encryption.runs import Place


class StopSignal:
    """Turns Ctrl-C and SIGTERM into an answer to "should I stop?"; a second Ctrl-C is final."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self._asked

    def __enter__(self) -> "StopSignal":
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


class Progress:
    """A bar with rate and time left on a terminal, a line now and then elsewhere.

    Args:
        due: how many rows of each place there are to go over.
        quiet: tell nothing.
    """

    seconds_between_lines = 10.0
    width = 30

    def __init__(self, command: BaseCommand, due: Mapping[Place, int], quiet: bool) -> None:
        self._out = command.stdout
        self._quiet = quiet
        self._bar = not quiet and bool(getattr(command.stdout, "isatty", bool)())
        self._done: dict[tuple[str, str], int] = {}
        self._total = sum(due.values())
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
