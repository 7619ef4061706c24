"""How many rows of each encrypted column are under which key, counted in SQL, not decrypted."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from django.db import connections

from encryption.conf import get_keyring
from encryption.core import tokens
from encryption.core.keyring import Keyring
from encryption.registry import EncryptedColumn, databases_of, encrypted_columns

#: What a row is counted as that names no key.
V1 = "v1"
PLAINTEXT = "plaintext"


@dataclass(frozen=True)
class ColumnStatus:
    """The rows of one column in one database.

    Args:
        label: ``app_label.Model.field``.
        database: the alias.
        keys: rows by the key id that their v2 token names, ``"v1"``, or (in a column with
            ``allow_plaintext``, where SQL cannot tell the two apart) ``"plaintext"``.
        empty: rows that are NULL.
        stale: rows that a rotation still has to write. v1 rows name no key, so where v1 is what
            is written they count as current, and only decrypting them can tell.
    """

    label: str
    database: str
    keys: dict[str, int] = field(default_factory=dict)
    empty: int = 0
    stale: int = 0

    @property
    def total(self) -> int:
        """Rows that hold a value."""
        return sum(self.keys.values())


def head_sql(column: str) -> str:
    """SQL for the key id that a token names, ``''`` if it names none (``%`` doubled)."""
    return f"CASE WHEN {column} LIKE 'v2:________:%%' THEN SUBSTR({column}, 4, 8) ELSE '' END"


def column_status(
    column: EncryptedColumn, database: str, keyring: Keyring | None = None
) -> ColumnStatus:
    """Count one column with one aggregate query."""
    keyring = keyring or get_keyring()
    connection = connections[database]
    quote = connection.ops.quote_name
    name, table = quote(column.name), quote(column.model._meta.db_table)
    head = f"CASE WHEN {name} IS NULL THEN NULL ELSE {head_sql(name)} END"
    sql = f"SELECT {head}, COUNT(*) FROM {table} GROUP BY {head}"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(sql, [])
        counts = dict(cursor.fetchall())
    empty = counts.pop(None, 0)
    nameless = PLAINTEXT if column.field.allow_plaintext else V1
    keys = {key_id or nameless: count for key_id, count in sorted(counts.items())}
    return ColumnStatus(column.label, database, keys, empty, _stale(keys, keyring))


def _stale(keys: dict[str, int], keyring: Keyring) -> int:
    current = V1 if keyring.write_format == tokens.V1 else keyring.primary.key_id
    return sum(count for key_id, count in keys.items() if key_id != current)


def statuses(only: str | None = None, database: str | None = None) -> Iterator[ColumnStatus]:
    """Count every encrypted column in every database that holds it.

    Raises:
        LookupError: ``only`` names no encrypted column.
        ConnectionDoesNotExist: there is no such database.
        ImproperlyConfigured: there is no usable master key.
    """
    for column in encrypted_columns(only):
        for alias in databases_of(column, database):
            yield column_status(column, alias)


def missing_keys(found: Iterable[ColumnStatus], keyring: Keyring | None = None) -> dict[str, int]:
    """Return the key ids that rows are under and the keyring lacks, with how many rows."""
    known = {V1, PLAINTEXT, *(keyring or get_keyring()).key_ids()}
    missing: dict[str, int] = {}
    for status in found:
        for key_id, count in status.keys.items():
            if key_id not in known:
                missing[key_id] = missing.get(key_id, 0) + count
    return missing
