"""Guards on the columns that secrets depend on, which every UPDATE and upsert passes through.

Whichever manager, queryset or related manager it comes from: Django asks a field for its
placeholder when it compiles the statement, and hands it the whole query.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from django.core.exceptions import FieldError
from django.db import models
from django.db.models.constants import OnConflict
from django.db.models.sql.subqueries import UpdateQuery

from encryption.binding import Layout, layout_of_class
from encryption.collations import compares_exactly
from encryption.conf import get_indexer
from encryption.families import sources_of

if TYPE_CHECKING:
    from encryption.fields import EncryptedField
    from encryption.indexes import BlindIndexField

#: True while a write is under way that was seen to keep secrets and their sources together.
_vouched: ContextVar[bool] = ContextVar("vouched", default=False)


def is_vouched() -> bool:
    """Say whether a write is under way that was checked as a whole."""
    return _vouched.get()


@contextmanager
def vouching() -> Iterator[None]:
    """Let the UPDATEs of a save pass that was checked as a whole; nothing else runs meanwhile."""
    token = _vouched.set(True)
    try:
        yield
    finally:
        _vouched.reset(token)


def placeholder_sql(value: Any, compiler: Any) -> tuple[str, Any]:
    """What newer Django writes for a value whose field has no placeholder of its own."""
    if hasattr(value, "as_sql"):
        sql: tuple[str, Any] = compiler.compile(value)
        return sql
    return "%s", (value,)


def guard(source: "models.Field[Any, Any]", layout: Layout) -> None:
    """Have every UPDATE of a source's column checked; INSERTs are let through."""
    if hasattr(source, "salt_field"):
        return  # an encrypted field guards itself
    needed: dict[tuple[str, str], str] = source.__dict__.setdefault("_encrypted_by_this", {})
    for field in (*layout.fields, *layout.dependents):
        if source in sources_of(field):
            needed[field.model._meta.db_table, field.attname] = field.label
    table = source.model._meta.db_table
    dependents = [label for (other, _), label in needed.items() if other != table]

    def check(query: Any, connection: Any) -> None:
        if isinstance(query, UpdateQuery):  # asked for each row of an INSERT too
            check_update(source, query)
        elif dependents and is_upsert(query):
            check_source_upsert(source, dependents[0], query)
        if "_unique_beside" in source.__dict__:
            check_beside(source, query, connection)

    _have_checked(source, check)


def _have_checked(field: "models.Field[Any, Any]", check: Callable[[Any, Any], None]) -> None:
    """Have every statement that writes a field checked, when Django asks for its placeholder."""
    own_sql = getattr(type(field), "get_placeholder_sql", None)
    own = getattr(type(field), "get_placeholder", None)

    def get_placeholder_sql(value: Any, compiler: Any, connection: Any) -> Any:
        check(compiler.query, connection)
        if own_sql is not None:
            return own_sql(field, value, compiler, connection)
        return placeholder_sql(value, compiler)

    def get_placeholder(value: Any, compiler: Any, connection: Any) -> Any:
        check(compiler.query, connection)
        return "%s" if own is None else own(field, value, compiler, connection)

    # Django 5.2 asks for get_placeholder, newer releases for get_placeholder_sql.
    field.get_placeholder_sql = get_placeholder_sql  # type: ignore[attr-defined]
    field.get_placeholder = get_placeholder  # type: ignore[attr-defined]


def check_update(source: "models.Field[Any, Any]", query: Any) -> None:
    """Refuse an UPDATE of a source that leaves a secret behind.

    Raises:
        FieldError: the query does not write each secret that depends on this column.
    """
    if _vouched.get():
        return
    table = source.model._meta.db_table
    needed: dict[tuple[str, str], str] = source._encrypted_by_this  # type: ignore[attr-defined]
    for (other, attname), label in needed.items():
        for field, _model, _value in query.values if other == table else ():
            if field.attname == attname:
                break
        else:
            raise _left_behind(label, source)


def _left_behind(label: str, source: "models.Field[Any, Any]") -> FieldError:
    return FieldError(
        f"{label} is encrypted under {source.name!r}, so an update() of {source.name!r} "
        "alone would leave it unreadable. Nothing was written. Change it on the instances "
        f"and save() them, or use bulk_update([..., {source.name!r}]) with `objects = "
        "EncryptedManager()`: both encrypt anew."
    )


def check_source_upsert(source: "models.Field[Any, Any]", label: str, query: Any) -> None:
    """Refuse an upsert of a source under the secrets of children, which stand in another table.

    Args:
        label: of such a secret.

    Raises:
        FieldError: ``bulk_create(update_conflicts=True)`` takes over the source.
    """
    if source in query.update_fields:
        raise FieldError(
            f"{label} is encrypted under {source.name!r} and stands in another table, so this "
            "upsert could leave it unreadable. Nothing was written. Leave the field out of "
            "update_fields, or update the existing rows with save()."
        )


