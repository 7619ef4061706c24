"""What really stands in the database, around every model and field."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, connections, models, transaction


def _place(row: models.Model, name: str, using: str) -> tuple[str, str, str, Any]:
    field = row._meta.get_field(name)
    quote = connections[using].ops.quote_name
    opts = field.model._meta
    key = opts.pk.get_db_prep_value(row.pk, connections[using])
    return quote(opts.db_table), quote(field.column), quote(opts.pk.column), key


def stored(row: models.Model, name: str, using: str = "default") -> Any:
    """The content of one column of a row."""
    table, column, key_column, key = _place(row, name, using)
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT {column} FROM {table} WHERE {key_column} = %s", [key])
        return cursor.fetchone()[0]


def store(row: models.Model, name: str, content: Any, using: str = "default") -> None:
    """Overwrite one column of a row, past every model."""
    table, column, key_column, key = _place(row, name, using)
    with connections[using].cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET {column} = %s WHERE {key_column} = %s", [content, key])
        assert cursor.rowcount == 1


def damaged(token: str) -> str:
    """A token with another letter in its middle.

    The last letter has bits that must be zero: with another one there, it may be no token at all.
    """
    at = 40
    other = "A" if token[at] != "A" else "B"
    return token[:at] + other + token[at + 1 :]


def everything(*classes: type[models.Model]) -> str:
    """The repr of all rows of these tables, to look for plaintext in."""
    rows = []
    with connection.cursor() as cursor:
        for cls in classes:
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(cls._meta.db_table)}")
            rows += cursor.fetchall()
    return repr(rows)


@contextmanager
def refused(
    error: type[Exception] | tuple[type[Exception], ...], match: str | None = None
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expect an error that comes before anything is written.

    Django marks the transaction for rollback then. Taking that back, and not rolling back, is
    what shows whether something was written all the same.
    """
    with pytest.raises(error, match=match) as caught:
        yield caught
    transaction.set_rollback(False)


@contextmanager
def tables(*classes: type[models.Model], using: str = "default") -> Iterator[None]:
    """The tables of models that are in no app: made here, dropped afterwards."""
    with connections[using].schema_editor() as editor:
        for cls in classes:
            editor.create_model(cls)
    try:
        yield
    finally:
        with connections[using].schema_editor() as editor:
            for cls in reversed(classes):
                editor.delete_model(cls)
