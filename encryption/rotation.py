"""The engine of a rotation; it knows nothing of a terminal or a task queue.

It brings every token of a column to the primary key and the write format while others use the
table. What is done is seen in the rows themselves, so a run that was killed is resumed by running
it again, any number may run at once, and a finished run writes nothing.

For each page of stale rows, in the order of the primary key:

1. decrypt under any key, encrypt under the primary, and decrypt that with the primary key alone;
   what cannot be decrypted is noted and left;
2. in one transaction: write each new token where the old one still stands (a compare-and-swap),
   and read the page back: what stands there is, character by character, what the primary key
   alone has opened;
3. report, and ask whether to stop.

The cryptography comes before the transaction, so that no lock is held meanwhile.

Nothing goes through ``save()``: no signal fires and ``updated_at`` stays.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from operator import methodcaller
from typing import Any, Final

from django.db import IntegrityError, OperationalError, connections, transaction

from encryption.binding import NATIVE_TYPES, end_of_relations
from encryption.conf import get_keyring
from encryption.core import tokens
from encryption.core.blindindex import is_absent, prefix as blindindex_prefix
from encryption.core.errors import DecryptionError, EncryptionError, MalformedTokenError
from encryption.core.keyring import Keyring
from encryption.core.resealing import Resealed, Resealer, UnverifiedError
from encryption.pages import Row, Table
from encryption.registry import EncryptedColumn
from encryption.swaps import Swap, go_by_index, swap

DEFAULT_BATCH_SIZE: Final = 2_000
#: SQLite takes 32,766 values in a statement, unless it was built to take more.
MOST_ROWS_OF_A_PAGE: Final = 10_000
#: How many failures of a column are told one by one; the counts are always whole.
MOST_FAILURES_KEPT: Final = 1_000
#: How often a page is tried again that the database refused (a deadlock, a locked SQLite file).
_ATTEMPTS: Final = 8
#: A run goes over a column again for rows that were written under an old key behind its back.
_MOST_PASSES: Final = 5
#: Texts of salts that are kept, so that they are made once per tenant and not once per row.
_MOST_SALTS: Final = 10_000
#: With more failures than this there is no further pass; somebody has to act first.
_MOST_FAILED: Final = 10_000


class DuplicateError(EncryptionError):
    """A blind index is unique, and another row holds the same value."""


_DUPLICATE: Final = (
    "A blind index of the column is unique and another row of the same tenant holds the same "
    "value. Change or delete one of the two, then run this again."
)


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


#: A row as it was read, and as it has to read back.
Change = tuple[Row, Row]


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
        self._context = self.field.aad_context
        self._resealer = None
        if self.keyring.write_format == tokens.V2:
            self._resealer = Resealer(self.keyring, self._context)
            current = tokens.v2_prefix(self.keyring.primary.key_id)
            self._may_be_current: Callable[[str], bool] = methodcaller("startswith", current)
        else:
            self._may_be_current = bool
        salt, *bound = self.layout.sources_of(self.field)
        self._is_bound = bool(bound)
        #: Where the salt's value stands in a row.
        self._salt_at = 2 + len(self.table.also) + self.layout.places[self.field.attname][0]
        self._salt_text: Callable[[Any], str | None] = salt.text
        # Of other types, such as decimals, equal values may have different texts.
        if end_of_relations(salt.field).get_internal_type() in NATIVE_TYPES:
            self._salt_text = lru_cache(_MOST_SALTS)(salt.text)
        self._indexed = self.field.indexes
        self._current_index = blindindex_prefix(self.keyring.primary.key_id)
        self._failed: set[Any] = set()
        #: When this run began, and how many rows had been examined then.
        self._began = 0.0, 0

    def run(self) -> ColumnReport:
        """Go over the column until no stale row is left but those that failed.

        It can be called again, for rows that became stale meanwhile; the report goes on.

        Raises:
            UnverifiedError: what was encrypted does not decrypt; its page was not written.
            OperationalError: the database refused a page again and again.
        """
        self._began = time.monotonic(), self.report.examined
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
            yield [row for row in page if row[0] not in self._failed] if self._failed else page

    # -- one page -----------------------------------------------------------------------------

    def _rotate(self, page: Sequence[Row]) -> None:
        salts = [self._salt_text(row[self._salt_at]) or "" for row in page]
        self._derive_ahead(page, salts)
        resealed = self._resealed(page, salts)
        if all(resealed) and not self._indexed:  # nearly always
            changes = [
                (row, (row[0], one[1], *row[2:]))
                for row, one in zip(page, resealed, strict=True)
                if one is not None
            ]
        else:
            changes = list(self._changes(page, salts, resealed))
        self.report.examined += len(page)
        if changes:
            self._count(changes if self.options.dry_run else self._written(changes))

    def _changes(
        self, page: Sequence[Row], salts: Sequence[str], resealed: Sequence[Resealed | None]
    ) -> Iterator[Change]:
        """What is to be written of a page, row by row; note what cannot be decrypted."""
        for row, salt, one in zip(page, salts, resealed, strict=True):
            try:
                change = self._change_of(row, salt, one)
            except UnverifiedError:
                raise
            except EncryptionError as error:
                self._fail(row, error)
            else:
                if change is not None:
                    yield change

    def _resealed(self, page: Sequence[Row], salts: Sequence[str]) -> Sequence[Resealed | None]:
        """Decrypt a page and encrypt it anew, all that is in order: see :meth:`Resealer.reseal`."""
        if self._resealer is None:
            return [None] * len(page)
        values = [row[1] if type(row[1]) is str else "" for row in page]
        bound = [b""] * len(page)
        if self._is_bound:
            bound = [b"".join(map(tokens.part, self._bound_of(row))) for row in page]
        return self._resealer.reseal(values, salts, bound)

    def _change_of(self, row: Row, salt: str, resealed: Resealed | None) -> Change | None:
        """Decrypt a row and encrypt it anew; ``None`` if it is current already."""
        token = row[1]
        salt = salt or self.layout.salt(self.field, self.table.sources(row))  # says what is wrong
        bound = self._bound_of(row)
        if type(token) is not str:
            raise MalformedTokenError("The column holds no text. Write a new value.")
        if resealed is not None:
            text, new = resealed
        elif self.field.allow_plaintext and self.field.is_plaintext(token, salt):
            text, new = self._seal(token, salt, bound)
        elif self._may_be_current(token) and self._is_current(token, salt, bound):
            if self._has_current_indexes(row):
                return None
            text, new = self.keyring.decrypt(token, salt, self._context, bound), token
        else:
            text = self.keyring.decrypt(token, salt, self._context, bound)
            text, new = self._seal(text, salt, bound)
        if self._indexed:
            indexes = self._indexes(row, text)
            return row, (row[0], new, *indexes, *self.table.sources(row))
        return row, (row[0], new, *row[2:])

    def _bound_of(self, row: Row) -> Sequence[str | None]:
        return self.layout.bound(self.field, self.table.sources(row)) if self._is_bound else ()

    def _has_current_indexes(self, row: Row) -> bool:
        return all(
            index is not None and index.startswith(self._current_index)
            for index in row[2 : 2 + len(self._indexed)]
        )

    def _indexes(self, row: Row, text: str) -> list[Any]:
        """The blind indexes of a row under the primary key."""
        found = []
        for index, before in zip(self._indexed, row[2:], strict=False):
            new = index.of_text(text, self.table.sources(row), self.keyring.primary)
            if before is not None and before.startswith(self._current_index):
                # No two that say "no value" are equal: the one that is there stays.
                new = before if is_absent(before) and is_absent(new) else new
            found.append(new)
        return found

    def _seal(self, text: str, salt: str, bound: Sequence[str | None]) -> tuple[str, str]:
        """Encrypt a text, and decrypt the token with the primary key alone."""
        new = self.primary_only.encrypt(text, salt, self._context, bound)
        if self.primary_only.decrypt(new, salt, self._context, bound) != text:
            del text  # a traceback page shows the locals of this frame
            raise UnverifiedError("What was encrypted reads back as another value.")
        return text, new

    def _is_current(self, token: str, salt: str, bound: Sequence[str | None]) -> bool:
        """Say whether a token is under the primary key and in the write format (and readable)."""
        if self.keyring.write_format == tokens.V2:
            self.keyring.decrypt(token, salt, self._context, bound)
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
            except IntegrityError:
                if not self._indexed:
                    raise
                return self._written_one_by_one(changes)
        raise AssertionError("unreachable")

    def _written_one_by_one(self, changes: list[Change]) -> list[Change]:
        """Write what can be; two rows with one value have no two places in a unique index."""
        if len(changes) > 1:
            return [one for change in changes for one in self._written([change])]
        self._fail(changes[0][0], DuplicateError(_DUPLICATE))
        return []

    def _write(self, changes: list[Change]) -> list[Change]:
        """Swap a page, read it back, and return what was written."""
        connection = connections[self.database]
        written, moved = changes, []
        width = 2 + len(self.table.also)
        if self.table.also:
            swaps: list[Swap] = [(old[0], old[1], *new[1:width]) for old, new in changes]
        else:  # in half of the time
            swaps = [(old[0], old[1], new[1]) for old, new in changes]
        with transaction.atomic(using=self.database):
            go_by_index(connection)
            matched = self._swap(swaps)
            stored = self.table.reread([old[0] for old, _ in changes])
            now = [stored.get(old[0]) for old, _ in changes]
            if now != [new for _, new in changes]:  # else all of the page stands as it has to
                pairs = list(zip(now, changes, strict=True))
                written = [change for row, change in pairs if row == change[1]]
                moved = [
                    change
                    for row, change in pairs
                    if row is not None and row != change[1] and row[1] == change[1][1]
                ]
            if len(written) + len(moved) != matched:
                raise UnverifiedError(
                    f"{self.column.label}: a page was written (rows: {matched}) and reads back as "
                    f"something else (rows: {matched - len(written) - len(moved)}). It was rolled "
                    "back and the old values stand. Does a trigger change them?"
                )
            if moved:
                # A v1 token is bound to its tenant alone, so somebody could change the host of
                # the row and keep the token. The new one is for the old host: take it back, and
                # leave the row to the next pass.
                self._swap([(*new[:2], *old[1:width]) for old, new in moved])
        self.report.changed += len(changes) - len(written)
        return written

    def _swap(self, swaps: Sequence[Swap]) -> int:
        return swap(connections[self.database], self.column, swaps, self.table.also)

    # -- around it ----------------------------------------------------------------------------

    def derive_ahead(self) -> bool:
        """Derive the keys of all v1 tokens into the keyring; say whether it has room for them.

        Processes that are forked afterwards have them, where each would derive its own.
        """
        known: set[str] = set()
        for page in self.table.pages(self.table.nameless(), self.options.batch_size):
            salts = [self._salt_text(row[self._salt_at]) or "" for row in page]
            known.update(salts)
            if len(known) > self.keyring.cache_size:
                return False
            self._derive_ahead(page, salts)
            if self.options.should_stop():
                break
        return True

    def _derive_ahead(self, page: Sequence[Row], salts: Sequence[str]) -> None:
        """Derive the keys of v1 tokens on all cores: PBKDF2 does not hold the interpreter lock."""
        nameless = [type(row[1]) is str and row[1][:3] != "v2:" for row in page]
        if not any(nameless):
            return
        rows = zip(page, salts, nameless, strict=True)
        sample = {salt: row[1] for row, salt, is_nameless in rows if salt and is_nameless}
        derive = self._try
        if self._resealer is not None:
            has, derive = self._resealer.has_v1, self._resealer.derive_v1
            sample = {salt: token for salt, token in sample.items() if not has(salt)}
        if sample:
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                list(pool.map(derive, sample.values(), sample.keys()))

    def _try(self, token: str, salt: str) -> None:
        try:
            self.keyring.decrypt(token, salt)
        except DecryptionError:
            pass

    def _fail(self, row: Row, error: EncryptionError) -> None:
        self.report.failed += 1
        if len(self._failed) < _MOST_FAILED:
            self._failed.add(row[0])
        if len(self.report.failures) < MOST_FAILURES_KEPT:
            reason = f"{type(error).__name__}: {error}"
            self.report.failures.append(
                Failure(self.column.label, self.database, str(row[0]), reason)
            )

    def _count(self, changes: Sequence[Change]) -> None:
        nameless = "plaintext" if self.field.allow_plaintext else tokens.V1
        heads = Counter(
            [old[1][: tokens.V2_PREFIX_LENGTH] for old, new in changes if old[1] != new[1]]
        )
        for head, count in heads.items():
            name = tokens.key_id_of(head) or nameless
            self.report.from_keys[name] = self.report.from_keys.get(name, 0) + count
        self.report.rotated += len(changes)

    def _wait(self) -> None:
        if self.options.rate_limit is not None:
            began, before = self._began
            due = began + (self.report.examined - before) / self.options.rate_limit
            time.sleep(max(0.0, due - time.monotonic()))
