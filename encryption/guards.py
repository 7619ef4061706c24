"""Guards on the columns that secrets depend on, which every UPDATE and upsert passes through.

Whichever manager, queryset or related manager it comes from: Django asks a field for its
placeholder when it compiles the statement, and hands it the whole query.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from django.core.exceptions import FieldError
from django.db import models
from django.db.models.constants import OnConflict
from django.db.models.sql.subqueries import UpdateQuery

from encryption.binding import Layout, layout_of_class

if TYPE_CHECKING:
    from encryption.fields import EncryptedField

#: True while a write is under way that was seen to keep secrets and their sources together.
_vouched: ContextVar[bool] = ContextVar("vouched", default=False)


#: The instance of a raw save that is under way, for as long as it lives.
_raw: ContextVar["ReferenceType[models.Model] | None"] = ContextVar("raw", default=None)


def vouch_for_raw(instance: models.Model | None) -> None:
    """Let the tables of a fixture's row be written one by one, until the next call."""
    _raw.set(None if instance is None else ref(instance))


@contextmanager
def vouching() -> Iterator[None]:
    """Let the UPDATEs of a save pass that was checked as a whole."""
    token = _vouched.set(True)
    try:
        yield
    finally:
        _vouched.reset(token)


def guard(source: "models.Field[Any, Any]", layout: Layout) -> None:
    """Have every UPDATE of a source's column checked; INSERTs are let through."""
    if source in layout.key_fields or hasattr(source, "salt_field"):
        return  # no UPDATE writes a primary key; an encrypted field guards itself
    needed: dict[tuple[str, str], str] = source.__dict__.setdefault("_encrypted_by_this", {})
    for field in (*layout.fields, *layout.dependents):
        if {source.name, source.attname}.intersection((field.salt_field, *field.bound_to)):
            needed[field.model._meta.db_table, field.attname] = field.label
    own_sql = getattr(type(source), "get_placeholder_sql", None)
    own = getattr(type(source), "get_placeholder", None)

    def get_placeholder_sql(value: Any, compiler: Any, connection: Any) -> Any:
        if isinstance(compiler.query, UpdateQuery):  # asked for each row of an INSERT too
            check_update(source, compiler.query)
        if own_sql is not None:
            return own_sql(source, value, compiler, connection)
        if hasattr(value, "as_sql"):
            return compiler.compile(value)
        return "%s", (value,)

    def get_placeholder(value: Any, compiler: Any, connection: Any) -> Any:
        if isinstance(compiler.query, UpdateQuery):
            check_update(source, compiler.query)
        return "%s" if own is None else own(source, value, compiler, connection)

    # Django 5.2 asks for get_placeholder, newer releases for get_placeholder_sql.
    source.get_placeholder_sql = get_placeholder_sql  # type: ignore[attr-defined]
    source.get_placeholder = get_placeholder  # type: ignore[attr-defined]


def check_update(source: "models.Field[Any, Any]", query: Any) -> None:
    """Refuse an UPDATE of a source that leaves a secret behind.

    Raises:
        FieldError: the query does not write each secret that depends on this column.
    """
    raw = _raw.get()
    if _vouched.get() or (raw is not None and raw() is not None):
        return
    values = query.values
    written = {field.attname for field, _model, _value in values}
    table = source.model._meta.db_table
    needed: dict[tuple[str, str], str] = source._encrypted_by_this  # type: ignore[attr-defined]
    for (other, attname), label in needed.items():
        if other == table and attname in written:
            continue
        raise FieldError(
            f"{label} is encrypted under {source.name!r}, so an update() of {source.name!r} "
            "alone would leave it unreadable. Nothing was written. Change it on the instances "
            f"and save() them, or use bulk_update([..., {source.name!r}]) with `objects = "
            "EncryptedManager()`: both encrypt anew."
        )


def is_upsert(query: Any) -> bool:
    """Say whether a statement is an INSERT that updates rows which are there already."""
    return getattr(query, "on_conflict", None) is OnConflict.UPDATE


def check_upsert(field: "EncryptedField", query: Any) -> None:
    """Refuse an upsert after which the row's secret and sources would be of different rows.

    Raises:
        FieldError: ``bulk_create(update_conflicts=True)`` takes over one without the other.
    """
    taken = {one.attname for one in query.update_fields}
    equal = {one.attname for one in query.unique_fields}
    names = [source.attname for source in layout_of_class(query.model).sources_of(field)]
    if field.attname in taken:
        missing = [name for name in names if name not in taken and name not in equal]
    else:
        missing = [field.attname] if taken.intersection(names) - equal else []
    if missing:
        raise FieldError(
            f"{field.label} is encrypted under {', '.join(names)}. This upsert would put a "
            "secret of the new row into an old row with other values of these, where it is "
            f"unreadable. Nothing was written. Name {', '.join(missing)} in update_fields or "
            "(where the database knows unique_fields) in unique_fields too, or update the "
            "existing rows with save()."
        )
