"""The rows of one encrypted column, page by page in the order of the primary key.

Read past all managers, which may hide rows, and with the token as the database gives it. What is
stale is told by SQL alone where that can be: see :func:`Table.stale`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.db import connections
from django.db.models import BooleanField, Field, QuerySet, TextField
from django.db.models.expressions import RawSQL

from encryption.binding import layout_of_class
from encryption.core import tokens
from encryption.core.keyring import Keyring
from encryption.registry import EncryptedColumn
from encryption.status import head_sql, index_head_sql
from encryption.swaps import array

#: One stored value: primary key, token (or what else somebody put into the column), what stands
#: in the columns that are written together with it, and the values of its sources.
Row = tuple[Any, ...]

#: A page holds about so many characters of tokens at most, however many rows were asked for.
_PAGE_CHARACTERS: Final = 1_000_000
#: The first page, which finds out how long the tokens are.
_FIRST_PAGE: Final = 100


class Table:
    """The rows of a column in one database.

    Args:
        column: which column.
        database: the alias.
        after: exclusive lower bound of the primary key.
        upto: inclusive upper bound of it.
        also: fields of the same table that are written together with the token; by default its
            blind indexes.
    """

    def __init__(
        self,
        column: EncryptedColumn,
        database: str,
        after: Any = None,
        upto: Any = None,
        also: "Sequence[Field[Any, Any]] | None" = None,
    ) -> None:
        self.column = column
        self.database = database
        self.after = after
        self.upto = upto
        self.also = tuple(column.field.indexes if also is None else also)
        self.layout = layout_of_class(column.model)
        self.keys = column.model._meta.pk_fields
        self._token = self._quoted(column.name)
        self._key = self._quoted(str(self.keys[0].column))
        self._key_type = self.keys[0].rel_db_type(connections[database])

    def _quoted(self, name: str) -> str:
        quote = connections[self.database].ops.quote_name
        quoted = f"{quote(self.column.model._meta.db_table)}.{quote(name)}"
        return quoted.replace("%", "%%")

    def sources(self, row: Row) -> Row:
        """The part of a row that its salt and what it is bound to are taken from."""
        return row[2 + len(self.also) :]

    # -- which rows ---------------------------------------------------------------------------

    def _all(self) -> "QuerySet[Any]":
        return QuerySet(self.column.model, using=self.database)

    def rows(self) -> "QuerySet[Any]":
        """All rows that hold a value, by primary key, up to the upper bound."""
        rows = self._all().order_by("pk")
        if self.upto is not None:
            rows = rows.filter(pk__lte=self.upto)
        return rows.filter(**{f"{self.column.field.name}__isnull": False})

    def stale(self, keyring: Keyring) -> "QuerySet[Any]":
        """The rows that a rotation has to look at.

        A v2 token names its key, so SQL can tell, and a blind index too. v1 tokens name none:
        where v1 is written, each row has to be decrypted to know.
        """
        if keyring.write_format == tokens.V1:
            return self.rows()
        # The key id is no secret, and not a user's input either.
        sql = f"{head_sql(self._token)} <> %s"
        current = keyring.primary.key_id
        names = [self._quoted(str(index.column)) for index in self.column.field.indexes]
        sql = " OR ".join([sql, *(f"{index_head_sql(name)} <> %s" for name in names)])
        values = [current] * (1 + len(names))
        return self.rows().filter(RawSQL(f"({sql})", values, output_field=BooleanField()))  # noqa: S611

    def nameless(self) -> "QuerySet[Any]":
        """The rows whose token names no key: v1, or what is no token."""
        # Not = '': PostgreSQL would take that for rare, and read and sort the table for each page.
        sql = f"({head_sql(self._token)} < '0')"
        return self.rows().filter(RawSQL(sql, [], output_field=BooleanField()))  # noqa: S611

    # -- reading them -------------------------------------------------------------------------

    def pages(self, rows: "QuerySet[Any]", size: int) -> Iterator[list[Row]]:
        """Yield the rows in pages; each begins behind the last one's last primary key.

        Args:
            size: rows of a page at most; fewer where the tokens are long.
        """
        # A page has one lower bound. Of two, SQLite goes by the first one that is written down.
        last: Any = self.after
        now = min(size, _FIRST_PAGE)
        while True:
            page = self._read((rows if last is None else rows.filter(pk__gt=last))[:now])
            if page:
                last = page[-1][0]
                yield page
            if len(page) < now:
                return
            characters = sum([len(row[1]) for row in page if type(row[1]) is str])
            now = max(1, min(size, _PAGE_CHARACTERS * len(page) // max(characters, 1)))

    def reread(self, pks: Sequence[Any]) -> dict[Any, Row]:
        """Read some rows again, whatever they hold now.

        Args:
            pks: in the order of the primary key, as the database has it.
        """
        rows = self._all().filter(pk__gte=pks[0], pk__lte=pks[-1])
        if len(self.keys) > 1:
            rows = rows.filter(pk__in=pks)
        elif not self.column.has_integer_key or pks[-1] - pks[0] >= 2 * len(pks):
            # Not pk__in: Django would take longer to compile it than the database to answer.
            sql, values = self._is_one_of(pks)
            rows = rows.filter(RawSQL(sql, values, output_field=BooleanField()))  # noqa: S611
        return {row[0]: row for row in self._read(rows)}

    def _is_one_of(self, pks: Sequence[Any]) -> tuple[str, list[Any]]:
        connection = connections[self.database]
        prepare = self.keys[0].get_db_prep_value
        values = [prepare(pk, connection) for pk in pks]
        if connection.vendor == "postgresql":
            sql, value = array(values, str(self._key_type))
            return f"{self._key} = ANY({sql})", [value]
        return f"{self._key} IN ({', '.join(['%s'] * len(values))})", values

    def _read(self, rows: "QuerySet[Any]") -> list[Row]:
        token = RawSQL(self._token, [], output_field=TextField())  # noqa: S611
        also = [field.attname for field in self.also]
        query = rows.values_list("pk", token, *also, *self.layout.attnames).query
        # As a queryset does it, but all at once and not 100 by 100.
        compiler = query.get_compiler(self.database)
        sql, values = compiler.as_sql()
        with connections[self.database].cursor() as cursor:
            cursor.execute(sql, values)
            found = cursor.fetchall()
        return list(compiler.results_iter([found], tuple_expected=True))
