"""How many rows of each encrypted column are under which key, counted in SQL, not decrypted."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from django.db import connections
from django.utils.translation import ngettext

from encryption.conf import get_keyring
from encryption.core import tokens
from encryption.core.keyring import Keyring
from encryption.registry import EncryptedColumn, databases_of, encrypted_columns

#: What a row is counted as that names no key.
V1 = "v1"
PLAINTEXT = "plaintext"
#: What a row with a value is counted as whose blind index is missing.
NO_INDEX = "none"


@dataclass(frozen=True)
class ColumnStatus:
    """The rows of one column in one database.

    Args:
        label: ``app_label.Model.field``.
        database: the alias.
        keys: rows by the key id that their v2 token names, ``"v1"``, or (in a column with
            ``allow_plaintext``, where SQL cannot tell the two apart) ``"plaintext"``.
        empty: rows that are NULL.
        stale: rows that a rotation still has to write, for their token or for a blind index. v1
            rows name no key, so where v1 is what is written they count as current, and only
            decrypting them can tell.
        indexes: for each blind index of the column, by its field's name: the rows that hold a
            value, by the key id that the index names, or ``"none"``.
    """

    label: str
    database: str
    keys: dict[str, int] = field(default_factory=dict)
    empty: int = 0
    stale: int = 0
    indexes: dict[str, dict[str, int]] = field(default_factory=dict)


def head_sql(column: str) -> str:
    """SQL for the key id that a token names, ``''`` if it names none (``%`` doubled)."""
    return f"CASE WHEN {column} LIKE 'v2:________:%%' THEN SUBSTR({column}, 4, 8) ELSE '' END"


def index_head_sql(column: str) -> str:
    """SQL for the key id that a blind index names, ``'none'`` if it is missing (``%`` doubled)."""
    return f"CASE WHEN {column} LIKE 'b2:________:%%' THEN SUBSTR({column}, 4, 8) ELSE 'none' END"


def column_status(
    column: EncryptedColumn, database: str, keyring: Keyring | None = None
) -> ColumnStatus:
    """Count one column, and its blind indexes, with one aggregate query."""
    keyring = keyring or get_keyring()
    connection = connections[database]
    quote = connection.ops.quote_name
    name, table = quote(column.name), quote(column.model._meta.db_table)
    head = f"CASE WHEN {name} IS NULL THEN NULL ELSE {head_sql(name)} END"
    indexes = column.field.indexes
    heads = ", ".join([head, *(index_head_sql(quote(str(one.column))) for one in indexes)])
    sql = f"SELECT {heads}, COUNT(*) FROM {table} GROUP BY {heads}"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(sql, [])
        rows = cursor.fetchall()
    nameless = PLAINTEXT if column.field.allow_plaintext else V1
    current = keyring.primary.key_id
    written = V1 if keyring.write_format == tokens.V1 else current
    keys: Counter[str] = Counter()
    under: dict[str, Counter[str]] = {index.name: Counter() for index in indexes}
    empty = stale = 0
    for key_id, *index_keys, count in sorted(rows, key=str):
        if key_id is None:
            empty += count
            continue
        keys[key_id or nameless] += count
        for index, index_key in zip(indexes, index_keys, strict=True):
            under[index.name][index_key] += count
        if (key_id or nameless) != written or any(one != current for one in index_keys):
            stale += count
    counted = {name: dict(counts) for name, counts in under.items()}
    return ColumnStatus(column.label, database, dict(keys), empty, stale, counted)


def statuses() -> Iterator[ColumnStatus]:
    """Count every encrypted column in every database that holds it.

    Raises:
        ImproperlyConfigured: there is no usable master key.
    """
    for column in encrypted_columns():
        for alias in databases_of(column):
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


def missing_key_text(key_id: str, count: int) -> str:
    """Say for people what :func:`missing_keys` found of one key."""
    return ngettext(
        "%(count)d row is under key %(key_id)s, which the keyring lacks",
        "%(count)d rows are under key %(key_id)s, which the keyring lacks",
        count,
    ) % {"count": count, "key_id": key_id}
