"""Compare-and-swap: write new tokens only where the old ones still stand.

``UPDATE ... WHERE pk = ? AND column = <the token that was read>``, batched in the way that each
database is fastest with. A row that somebody saved meanwhile holds another token and is left
alone. Tokens are compared byte for byte; MariaDB and MySQL would else compare them by collation.
"""

from collections.abc import Callable, Sequence
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from encryption.registry import EncryptedColumn

#: Primary key (as the database takes it), the token that was read, the token to write.
Swap = tuple[Any, str, str]


def swap(connection: BaseDatabaseWrapper, column: EncryptedColumn, swaps: Sequence[Swap]) -> None:
    """Write a batch. Call it in a transaction; read the rows back to see which were written."""
    pk, name = column.model._meta.pk, column.name
    quote = connection.ops.quote_name
    names = quote(column.model._meta.db_table), quote(str(pk.column)), quote(name)
    _SWAPS.get(connection.vendor, _swap_one_by_one)(connection, names, pk, swaps)


Names = tuple[str, str, str]


def _swap_one_by_one(
    connection: BaseDatabaseWrapper, names: Names, pk: Any, swaps: Sequence[Swap]
) -> None:
    table, key, column = names
    sql = f"UPDATE {table} SET {column} = %s WHERE {key} = %s AND {column} = %s"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.executemany(sql, [(new, pk, old) for pk, old, new in swaps])


def _swap_postgresql(
    connection: BaseDatabaseWrapper, names: Names, pk: Any, swaps: Sequence[Swap]
) -> None:
    table, key, column = names
    key_type = pk.rel_db_type(connection)
    sql = (
        f"UPDATE {table} SET {column} = swaps.new "  # noqa: S608
        f"FROM unnest(%s::{key_type}[], %s::text[], %s::text[]) AS swaps (pk, old, new) "
        f"WHERE {table}.{key} = swaps.pk AND {table}.{column} = swaps.old"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [list(values) for values in zip(*swaps, strict=True)])


def _swap_mysql(
    connection: BaseDatabaseWrapper, names: Names, pk: Any, swaps: Sequence[Swap]
) -> None:
    table, key, column = names
    rows = " UNION ALL ".join(["SELECT %s, %s, %s"] * (len(swaps) - 1))
    head = "SELECT %s AS pk, %s AS old, %s AS new"
    sql = (
        f"UPDATE {table} JOIN ({head}{' UNION ALL ' if rows else ''}{rows}) AS swaps "  # noqa: S608
        f"ON {table}.{key} = swaps.pk SET {table}.{column} = swaps.new "
        f"WHERE BINARY {table}.{column} = BINARY swaps.old"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [value for row in swaps for value in row])


_SWAPS: dict[str, Callable[[BaseDatabaseWrapper, Names, Any, Sequence[Swap]], None]] = {
    "postgresql": _swap_postgresql,
    "mysql": _swap_mysql,
}
