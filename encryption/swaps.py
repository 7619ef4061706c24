"""Compare-and-swap: write new tokens only where the old ones still stand.

``UPDATE ... WHERE pk = ? AND column = <the token that was read>``, batched in the way that each
database is fastest with. A row that somebody saved meanwhile holds another token and is left
alone. Tokens are compared byte for byte; MariaDB and MySQL would else compare them by collation.
Other columns of the row can be set in the same ``UPDATE``.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field

from encryption.registry import EncryptedColumn

#: Primary key (as its field gives it), what was read, the token to write, and what to write into
#: the other columns.
Swap = tuple[Any, ...]

#: Bounds of one statement on MariaDB and MySQL: rows, and characters of old and new tokens. They
#: refuse a statement over max_allowed_packet, which is 1 MB where nobody changed an old default.
_MYSQL_ROWS: Final = 500
_MYSQL_CHARACTERS: Final = 500_000

#: Between values that go to PostgreSQL as one text: the ASCII character that is there for this.
_SEPARATOR: Final = "\x1f"


class _Names:
    """The quoted names of what is written, of its table and of its primary key."""

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        column: EncryptedColumn,
        also: "Sequence[Field[Any, Any]]",
    ) -> None:
        quote = connection.ops.quote_name
        opts = column.model._meta
        self.table = quote(opts.db_table)
        self.column = quote(column.name)
        self.keys = [quote(str(field.column)) for field in opts.pk_fields]
        self.key_types = [field.rel_db_type(connection) or "" for field in opts.pk_fields]
        #: What is written: the token's column first.
        self.written = [self.column, *(quote(str(field.column)) for field in also)]
        self.types = ["text", *(field.rel_db_type(connection) or "text" for field in also)]


def swap(
    connection: BaseDatabaseWrapper,
    column: EncryptedColumn,
    swaps: Sequence[Swap],
    also: "Sequence[Field[Any, Any]]" = (),
) -> int:
    """Write a batch, and return how many rows were written.

    Call it in a transaction, and read the rows back to see which they were.

    Args:
        swaps: in the order of the primary key, which concurrent runs then lock in one order.
        also: the other columns, in the order of their values in each swap.
    """
    names = _Names(connection, column, also)
    prepared = _prepared(connection, column, swaps, also)
    if len(names.keys) == 1 and connection.vendor == "postgresql":
        return _swap_postgresql(connection, names, prepared)
    if len(names.keys) == 1 and connection.vendor == "mysql" and _joins_by(names.key_types[0]):
        return sum(_swap_mysql(connection, names, batch) for batch in _batches(prepared))
    return _swap_one_by_one(connection, names, prepared)


def _prepared(
    connection: BaseDatabaseWrapper,
    column: EncryptedColumn,
    swaps: Sequence[Swap],
    also: "Sequence[Field[Any, Any]]",
) -> Sequence[tuple[Any, ...]]:
    """Turn values into what the driver takes: keys, what was read, what is written."""
    fields = column.model._meta.pk_fields
    if len(fields) > 1:
        swaps = [
            (*_prepare(fields, pk, connection), old, new, *_prepare(also, others, connection))
            for pk, old, new, *others in swaps
        ]
    elif also or not column.has_integer_key:
        prepare = fields[0].get_db_prep_value
        swaps = [
            (prepare(pk, connection), old, new, *_prepare(also, others, connection))
            for pk, old, new, *others in swaps
        ]
    return swaps


def _prepare(
    fields: "Sequence[Field[Any, Any]]", values: Sequence[Any], connection: BaseDatabaseWrapper
) -> list[Any]:
    pairs = zip(fields, values, strict=True)
    return [field.get_db_prep_value(value, connection) for field, value in pairs]


def go_by_index(connection: BaseDatabaseWrapper) -> None:
    """Have the rest of the transaction find its rows by index.

    For a list of 1,000 keys PostgreSQL would rather read a whole table of some 10,000 rows.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")


