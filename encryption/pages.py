"""The rows of one encrypted column, page by page in the order of the primary key.

Read through the base manager, so that no custom manager hides a row, and with the token as the
database gives it. What is stale is told by SQL alone where that can be: see :func:`Table.stale`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from django.db import connections
from django.db.models import BooleanField, QuerySet, TextField
from django.db.models.expressions import RawSQL

from encryption.binding import Values, layout_of_class
from encryption.core import tokens
from encryption.core.keyring import Keyring
from encryption.registry import EncryptedColumn
from encryption.status import head_sql


class Row(NamedTuple):
    """One stored value: a text, or what else somebody put into the column."""

    pk: Any
    token: Any
    sources: Values


class Table:
    """The rows of a column in one database.

    Args:
        column: which column.
        database: the alias.
        after: exclusive lower bound of the primary key.
        upto: inclusive upper bound of it.
    """

    def __init__(
        self, column: EncryptedColumn, database: str, after: Any = None, upto: Any = None
    ) -> None:
        self.column = column
        self.database = database
        self.after = after
        self.upto = upto
        self.layout = layout_of_class(column.model)
        quote = connections[database].ops.quote_name
        name = f"{quote(column.model._meta.db_table)}.{quote(column.name)}"
        self._name = name.replace("%", "%%")

    def rows(self) -> "QuerySet[Any]":
        """All rows that hold a value, by primary key."""
        rows = self.column.model._base_manager.using(self.database).order_by("pk")
        if self.after is not None:
            rows = rows.filter(pk__gt=self.after)
        if self.upto is not None:
            rows = rows.filter(pk__lte=self.upto)
        return rows.filter(**{f"{self.column.field.name}__isnull": False})

    def stale(self, keyring: Keyring) -> "QuerySet[Any]":
        """The rows that a rotation has to look at.

        A v2 token names its key, so SQL can tell. v1 tokens name none: where v1 is written, each
        row has to be decrypted to know.
        """
        if keyring.write_format == tokens.V1:
            return self.rows()
        # The key id is no secret, and not a user's input either.
        sql = f"{head_sql(self._name)} <> %s"
        current = keyring.primary.key_id
        return self.rows().filter(RawSQL(sql, [current], output_field=BooleanField()))  # noqa: S611

    def pages(self, rows: "QuerySet[Any]", size: int) -> Iterator[list[Row]]:
        """Yield the rows in pages; each begins behind the last one's last primary key."""
        last: Any = None
        while True:
            page = self._read(rows if last is None else rows.filter(pk__gt=last), size)
            if page:
                last = page[-1].pk
                yield page
            if len(page) < size:
                return

    def reread(self, pks: Sequence[Any]) -> dict[Any, Row]:
        """Read some rows again, whatever they hold now.

        Args:
            pks: in the order of the primary key.
        """
        rows = self.column.model._base_manager.using(self.database).filter(pk__in=pks)
        rows = rows.filter(pk__gte=pks[0], pk__lte=pks[-1])
        return {row.pk: row for row in self._read(rows, None)}

    def _read(self, rows: "QuerySet[Any]", size: int | None) -> list[Row]:
        token = RawSQL(self._name, [], output_field=TextField())  # noqa: S611
        found = rows.values_list("pk", token, *self.layout.attnames)[:size]
        return [Row(row[0], row[1], row[2:]) for row in found]
