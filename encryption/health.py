"""Whether this process can do its work: its databases, its keyring, and the keys that rows need.

For readiness probes, which come often: counting rows costs a scan of every encrypted column, so a
count is kept, for as long as the caller says.
"""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from django.db import Error as AnyDatabaseError, connections

from encryption.conf import get_keyring
from encryption.core.keyring import Keyring
from encryption.status import ColumnStatus, missing_keys, statuses


@dataclass(frozen=True)
class RowCount:
    """The rows of all encrypted columns in all databases at one moment.

    Args:
        columns: one entry per column and database.
        missing: rows by key id, for the key ids that the keyring lacks.
        stale: rows that a rotation still has to write.
        seconds: how long counting took.
        at: the moment, by the clock of ``time.time``.
    """

    columns: tuple[ColumnStatus, ...]
    missing: Mapping[str, int] = field(default_factory=dict)
    stale: int = 0
    seconds: float = 0.0
    at: float = 0.0


def failed_databases() -> dict[str, str]:
    """Ask every database for a constant; the class of the error, by alias, of those that fail."""
    failed = {}
    for connection in connections.all():
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except AnyDatabaseError as error:  # its text may quote the address, or more
            failed[connection.alias] = type(error).__name__
    return failed


def count_rows(max_age: float = 0.0) -> RowCount:
    """Count the rows by key; no value is decrypted.

    Args:
        max_age: seconds. A count of this process that is younger, and was made with the keyring
            of now, is returned as it is. Threads that need a new one wait for one count.

    Raises:
        ImproperlyConfigured, ValueError: there is no usable keyring.
        DatabaseError: the database does not answer, or the tables are not there.
    """
    keyring = get_keyring()
    kept = _kept(keyring, max_age)
    if kept is not None:
        return kept
    with _lock:
        kept = _kept(keyring, max_age)
        return _count(keyring) if kept is None else kept


_lock = threading.Lock()
_last: tuple[Keyring, float, RowCount] | None = None


def _kept(keyring: Keyring, max_age: float) -> RowCount | None:
    if _last is None or _last[0] is not keyring or time.monotonic() - _last[1] >= max_age:
        return None
    return _last[2]


def _count(keyring: Keyring) -> RowCount:
    global _last
    start = time.monotonic()
    columns = tuple(statuses())
    end = time.monotonic()
    count = RowCount(
        columns,
        missing_keys(columns, keyring),
        sum(column.stale for column in columns),
        end - start,
        time.time(),
    )
    _last = (keyring, end, count)
    return count


def _after_fork() -> None:
    """In a forked child: a thread that only the parent has may hold the lock."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
