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
from typing import Any, Final

from django.db import OperationalError, connections, transaction

from encryption.binding import Layout, Values, layout_of_class
from encryption.conf import get_keyring
from encryption.core import tokens
from encryption.core.errors import DecryptionError, EncryptionError
from encryption.core.keyring import Keyring
from encryption.registry import EncryptedColumn
from encryption.status import head_sql
from encryption.swaps import swap

DEFAULT_BATCH_SIZE: Final = 1_000
#: How often a page is tried again that the database refused (a deadlock, a locked SQLite file).
_ATTEMPTS: Final = 8
#: A run goes over a column again for rows that were written under an old key behind its back.
_MOST_PASSES: Final = 5


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
        failures: rows that cannot be decrypted.
        from_keys: how many rotated rows were under which key id, or "v1" or "plaintext".
    """

    label: str
    database: str
    examined: int = 0
    rotated: int = 0
    changed: int = 0
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
        first, last: inclusive bounds of the primary key, for runs that share a table.
        on_page: called after each page with the report so far.
        should_stop: asked after each page.
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    dry_run: bool = False
    rate_limit: float | None = None
    first: Any = None
    last: Any = None
    on_page: Callable[[ColumnReport], None] = lambda report: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Row:
    """One stored value as a page reads it."""

    pk: Any
    token: str
    sources: Values


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
        self.primary_only = Keyring(
            self.keyring.primary,
            write_format=self.keyring.write_format,
            read_formats=self.keyring.read_formats,
        )
        self.layout: Layout = layout_of_class(column.model)
        self.report = ColumnReport(column.label, database)
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
        return self.report

    # -- reading ------------------------------------------------------------------------------

    def _pages(self) -> Iterator[list[Row]]:
        names = ("pk", self.field.attname, *self.layout.attnames)
        after: Any = None
        size = self.options.batch_size
        if self.options.rate_limit is not None:
            size = max(1, min(size, int(self.options.rate_limit)))
        while True:
            rows = self._stale_rows()
            if after is not None:
                rows = rows.filter(pk__gt=after)
            page = [
                Row(pk, secret.token, tuple(sources))
                for pk, secret, *sources in rows.values_list(*names)[:size]
            ]
            if page:
                after = page[-1].pk
                yield [row for row in page if row.pk not in self._failed]
            if len(page) < size:
                return

    def _stale_rows(self) -> Any:
        """The rows to look at, by primary key: an index scan from the last page's end."""
        rows = self.column.model._base_manager.using(self.database).order_by("pk")
        if self.options.first is not None:
            rows = rows.filter(pk__gte=self.options.first)
        if self.options.last is not None:
            rows = rows.filter(pk__lte=self.options.last)
        rows = rows.filter(**{f"{self.field.name}__isnull": False})
        if self.options.dry_run or self.keyring.write_format == tokens.V1:
            return rows  # only decrypting tells which key a v1 token is under
        quote = connections[self.database].ops.quote_name
        name = f"{quote(self.column.model._meta.db_table)}.{quote(self.column.name)}"
        # Only what SQL can see: the key id. It is no secret, and not the user's input either.
        return rows.extra(  # noqa: S610
            where=[f"{head_sql(name)} <> %s"], params=[self.keyring.primary.key_id]
        )

    # -- one page -----------------------------------------------------------------------------

    def _rotate(self, page: Sequence[Row]) -> None:
        self._derive_ahead(page)
        plain: dict[Any, str] = {}
        swaps: list[tuple[Row, str]] = []
        for row in page:
            self.report.examined += 1
            try:
                text, new = self._reencrypted(row)
            except EncryptionError as error:
                self._fail(row, error)
                continue
            if new is None:
                continue
            plain[row.pk] = text
            swaps.append((row, new))
        if not swaps:
            return
        if self.options.dry_run:
            self._count(swaps)
            return
        self._count(self._written(swaps, plain))

    def _reencrypted(self, row: Row) -> tuple[str, str | None]:
        """Return the plaintext and its new token; ``None`` for a row that is current already."""
        field_, layout = self.field, self.layout
        salt, bound = layout.salt(field_, row.sources), layout.bound(field_, row.sources)
        plain = field_.allow_plaintext and field_.is_plaintext(row.token, salt)
        if not plain and self._is_current(row.token, salt, bound):
            return "", None
        text = row.token if plain else self._decrypt(self.keyring, row.token, salt, bound)
        return text, self.keyring.encrypt(text, salt, field_.aad_context, bound)

    def _decrypt(self, keyring: Keyring, token: str, salt: str, bound: Sequence[str | None]) -> str:
        return keyring.decrypt(token, salt, self.field.aad_context, bound)

    def _is_current(self, token: str, salt: str, bound: Sequence[str | None]) -> bool:
        """Say whether a token is under the primary key and in the write format (and readable)."""
        key_id = tokens.key_id_of(token)
        if self.keyring.write_format == tokens.V2:
            if key_id != self.keyring.primary.key_id:
                return False
            self._decrypt(self.keyring, token, salt, bound)  # a dry run looks at these too
            return True
        if key_id is not None:
            return False
        try:
            self._decrypt(self.primary_only, token, salt, bound)
        except DecryptionError:
            return False
        return True

    def _written(
        self, swaps: list[tuple[Row, str]], plain: dict[Any, str]
    ) -> list[tuple[Row, str]]:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._write(swaps, plain)
            except OperationalError:
                # A deadlock with another rotation, or a locked file: the page was rolled back.
                if attempt == _ATTEMPTS or connections[self.database].in_atomic_block:
                    raise
                time.sleep(0.05 * 2**attempt)
        raise AssertionError("unreachable")

    def _write(self, swaps: list[tuple[Row, str]], plain: dict[Any, str]) -> list[tuple[Row, str]]:
        """Swap a page, read it back, and return what was written."""
        connection = connections[self.database]
        prepare = self.column.model._meta.pk.get_db_prep_value
        with transaction.atomic(using=self.database):
            swap(
                connection,
                self.column,
                [(prepare(row.pk, connection), row.token, new) for row, new in swaps],
            )
            rows = self.column.model._base_manager.using(self.database)
            names = (self.field.attname, *self.layout.attnames)
            stored = {
                pk: (secret.token if secret else None, tuple(sources))
                for pk, secret, *sources in rows.filter(
                    pk__in=[row.pk for row, _ in swaps]
                ).values_list("pk", *names)
            }
            written = []
            for row, new in swaps:
                token, sources = stored.get(row.pk, (None, ()))
                if token == new:
                    self._verify(row, token, sources, plain[row.pk])
                    written.append((row, new))
        self.report.changed += len(swaps) - len(written)
        return written

    def _verify(self, row: Row, token: str, sources: Values, text: str) -> None:
        """Decrypt what stands in the database now with the primary key alone."""
        salt, bound = self.layout.salt(self.field, sources), self.layout.bound(self.field, sources)
        same = self._decrypt(self.primary_only, token, salt, bound) == text
        del text  # a traceback page shows the locals of this frame
        if not same:
            raise EncryptionError(
                f"{self.column.label} (pk={row.pk}) read back another value than was written. "
                "The page was rolled back and the old values stand."
            )

    # -- around it ----------------------------------------------------------------------------

    def _derive_ahead(self, page: Sequence[Row]) -> None:
        """Derive the keys of v1 tokens on all cores: PBKDF2 does not hold the interpreter lock."""
        sample: dict[str, str] = {}
        for row in page:
            if tokens.key_id_of(row.token) is None:
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
        if row.pk in self._failed:
            return
        self._failed.add(row.pk)
        reason = f"{type(error).__name__}: {error}"
        self.report.failures.append(Failure(self.column.label, self.database, str(row.pk), reason))

    def _count(self, swaps: Sequence[tuple[Row, str]]) -> None:
        for row, _ in swaps:
            name = tokens.key_id_of(row.token) or (
                "plaintext" if self.field.allow_plaintext else tokens.V1
            )
            self.report.from_keys[name] = self.report.from_keys.get(name, 0) + 1
        self.report.rotated += len(swaps)

    def _wait(self) -> None:
        if self.options.rate_limit is not None:
            due = self._started + self.report.examined / self.options.rate_limit
            time.sleep(max(0.0, due - time.monotonic()))
