"""Secrets whose sources stand in another table (multi-table inheritance).

A row of a parent's table may be read and written as the parent alone, as another child or through
a proxy, and then the secret of the child is not at hand. What would move a source under it is
refused: before the save begins to write where that can be told, and in any case at the UPDATE
itself, with the row locked.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.core.exceptions import FieldError
from django.db import models, router

from encryption.binding import Layout, layout_of
from encryption.families import concrete, path_to

if TYPE_CHECKING:
    from encryption.fields import EncryptedField


def check_before(
    layout: Layout,
    instance: models.Model,
    using: str | None,
    update_fields: Collection[str] | None,
    *,
    force_update: bool,
) -> None:
    """Refuse a save that changes a source under a child's secret, before anything is written.

    Here the refusal does not yet mark the caller's transaction as broken. At the UPDATE it is
    looked at once more.

    Raises:
        FieldError: a child holds a secret that depends on a value that is changed.
    """
    state: Any = instance._state
    using = using or router.db_for_write(type(instance), instance=instance)
    if instance.pk is None or (
        state.adding
        and not force_update
        and all(field.has_default() for field in instance._meta.pk_fields)
    ):
        return  # it is inserted
    if state.db == using and state.__dict__.get("encrypted_under") == layout.current(instance):
        return
    for table in {source.field.model for source in layout.sources}:
        given = {
            source.attname: instance.__dict__[source.attname]
            for source in layout.sources
            if source.field.model is table
            and source.attname in instance.__dict__
            and (
                update_fields is None
                or source.field.name in update_fields
                or source.attname in update_fields
            )
        }
        check_row(layout, using, table, getattr(instance, table._meta.pk.attname), given)


def check_row(
    layout: Layout,
    using: str,
    table: type[models.Model],
    pk: Any,
    given: Mapping[str, Any],
    *,
    lock: bool = False,
) -> None:
    """Refuse to write these values into a row under a secret that the writer does not know.

    Args:
        table: the class whose table is written.
        pk: the primary key in that table.
        given: the values that are written, by the attname of their field.
        lock: hold the row until the transaction ends.

    Raises:
        FieldError: a secret depends on a value that is changed.
    """
    if pk is None:
        return
    for field, sources in layout.under.items():
        written = [
            source for source in sources if source.field.model is table and source.attname in given
        ]
        if not written:
            continue
        path = path_to(field.model, table)
        rows = _all(field.model, using).filter(**{path: pk})
        if lock:
            rows = rows.select_for_update()
        # Compared with what stands there: what the instance was loaded with may be of another
        # database, or of a moment ago.
        names = [source.field.name for source in written]
        for secret, *stored in rows.values_list(field.attname, *names):
            if secret is not None and not all(
                source.same(before, given[source.attname])
                for source, before in zip(written, stored, strict=True)
            ):
                raise refusal(field)


def check_rows(
    layout: Layout,
    using: str,
    names: Collection[str],
    rows: Sequence[tuple[Any, Any, Any]],
) -> None:
    """As :func:`check_row`, for rows of the layout's class that are locked already.

    Args:
        names: the fields that are written.
        rows: for each its primary key, and its source values before and after.
    """
    for field in dependents_on(layout, names):
        mine = [(source, layout.place_of[source.attname]) for source in layout.under[field]]
        moved = [
            pk
            for pk, before, after in rows
            if not all(source.same(before[at], after[at]) for source, at in mine)
        ]
        if not moved:
            continue
        (source, _), *_ = mine
        table = source.field.model
        own = _all(layout.model, using).filter(pk__in=moved)
        keys = list(own.values_list(path_to(layout.model, table), flat=True))
        held = _all(field.model, using)
        held = held.filter(**{f"{path_to(field.model, table)}__in": keys})
        if held.exclude(**{f"{field.name}__isnull": True}).exists():
            raise refusal(field)


def _all(model: type[models.Model], using: str) -> "models.QuerySet[Any]":
    """All rows, past all managers, which may hide some."""
    return models.QuerySet(model, using=using)


def refusal(field: "EncryptedField") -> FieldError:
    """The error that says the way out."""
    return FieldError(
        f"{field.label} of this row depends on fields that this would change, and only a "
        f"{field.model._meta.object_name} can write both. Nothing was written. Load the row as "
        "that and save it."
    )


def dependents_on(layout: Layout, names: Collection[str]) -> "list[EncryptedField]":
    """The secrets of others that a write of these fields would move something from under.

    Args:
        names: names or attnames of fields.
    """
    return [
        field
        for field, sources in layout.under.items()
        if any(source.field.name in names or source.attname in names for source in sources)
    ]


def check_written(
    instance: models.Model,
    using: str,
    table: type[models.Model],
    pk: Any,
    values: Sequence[tuple[Any, Any, Any]],
) -> None:
    """The check at the UPDATE of one table: a field, unused, and a value for each column."""
    given = {field.attname: value for field, _, value in values}
    check_row(layout_of(instance), using, concrete(table), pk, given, lock=True)
