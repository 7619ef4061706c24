"""The figures of this package for Prometheus. Needs the ``metrics`` extra (prometheus_client).

Every operation is counted in a plain integer (``encryption.core.counts``). :func:`publish` adds
what was counted since the last time to Prometheus' counters: call it when a request or a task has
ended, and no operation pays for a lock.

Where several processes serve one address, set ``PROMETHEUS_MULTIPROC_DIR`` to a directory that is
empty when the first of them starts: each process writes its counters into a file there, and
whichever is asked answers with the sum over all, also of those that have ended. Without it, a
process answers for itself alone. The gauges come from the database, so they are the same anywhere.
"""

import os
import threading
from collections.abc import Iterator
from typing import Final

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from encryption.conf import get_keyring
from encryption.core.counts import COUNTS
from encryption.health import RowCount, count_rows
from encryption.models import RotationRun
from encryption.status import PLAINTEXT, V1

#: The content type of :func:`exposition`: version 0.0.4 of Prometheus' text format.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_registry: Final = CollectorRegistry()
_OPERATIONS: Final = Counter(
    "encryption_operations", "Encryptions and decryptions.", ["operation"], registry=_registry
)
_FAILURES: Final = Counter(
    "encryption_failures",
    "Errors of the encryption by class, also those that were expected and caught.",
    ["error"],
    registry=_registry,
)
_CACHE: Final = Counter(
    "encryption_key_cache_lookups",
    "Look-ups of a tenant's key in memory, by whether it was there.",
    ["result"],
    registry=_registry,
)
_DERIVATIONS: Final = Counter(
    "encryption_key_derivations", "Keys of tenants that were derived.", registry=_registry
)

_lock = threading.Lock()
_published: dict[tuple[str, str], int] = {}


def publish() -> None:
    """Add what this process counted since the last call to Prometheus' counters."""
    with _lock:
        for (name, detail), count in COUNTS.snapshot().items():
            new = count - _published.get((name, detail), 0)
            if new > 0:
                _published[name, detail] = count
                _counter(name, detail).inc(new)


def _counter(name: str, detail: str) -> Counter:
    match name:
        case "operations":
            return _OPERATIONS.labels(detail)
        case "cache":
            return _CACHE.labels(detail)
        case "failures":
            return _FAILURES.labels(detail)
    return _DERIVATIONS


def exposition(max_age: float = 0.0) -> bytes:
    """Return all figures in Prometheus' text format.

    Args:
        max_age: how many seconds old the count of rows may be (see ``encryption.health``).
    """
    publish()
    registry = _registry
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    gauges = CollectorRegistry()
    gauges.register(_Stored(max_age))
    return generate_latest(registry) + generate_latest(gauges)


class _Stored(Collector):
    """What the database tells: rows by key, and the last rotation."""

    def __init__(self, max_age: float) -> None:
        self._max_age = max_age

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering asks the database for nothing."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Give the gauges; without a database or a keyring the one that says so, and no other."""
        found: list[Metric] = []
        try:
            found += _rows(count_rows(self._max_age))
            found += _last_run()
        except (DatabaseError, ImproperlyConfigured, ValueError):
            found = []
        up = "Whether the rows could be counted."
        yield GaugeMetricFamily("encryption_rows_counted", up, value=bool(found))
        yield from found


def _rows(count: RowCount) -> Iterator[Metric]:
    primary, *fallbacks = get_keyring().key_ids()
    states = {primary: "primary", V1: V1, PLAINTEXT: PLAINTEXT} | dict.fromkeys(
        fallbacks, "fallback"
    )
    rows = GaugeMetricFamily(
        "encryption_rows",
        "Rows that hold a value, by the state of the key that they are under.",
        labels=["column", "database", "state"],
    )
    for column in count.columns:
        by_state: dict[str, int] = {"primary": 0}
        for key_id, number in column.keys.items():
            state = states.get(key_id, "missing")
            by_state[state] = by_state.get(state, 0) + number
        for state, number in by_state.items():
            rows.add_metric([column.label, column.database, state], number)
    yield rows
    yield GaugeMetricFamily(
        "encryption_stale_rows", "Rows that a rotation still has to write.", value=count.stale
    )
    yield GaugeMetricFamily(
        "encryption_rows_counted_timestamp_seconds", "When they were counted.", value=count.at
    )


def _last_run() -> Iterator[Metric]:
    run = RotationRun.objects.filter(part_of=None, dry_run=False).first()
    if run is None:
        return
    rows = GaugeMetricFamily(
        "encryption_rotation_rows", "Rows of the last rotation.", labels=["outcome"]
    )
    for outcome in ("examined", "rotated", "changed_meanwhile", "failed"):
        rows.add_metric([outcome], sum(column.get(outcome, 0) for column in run.columns))
    yield rows
    status = GaugeMetricFamily(
        "encryption_rotation_status", "1 for the status of the last rotation.", labels=["status"]
    )
    for value in RotationRun.Status.values:
        status.add_metric([value], value == run.status)
    yield status
    for name, text, at in (
        ("started", "When the last rotation began.", run.started_at),
        ("updated", "When the last rotation gave its last sign of life.", run.updated_at),
    ):
        full = f"encryption_rotation_{name}_timestamp_seconds"
        yield GaugeMetricFamily(full, text, value=at.timestamp())


def _after_fork() -> None:
    """In a forked child, whose counts begin at zero: the lock may be held by a thread of the
    parent."""
    global _lock
    _lock = threading.Lock()
    _published.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
