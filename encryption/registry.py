"""Every encrypted column of the project, each once, and the databases that hold it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from django.apps import AppConfig, apps
from django.db import connections, models, router
from django.db.backends.base.base import BaseDatabaseWrapper

from encryption.fields import EncryptedField

F = TypeVar("F", bound="models.Field[Any, Any]")


@dataclass(frozen=True)
class EncryptedColumn:
    """One encrypted column: the class whose table has it, and the field."""

    model: type[models.Model]
    field: EncryptedField

    @property
    def label(self) -> str:
        """``app_label.Model.field``"""
        return self.field.label

    @property
    def name(self) -> str:
        """The column's name in the table."""
        return str(self.field.column)

    @property
    def has_integer_key(self) -> bool:
        """Whether the primary key is one of Django's own integers, which drivers take as it is."""
        key = self.model._meta.pk
        return isinstance(key, models.IntegerField) and type(key).__module__.startswith("django.")


def declared(
    app_configs: Sequence[AppConfig] | None, kind: type[F]
) -> Iterator[tuple[type[models.Model], F]]:
    """Find the fields of a kind where they are declared.

    Args:
        app_configs: the applications to look at; ``None`` for all.
    """
    for config in apps.get_app_configs() if app_configs is None else app_configs:
        for model in config.get_models(include_auto_created=True):
            if not model._meta.proxy:
                for field in model._meta.local_concrete_fields:
                    if isinstance(field, kind):
                        yield model, field


def encrypted_columns(only: str | None = None) -> list[EncryptedColumn]:
    """Find the encrypted columns of all installed models.

    Abstract models have no column, a proxy has its model's, and a child of multi-table
    inheritance has its parent's in the parent's table: each column is found once, where its
    table is. Automatic ``through`` models and unmanaged models are looked at too.

    Args:
        only: ``app_label.Model`` or ``app_label.Model.field``.

    Raises:
        LookupError: ``only`` names no encrypted column.
    """
    columns = [EncryptedColumn(model, field) for model, field in declared(None, EncryptedField)]
    if only is None:
        return columns
    wanted = only.lower()
    chosen = [
        column
        for column in columns
        if wanted in (column.label.lower(), column.model._meta.label_lower)
    ]
    if not chosen:
        known = ", ".join(column.label for column in columns) or "none"
        raise LookupError(f"{only} has no encrypted column. The encrypted columns are: {known}.")
    return chosen


def databases_of(column: EncryptedColumn, only: str | None = None) -> Iterator[str]:
    """Yield the aliases of the databases that hold the column's table and can be written.

    Left out are databases that the routers keep the model from, replicas (``TEST["MIRROR"]``, or
    a server that says it is read-only), and tables that were not migrated yet.

    Args:
        only: one alias.

    Raises:
        ConnectionDoesNotExist: there is no such alias.
    """
    for alias in connections if only is None else [only]:
        connection = connections[alias]
        if not router.allow_migrate_model(alias, column.model):
            continue
        if connection.settings_dict.get("TEST", {}).get("MIRROR") or is_read_only(connection):
            continue
        with connection.cursor() as cursor:
            tables = connection.introspection.table_names(cursor)
        if column.model._meta.db_table in tables:
            yield alias


def is_migrated(column: EncryptedColumn, alias: str) -> bool:
    """Say whether a table has the column and its blind indexes.

    ``migrate`` checks the databases before it adds them.
    """
    needed = {column.name, *(str(index.column) for index in column.field.indexes)}
    connection = connections[alias]
    with connection.cursor() as cursor:
        table = column.model._meta.db_table
        found = connection.introspection.get_table_description(cursor, table)
    return needed.issubset(one.name for one in found)


#: How each database says that it takes no writes.
_READ_ONLY = {
    "postgresql": ("SELECT current_setting('transaction_read_only')", "on"),
    "mysql": ("SELECT @@GLOBAL.read_only", 1),
    "sqlite": ("PRAGMA query_only", 1),
}


def is_read_only(connection: BaseDatabaseWrapper) -> bool:
    """Say whether a database is a replica or for another reason takes no writes."""
    name = str(connection.settings_dict.get("NAME", ""))
    if name.startswith("file:") and ("mode=ro" in name or "immutable=1" in name):
        return True  # an SQLite file says so in no other way
    question = _READ_ONLY.get(connection.vendor)
    if question is None:
        return False
    with connection.cursor() as cursor:
        cursor.execute(question[0])
        row = cursor.fetchone()
    return bool(row and row[0] == question[1])