def _swap_one_by_one(
    connection: BaseDatabaseWrapper, names: _Names, rows: Sequence[tuple[Any, ...]]
) -> int:
    written = ", ".join(f"{column} = %s" for column in names.written)
    keys = " AND ".join(f"{key} = %s" for key in names.keys)
    same = f"{names.column} = %s"
    if connection.vendor == "mysql":
        same = f"{_bytes_of(names.column)} = CAST(%s AS BINARY)"
    sql = f"UPDATE {names.table} SET {written} WHERE {keys} AND {same}"  # noqa: S608
    width = len(names.keys) + 1
    if len(names.keys) == len(names.written) == 1:  # nearly always, and in half of the time
        values = [(new, pk, old) for pk, old, new in rows]
    else:
        values = [(*row[width:], *row[:width]) for row in rows]
    with connection.cursor() as cursor:
        cursor.executemany(sql, values)
        return int(cursor.rowcount)


def _swap_postgresql(
    connection: BaseDatabaseWrapper, names: _Names, rows: Sequence[tuple[Any, ...]]
) -> int:
    table, column, (key,) = names.table, names.column, names.keys
    types = (*names.key_types, "text", *names.types)
    arrays = [
        array(values, kind) for values, kind in zip(zip(*rows, strict=True), types, strict=True)
    ]
    new = [f"new_{number}" for number, _ in enumerate(names.written)]
    pairs = zip(names.written, new, strict=True)
    written = ", ".join(f"{name} = swaps.{label}" for name, label in pairs)
    # Without the bounds, the planner would rather read a whole table of some 10,000 rows.
    sql = (
        f"UPDATE {table} SET {written} "  # noqa: S608
        f"FROM unnest({', '.join(sql for sql, _ in arrays)}) AS swaps (pk, old, {', '.join(new)}) "
        f"WHERE {table}.{key} = swaps.pk AND {table}.{column} = swaps.old "
        f"AND {table}.{key} BETWEEN %s AND %s"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [*(values for _, values in arrays), rows[0][0], rows[-1][0]])
        return int(cursor.rowcount)


def array(values: Sequence[Any], kind: str) -> tuple[str, Any]:
    """An array of a type for PostgreSQL: SQL, and the parameter that it takes.

    Integers, UUIDs and texts go as one text, cut where a character stands that none of them has.
    As arrays of psycopg's making, an update of 2,000 tokens takes three times as long.
    """
    if all(type(value) in {str, int, UUID} for value in values):
        text = _SEPARATOR.join(map(str, values))
        if text and text.count(_SEPARATOR) == len(values) - 1:  # of "" there would be no element
            return f"string_to_array(%s, chr({ord(_SEPARATOR)}))::{kind}[]", text
    return f"%s::{kind}[]", list(values)


def _swap_mysql(
    connection: BaseDatabaseWrapper, names: _Names, rows: Sequence[tuple[Any, ...]]
) -> int:
    table, column, (key,) = names.table, names.column, names.keys
    labels = ["pk", "old", *(f"new_{number}" for number, _ in enumerate(names.written))]
    row = ", ".join(["%s"] * len(labels))
    first = ", ".join(f"%s AS {label}" for label in labels)
    selects = [f"SELECT {first}", *[f"SELECT {row}"] * (len(rows) - 1)]
    pairs = zip(names.written, labels[2:], strict=True)
    written = ", ".join(f"{table}.{name} = swaps.{label}" for name, label in pairs)
    sql = (
        f"UPDATE {table} JOIN ({' UNION ALL '.join(selects)}) AS swaps "  # noqa: S608
        f"ON {table}.{key} = swaps.pk SET {written} "
        f"WHERE {_bytes_of(f'{table}.{column}')} = CAST(swaps.old AS BINARY)"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [value for row in rows for value in row])
        return int(cursor.rowcount)


def _bytes_of(column: str) -> str:
    """The column's text in the connection's encoding, whatever the table's is."""
    return f"CAST(CONVERT({column} USING utf8mb4) AS BINARY)"


def _joins_by(key_type: str) -> bool:
    """Say whether MariaDB or MySQL finds keys of this type by joining with literals.

    A text in a derived table has the connection's collation, and comparing it with a column of
    another one is an error ("illegal mix of collations"); a literal takes on the column's.
    """
    return "int" in key_type or key_type == "uuid"


def _batches(rows: Sequence[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    batch: list[tuple[Any, ...]] = []
    characters = 0
    for row in rows:
        size = len(row[1]) + len(row[2])
        if batch and (len(batch) == _MYSQL_ROWS or characters + size > _MYSQL_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(row)
        characters += size
    if batch:
        yield batch
