"""Compare-and-swap: write new tokens only where the old ones still stand.

``UPDATE ... WHERE pk = ? AND column = <the token that was read>``, batched in the way that each
database is fastest with. A row that somebody saved meanwhile holds another token and is left
alone. Tokens are compared byte for byte; MariaDB and MySQL would else compare them by collation.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field

from encryption.registry import EncryptedColumn

#: Primary key (as its field gives it), what was read, the token to write.
Swap = tuple[Any, Any, str]

#: Bounds of one statement on MariaDB and MySQL: rows, and characters of old and new tokens. They
#: refuse a statement over max_allowed_packet, which is 1 MB where nobody changed an old default.
_MYSQL_ROWS: Final = 500
_MYSQL_CHARACTERS: Final = 500_000


class _Names:
    """The quoted names of a column, its table and its primary key."""

    def __init__(self, connection: BaseDatabaseWrapper, column: EncryptedColumn) -> None:
        quote = connection.ops.quote_name
        opts = column.model._meta
        self.table = quote(opts.db_table)
        self.column = quote(column.name)
        self.keys = [quote(str(field.column)) for field in opts.pk_fields]
        self.key_types = [field.rel_db_type(connection) or "" for field in opts.pk_fields]


def swap(connection: BaseDatabaseWrapper, column: EncryptedColumn, swaps: Sequence[Swap]) -> None:
    """Write a batch. Call it in a transaction; read the rows back to see which were written.

    Args:
        swaps: in the order of the primary key, which concurrent runs then lock in one order.
    """
    names = _Names(connection, column)
    fields = column.model._meta.pk_fields
    if len(fields) == 1:
        prepare = fields[0].get_db_prep_value
        prepared = [(prepare(pk, connection), old, new) for pk, old, new in swaps]
    else:
        prepared = [(*_prepared(fields, pk, connection), old, new) for pk, old, new in swaps]
    if len(names.keys) == 1 and connection.vendor == "postgresql":
        _swap_postgresql(connection, names, prepared)
    elif len(names.keys) == 1 and connection.vendor == "mysql" and _joins_by(names.key_types[0]):
        for batch in _batches(prepared):
            _swap_mysql(connection, names, batch)
    else:
        _swap_one_by_one(connection, names, prepared)


def _prepared(
    fields: "Sequence[Field[Any, Any]]", pk: Sequence[Any], connection: BaseDatabaseWrapper
) -> list[Any]:
    pairs = zip(fields, pk, strict=True)
    return [field.get_db_prep_value(part, connection) for field, part in pairs]


def go_by_index(connection: BaseDatabaseWrapper) -> None:
    """Have the rest of the transaction find its rows by index.

    For a list of 1,000 keys PostgreSQL would rather read a whole table of some 10,000 rows.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")


def _swap_one_by_one(
    connection: BaseDatabaseWrapper, names: _Names, rows: Sequence[tuple[Any, ...]]
) -> None:
    keys = " AND ".join(f"{key} = %s" for key in names.keys)
    same = f"{names.column} = %s"
    if connection.vendor == "mysql":
        same = f"{_bytes_of(names.column)} = CAST(%s AS BINARY)"
    sql = f"UPDATE {names.table} SET {names.column} = %s WHERE {keys} AND {same}"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.executemany(sql, [(new, *key, old) for *key, old, new in rows])


def _swap_postgresql(
    connection: BaseDatabaseWrapper, names: _Names, rows: Sequence[tuple[Any, ...]]
) -> None:
    table, column, (key,), (kind,) = names.table, names.column, names.keys, names.key_types
    # Without the bounds, the planner would rather read a whole table of some 10,000 rows.
    sql = (
        f"UPDATE {table} SET {column} = swaps.new "  # noqa: S608
        f"FROM unnest(%s::{kind}[], %s::text[], %s::text[]) AS swaps (pk, old, new) "
        f"WHERE {table}.{key} = swaps.pk AND {table}.{column} = swaps.old "
        f"AND {table}.{key} BETWEEN %s AND %s"
    )
    columns = [list(values) for values in zip(*rows, strict=True)]
    with connection.cursor() as cursor:
        cursor.execute(sql, [*columns, rows[0][0], rows[-1][0]])


def _swap_mysql(
    connection: BaseDatabaseWrapper, names: _Names, rows: Sequence[tuple[Any, ...]]
) -> None:
    table, column, (key,) = names.table, names.column, names.keys
    selects = ["SELECT %s AS pk, %s AS old, %s AS new", *["SELECT %s, %s, %s"] * (len(rows) - 1)]
    sql = (
        f"UPDATE {table} JOIN ({' UNION ALL '.join(selects)}) AS swaps "  # noqa: S608
        f"ON {table}.{key} = swaps.pk SET {table}.{column} = swaps.new "
        f"WHERE {_bytes_of(f'{table}.{column}')} = CAST(swaps.old AS BINARY)"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [value for row in rows for value in row])


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
        size = len(row[-1]) + len(row[-2])
        if batch and (len(batch) == _MYSQL_ROWS or characters + size > _MYSQL_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(row)
        characters += size
    if batch:
        yield batch