def check_indexes(field: "EncryptedField", query: Any) -> None:
    """Refuse a statement that writes a secret and not its blind indexes.

    Raises:
        FieldError: an UPDATE or an upsert leaves an index behind.
    """
    for index in field.indexes:
        _check_pair(query, field, index, index)


def check_index_update(index: "BlindIndexField", query: Any) -> None:
    """Refuse a statement that writes a blind index and not the secret it belongs to.

    Raises:
        FieldError: an UPDATE or an upsert leaves the secret behind.
    """
    _check_pair(query, index, index.encrypted, index)


def _check_pair(
    query: Any,
    field: "models.Field[Any, Any]",
    other: "models.Field[Any, Any]",
    index: "BlindIndexField",
) -> None:
    if isinstance(query, UpdateQuery):
        written = {one.attname for one, _model, _value in query.values}  # type: ignore[attr-defined]
    elif is_upsert(query):
        written = {one.attname for one in query.update_fields}
    else:
        return
    if field.attname in written and other.attname not in written:
        raise FieldError(
            f"{index.label} is the index of {index.source!r}, and {field.name!r} alone would be "
            f"written: a row would be found by a value that it does not hold. Nothing was "
            f"written. save() the instances, or name {other.name!r} too: in update_fields of "
            f"bulk_create(), or in update({index.source}=None, {index.name}=None)."
        )


def is_upsert(query: Any) -> bool:
    """Say whether a statement is an INSERT that updates rows which are there already."""
    return getattr(query, "on_conflict", None) is OnConflict.UPDATE


def check_upsert(field: "EncryptedField", query: Any, connection: Any) -> None:
    """Refuse an upsert after which the row's secret and sources would be of different rows.

    Raises:
        FieldError: ``bulk_create(update_conflicts=True)`` takes over one without the other.
    """
    taken = {one.attname for one in query.update_fields}
    unique = {one.attname: one for one in query.unique_fields}
    # By some collations a row conflicts with another that holds "a" where it holds "A".
    equal = {name for name, one in unique.items() if compares_exactly(one, connection)}
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
            "(where the database knows unique_fields, and their collation compares byte for byte) "
            "in unique_fields too, or update the existing rows with save()."
        )


class Beside(NamedTuple):
    """A field that a blind index is unique together with, or only under a condition on.

    Args:
        blind: the index.
        deciding: attnames of all that decides what a row is a duplicate of.
        may_be_null: whether a row in which this is NULL is a duplicate of none.
        is_left: says whether rows with these values, by attname, are not under the condition.
    """

    blind: "BlindIndexField"
    deciding: frozenset[str]
    may_be_null: bool
    is_left: Callable[[dict[str, Any], str], bool]


def guard_beside(field: "models.Field[Any, Any]", key: object, beside: Beside) -> None:
    """Have every UPDATE and upsert of a field beside a unique blind index checked.

    Args:
        key: of the constraint, so that a field that is in one has it once.
    """
    if hasattr(field, "salt_field") or hasattr(field, "is_blind_index"):
        return  # these go together, and have guards of their own
    known: dict[object, Beside] = field.__dict__.setdefault("_unique_beside", {})
    known[key] = beside
    if "get_placeholder" not in field.__dict__:  # else it is a source, see guard()
        _have_checked(field, partial(check_beside, field))


def check_beside(field: "models.Field[Any, Any]", query: Any, connection: Any) -> None:
    """While two keys are live, refuse a statement that may make duplicates nobody looks for.

    Raises:
        FieldError: an UPDATE or an upsert writes a part of what decides.
    """
    known: dict[object, Beside] = field.__dict__.get("_unique_beside", {})
    if not known or len(get_indexer().keys) == 1:
        return
    if isinstance(query, UpdateQuery):
        values = {one.attname: value for one, _model, value in query.values}  # type: ignore[attr-defined]
        if _vouched.get() or field.attname not in values:
            return
        for beside in known.values():
            is_null = values[field.attname] is None and beside.may_be_null
            if is_null or beside.blind.attname in values:
                continue
            if not beside.is_left(values, connection.alias):
                raise _unseen_duplicates(field, beside)
    elif is_upsert(query):
        taken = {one.attname for one in query.update_fields}
        equal = {one.attname for one in query.unique_fields}
        for beside in known.values():
            if taken & beside.deciding and beside.deciding - taken - equal:
                raise _unseen_duplicates(field, beside)


def _unseen_duplicates(field: "models.Field[Any, Any]", beside: Beside) -> FieldError:
    return FieldError(
        f"{beside.blind.label} is unique together with {field.name!r} or under a condition on it. "
        "While two master keys are live, equal values have different indexes, so the database "
        "would not see what this makes a duplicate. Nothing was written. save() the instances, or "
        "finish the rotation first and remove the old key. (An upsert may name all that decides: "
        f"{', '.join(sorted(beside.deciding))}.)"
    )
