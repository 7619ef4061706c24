"""The engine of a rotation; it knows nothing of a terminal or a task queue.

It brings every token of a column to the primary key and the write format while others use the
table. What is done is seen in the rows themselves, so a run that was killed is resumed by running
it again, any number may run at once, and a finished run writes nothing.

For each page of stale rows, in the order of the primary key:

1. decrypt under any key, encrypt under the primary; what cannot be decrypted is noted and left;
2. in one transaction: write each new token where the old one still stands (a compare-and-swap),
   read the page back, and decrypt what was written with the primary key alone;
3. report, and ask whether to stop.

Nothing goes through ``save()``: no signal fires and ``updated_at`` stays.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from django.db import OperationalError, connections, transaction

from encryption.conf import get_keyring
from encryption.core import tokens
from encryption.core.errors import DecryptionError, EncryptionError, MalformedTokenError
from encryption.core.keyring import Keyring
from encryption.pages import Row, Table
from encryption.registry import EncryptedColumn
from encryption.swaps import go_by_index, swap

DEFAULT_BATCH_SIZE: Final = 1_000
#: How many failures of a column are told one by one; the counts are always whole.
MOST_FAILURES_KEPT: Final = 1_000
#: How often a page is tried again that the database refused (a deadlock, a locked SQLite file).
_ATTEMPTS: Final = 8
#: A run goes over a column again for rows that were written under an old key behind its back.
_MOST_PASSES: Final = 5
#: With more failures than this there is no further pass; somebody has to act first.
_MOST_FAILED: Final = 10_000


@dataclass(frozen=True)
class Failure:
    """One row that could not be decrypted and was left as it is."""

    label: str
    database: str
    pk: str
    reason: str


@dataclass
class ColumnReport:
    """What a run did to one column in one database.

    Args:
        examined: rows decrypted.
        rotated: rows written (or, in a dry run, that would be).
        changed: rows that somebody else wrote meanwhile; theirs stands.
        failed: rows that cannot be decrypted.
        failures: the first :data:`MOST_FAILURES_KEPT` of them.
        from_keys: how many rotated rows were under which key id, or "v1" or "plaintext".
    """

    label: str
    database: str
    examined: int = 0
    rotated: int = 0
    changed: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    from_keys: dict[str, int] = field(default_factory=dict)
    stopped: bool = False


@dataclass(frozen=True)
class Options:
    """How to go about it.

    Args:
        batch_size: rows of a page, and of a transaction.
        dry_run: decrypt every row, also the current ones; write nothing.
        rate_limit: rows per second at most; ``None`` for no limit.
        after: exclusive lower bound of the primary key, for runs that share a table.
        upto: inclusive upper bound of it.
        on_page: called after each page with the report so far.
        should_stop: asked after each page.
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    dry_run: bool = False
    rate_limit: float | None = None
    after: Any = None
    upto: Any = None
    on_page: Callable[[ColumnReport], None] = lambda report: None
    should_stop: Callable[[], bool] = lambda: False


class Change(NamedTuple):
    """A row, what it says, and the token that will say so from now on."""

    row: Row
    text: str
    token: str
    salt: str
    bound: list[str | None]


