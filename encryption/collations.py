"""Which text columns take other texts than the same for equal, as "a" and "A".

A secret is sealed for the very text of its salt and of what it is bound to. MariaDB and MySQL
compare without regard to case and accents unless the collation's name ends in ``_bin`` (trailing
spaces still do not count by ``utf8mb4_bin``, by ``utf8mb4_nopad_bin`` they do); SQLite and
PostgreSQL only where ``db_collation`` says so.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.db import connections, models

from encryption.binding import TEXT_FIELDS, end_of_relations

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


def compares_exactly(
    field: "models.Field[Any, Any]", connection: "BaseDatabaseWrapper"
) -> bool | None:
    """Say whether equal values of a column are the same; ``None`` where that is not known."""
    end = end_of_relations(field)
    if not isinstance(end, TEXT_FIELDS):
        return True
    collation: str | None = getattr(end, "db_collation", None)
    if connection.vendor == "sqlite":
        known = {"BINARY": True, "NOCASE": False, "RTRIM": False}
        return known.get((collation or "BINARY").upper())
    if connection.vendor == "postgresql":
        # The database's own collation cannot be another than such.
        return collation is None or _is_deterministic(connection.alias, collation)
    if connection.vendor == "mysql":
        return _collation_of(field, collation, connection).endswith("_bin")
    return None


@lru_cache
def _is_deterministic(using: str, collation: str) -> bool | None:
    """Asked for each row of an INSERT, so once for each collation."""
    with connections[using].cursor() as cursor:
        cursor.execute(
            "SELECT bool_and(collisdeterministic) FROM pg_collation WHERE collname = %s",
            [collation],
        )
        found: bool | None = cursor.fetchone()[0]
    return found


def _collation_of(
    field: "models.Field[Any, Any]", collation: str | None, connection: "BaseDatabaseWrapper"
) -> str:
    """The collation of a column as it is, or as it would be made."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT COALESCE((SELECT collation_name FROM information_schema.columns WHERE "
            "table_schema = DATABASE() AND table_name = %s AND column_name = %s), %s, "
            "@@collation_database)",
            [field.model._meta.db_table, field.column, collation],
        )
        return str(cursor.fetchone()[0])
