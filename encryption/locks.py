"""Advisory locks, held to the end of the transaction: one writer at a time for each name.

==========  ===================================================================================
PostgreSQL  ``pg_advisory_xact_lock``
MariaDB     ``GET_LOCK``, given back when the transaction ends, however it does (MySQL too)
SQLite      has one writer; its transaction becomes that one before it reads
==========  ===================================================================================
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final

from django.db import OperationalError, models
from django.db.backends.base.base import BaseDatabaseWrapper

#: Seconds that MariaDB waits for a lock. InnoDB does not know of these locks, so it does not see
#: that two transactions wait for each other, for a lock and for a row: this ends that, before
#: InnoDB gives up a row (50 seconds by default).
_PATIENCE: Final = 10

#: All of them in one statement. A sorted subquery stays one, and its rows come in its order.
_LOCK: Final = (
    "SELECT count(pg_advisory_xact_lock(number)), current_setting('transaction_isolation')"
    " FROM (SELECT number FROM unnest(%s::bigint[]) AS number ORDER BY number OFFSET 0) AS ordered"
)


def lock(connection: BaseDatabaseWrapper, model: type[models.Model], names: Iterable[str]) -> bool:
    """Take the locks of these names; call it in a transaction, before anything is read.

    Args:
        model: whose table the writer is about to write.
        names: taken in one order by everybody, so that no two calls wait for each other. The
            calls of one transaction may still come in another order than those of the next.

    Returns:
        Whether the transaction may see less than what was committed before it got the locks:
        a snapshot of PostgreSQL, of before. (MariaDB shows it to a locking read, and SQLite lets
        nobody write who has an old one.)

    Raises:
        OperationalError: another transaction keeps one of them too long, or waits for this one.
    """
    if not connection.in_atomic_block:
        return False  # nobody gives them back; the statement is a transaction of its own
    digests = sorted(hashlib.sha256(name.encode("utf-8")).digest() for name in set(names))
    if not digests:
        return False
    if connection.vendor == "postgresql":
        numbers = [int.from_bytes(digest[:8], "big", signed=True) for digest in digests]
        with connection.cursor() as cursor:
            cursor.execute(_LOCK, [numbers])
            return cursor.fetchone()[1] in {"repeatable read", "serializable"}
    if connection.vendor == "mysql":
        for digest in digests:
            _Held.by(connection).take(digest.hex()[:40])
    elif connection.vendor == "sqlite":
        quote = connection.ops.quote_name
        table, key = quote(model._meta.db_table), quote(str(model._meta.pk_fields[0].column))
        with connection.cursor() as cursor:  # writes nothing, as a writer
            cursor.execute(f"UPDATE {table} SET {key} = {key} WHERE 0 = 1")  # noqa: S608
    return False


class _Held:
    """The locks that a session of MariaDB holds until its transaction ends."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._session = connection.connection
        self._names: set[str] = set()
        for name in ("_commit", "_rollback"):
            setattr(connection, name, self._ending(getattr(connection, name)))

    @classmethod
    def by(cls, connection: Any) -> "_Held":
        held: _Held | None = connection.__dict__.get("_encryption_locks")
        if held is not None and held._session is not connection.connection:
            held._forget()  # that session is closed, and its locks are free
            held = None
        if held is None:
            held = connection._encryption_locks = cls(connection)
        return held

    def take(self, name: str) -> None:
        if name in self._names:
            return
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT GET_LOCK(%s, %s)", [name, _PATIENCE])
            if cursor.fetchone()[0] != 1:
                raise OperationalError(
                    f"Another transaction writes this tenant's values (or those of one that shares "
                    f"its lock) and did not end within {_PATIENCE} seconds; perhaps it waits for "
                    "this one. Nothing was written: try again."
                )
        self._names.add(name)

    def _ending(self, original: Callable[[], Any]) -> Callable[[], Any]:
        def end() -> Any:
            try:
                return original()
            finally:
                self._release()

        return end

    def _release(self) -> None:
        self._forget()
        if self._session is None or self._session is not self._connection.connection:
            return
        # Not with Django's cursor, which refuses to work in a transaction that is broken.
        cursor = self._session.cursor()
        try:
            for name in self._names:
                cursor.execute("DO RELEASE_LOCK(%s)", [name])
        finally:
            cursor.close()

    def _forget(self) -> None:
        for name in ("_commit", "_rollback", "_encryption_locks"):
            self._connection.__dict__.pop(name, None)