class Rotation:
    """The rotation of one column in one database. Call :meth:`run`."""

    def __init__(
        self,
        column: EncryptedColumn,
        database: str,
        options: Options | None = None,
        keyring: Keyring | None = None,
    ) -> None:
        self.column = column
        self.field = column.field
        self.database = database
        self.options = options or Options()
        self.keyring = keyring or get_keyring()
        #: Reads with the primary key alone: what a rotated row has to be readable with.
        self.primary_only = self.keyring.alone()
        self.table = Table(column, database, self.options.after, self.options.upto)
        self.layout = self.table.layout
        self.report = ColumnReport(column.label, database)
        #: What a current v2 token begins with.
        self._current = tokens.v2_prefix(self.keyring.primary.key_id)
        self._failed: set[Any] = set()
        self._started = time.monotonic()

    def run(self) -> ColumnReport:
        """Go over the column until no stale row is left but those that failed.

        Raises:
            EncryptionError: a row that was written does not read back; its page was rolled back.
            OperationalError: the database refused a page again and again.
        """
        for _ in range(1 if self.options.dry_run else _MOST_PASSES):
            before = self.report.rotated + self.report.changed
            for page in self._pages():
                self._rotate(page)
                self.options.on_page(self.report)
                if self.options.should_stop():
                    self.report.stopped = True
                    return self.report
                self._wait()
            if self.report.rotated + self.report.changed == before:
                break
            if len(self._failed) >= _MOST_FAILED:
                break
        return self.report

    def _pages(self) -> Iterator[list[Row]]:
        size = self.options.batch_size
        if self.options.rate_limit is not None:
            size = max(1, min(size, int(self.options.rate_limit)))
        rows = self.table.rows() if self.options.dry_run else self.table.stale(self.keyring)
        for page in self.table.pages(rows, size):
            yield [row for row in page if row.pk not in self._failed] if self._failed else page

    # -- one page -----------------------------------------------------------------------------

    def _rotate(self, page: Sequence[Row]) -> None:
        self._derive_ahead(page)
        changes = []
        for row in page:
            try:
                change = self._change_of(row)
            except EncryptionError as error:
                self._fail(row, error)
            else:
                if change is not None:
                    changes.append(change)
        self.report.examined += len(page)
        if changes:
            self._count(changes if self.options.dry_run else self._written(changes))

    def _change_of(self, row: Row) -> Change | None:
        """Decrypt a row and encrypt it anew; ``None`` if it is current already."""
        field_, token = self.field, row.token
        salt = self.layout.salt(field_, row.sources)
        bound = self.layout.bound(field_, row.sources)
        if type(token) is not str:
            raise MalformedTokenError("The column holds no text. Write a new value.")
        if field_.allow_plaintext and field_.is_plaintext(token, salt):
            text = token
        elif self._is_current(token, salt, bound):
            return None
        else:
            text = self.keyring.decrypt(token, salt, field_.aad_context, bound)
        new = self.keyring.encrypt(text, salt, field_.aad_context, bound)
        return Change(row, text, new, salt, bound)

    def _is_current(self, token: str, salt: str, bound: Sequence[str | None]) -> bool:
        """Say whether a token is under the primary key and in the write format (and readable)."""
        if self.keyring.write_format == tokens.V2:
            if not token.startswith(self._current):
                return False
            self.keyring.decrypt(token, salt, self.field.aad_context, bound)
            return True
        if tokens.key_id_of(token) is not None:
            return False
        try:
            self.primary_only.decrypt(token, salt)
        except DecryptionError:
            return False
        return True

    def _written(self, changes: list[Change]) -> list[Change]:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._write(changes)
            except OperationalError:
                # A deadlock with another rotation, or a locked file: the page was rolled back.
                if attempt == _ATTEMPTS or connections[self.database].in_atomic_block:
                    raise
                time.sleep(0.05 * 2**attempt)
        raise AssertionError("unreachable")

    def _write(self, changes: list[Change]) -> list[Change]:
        """Swap a page, read it back, and return what was written."""
        connection = connections[self.database]
        written, moved = [], []
        with transaction.atomic(using=self.database):
            go_by_index(connection)
            swap(connection, self.column, [(c.row.pk, c.row.token, c.token) for c in changes])
            stored = self.table.reread([change.row.pk for change in changes])
            for change in changes:
                now = stored.get(change.row.pk)
                if now is None or now.token != change.token:
                    continue
                if now.sources == change.row.sources:
                    self._verify(change)
                    written.append(change)
                else:
                    moved.append(change)
            if moved:
                # A v1 token is bound to its tenant alone, so somebody could change the host of
                # the row and keep the token. The new one is for the old host: take it back, and
                # leave the row to the next pass.
                swap(connection, self.column, [(c.row.pk, c.token, c.row.token) for c in moved])
        self.report.changed += len(changes) - len(written)
        return written

    def _verify(self, change: Change) -> None:
        """Decrypt what stands in the database now with the primary key alone."""
        context = self.field.aad_context
        same = (
            self.primary_only.decrypt(change.token, change.salt, context, change.bound)
            == change.text
        )
        if not same:
            pk = change.row.pk
            del change  # a traceback page shows the locals of this frame
            raise EncryptionError(
                f"{self.column.label} (pk={pk}) read back another value than was written. "
                "The page was rolled back and the old values stand."
            )

    # -- around it ----------------------------------------------------------------------------

    def _derive_ahead(self, page: Sequence[Row]) -> None:
        """Derive the keys of v1 tokens on all cores: PBKDF2 does not hold the interpreter lock."""
        sample: dict[str, str] = {}
        for row in page:
            if type(row.token) is str and not row.token.startswith("v2:"):
                try:
                    sample.setdefault(self.layout.salt(self.field, row.sources), row.token)
                except EncryptionError:
                    continue  # reported when its turn comes
        if sample:
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                list(pool.map(self._try, sample.values(), sample.keys()))

    def _try(self, token: str, salt: str) -> None:
        try:
            self.keyring.decrypt(token, salt)
        except DecryptionError:
            pass

    def _fail(self, row: Row, error: EncryptionError) -> None:
        self.report.failed += 1
        if len(self._failed) < _MOST_FAILED:
            self._failed.add(row.pk)
        if len(self.report.failures) < MOST_FAILURES_KEPT:
            reason = f"{type(error).__name__}: {error}"
            self.report.failures.append(
                Failure(self.column.label, self.database, str(row.pk), reason)
            )

    def _count(self, changes: Sequence[Change]) -> None:
        nameless = "plaintext" if self.field.allow_plaintext else tokens.V1
        for change in changes:
            name = tokens.key_id_of(change.row.token) or nameless
            self.report.from_keys[name] = self.report.from_keys.get(name, 0) + 1
        self.report.rotated += len(changes)

    def _wait(self) -> None:
        if self.options.rate_limit is not None:
            due = self._started + self.report.examined / self.options.rate_limit
            time.sleep(max(0.0, due - time.monotonic()))
