"""System checks of blind indexes, each with an id and a way out."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Tags, Warning as CheckWarning, register
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import models
from django.utils.translation import ngettext

from encryption.conf import get_keyring
from encryption.core.blindindex import FEWEST_BITS, GLOBAL, MOST_BITS, TENANT
from encryption.fields import BlindIndexField, EncryptedField
from encryption.managers import EncryptedQuerySet
from encryption.normalizers import NAMED, find
from encryption.registry import databases_of, declared, encrypted_columns, is_migrated
from encryption.status import NO_INDEX, column_status


@register(Tags.models)
def check_indexes(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check each blind index of each model: E050 to E057, W058."""
    return [
        message
        for model, index in declared(app_configs, BlindIndexField)
        for message in (
            *_check_source(model, index),
            *_check_options(index),
            *_check_normalize(index),
            *_check_uniqueness(model, index),
        )
    ]


def _check_source(model: type[models.Model], index: BlindIndexField) -> Iterator[CheckMessage]:
    try:
        source = model._meta.get_field(index.source)
    except FieldDoesNotExist:
        source = None
    if not isinstance(source, EncryptedField):
        yield _error(
            index,
            f"is an index of {index.source!r}, which is no encrypted field of this model",
            "Name an EncryptedTextField or EncryptedJSONField of the same model.",
            50,
        )
        return
    if source.model._meta.db_table != model._meta.db_table:
        yield _error(
            index,
            f"stands in another table than {source.label}",
            "Put the index on the model that has the encrypted field.",
            50,
        )
    if index.path is not None and (not source.holds_json or not all(index.keys)):
        yield _error(
            index,
            f"has path={index.path!r}, which is no path within JSON",
            "Leave it out for a text; name the keys of an EncryptedJSONField, as in "
            'path="oauth__token".',
            52,
        )


def _check_options(index: BlindIndexField) -> Iterator[CheckMessage]:
    if index.scope not in {TENANT, GLOBAL}:
        yield _error(
            index,
            f"has scope={index.scope!r}",
            f"The scopes are {TENANT!r} and {GLOBAL!r}.",
            51,
        )
    if index.bits is not None and (
        type(index.bits) is not int or not FEWEST_BITS <= index.bits <= MOST_BITS
    ):
        yield _error(
            index,
            f"has bits={index.bits!r}",
            f"A digest has {MOST_BITS} bits; keep {FEWEST_BITS} of them or more.",
            53,
        )
    if index.primary_key or index.choices or index.has_default() or index.has_db_default():
        yield _error(
            index,
            "is a primary key, or has a default or choices",
            "It is computed for each row and takes none of these.",
            57,
        )


def _check_normalize(index: BlindIndexField) -> Iterator[CheckMessage]:
    if index.normalize is None:
        return
    try:
        function = find(index.normalize)
    except ImportError:
        function = None
    name = getattr(function, "__qualname__", "")
    if not callable(function) or (not isinstance(index.normalize, str) and "<" in name):
        yield _error(
            index,
            f"has a normalize that is no function, or one that migrations cannot import ({name})",
            f"Give one of {', '.join(NAMED)}, the dotted path of a function, or a function of a "
            "module.",
            54,
        )


def _check_uniqueness(model: type[models.Model], index: BlindIndexField) -> Iterator[CheckMessage]:
    opts = model._meta
    unique = [one for one in opts.constraints if isinstance(one, models.UniqueConstraint)]
    named = [one.name for one in unique if index.name in one.fields]
    named += ["unique_together" for names in opts.unique_together if index.name in names]
    if index.is_truncated:
        if index.unique or named:
            yield _error(
                index,
                "keeps a part of each digest and is unique: different values would be refused",
                "Leave out bits=, or the constraint.",
                55,
            )
        if not isinstance(model._default_manager.get_queryset(), EncryptedQuerySet):
            yield CheckWarning(
                f"{index.label} keeps a part of each digest, and the default manager of its model "
                "does not sort out what is found too much: looking a value up raises.",
                "Set `objects = EncryptedManager()`.",
                obj=index,
                id="encryption.W058",
            )
    for names in (*(one.fields for one in unique), *opts.unique_together):
        others = [name for name in names if name != index.name and _is_index(model, name)]
        if index.name in names and others:
            yield _error(
                index,
                f"stands in a unique constraint with {others[0]!r}, another blind index: while two "
                "master keys are live, each would have to be looked for under each key",
                "Use one index: of a JSON value that holds both, say.",
                56,
            )
    generated = {field.name for field in opts.concrete_fields if field.generated}
    for constraint in unique:
        beside = generated.intersection(constraint.fields)
        if constraint.condition is not None:
            beside |= generated & constraint.condition.referenced_base_fields
        if index.name in constraint.fields and beside:
            yield _error(
                index,
                f"stands in {constraint.name!r} with {min(beside)!r}, which the database computes: "
                "while two master keys are live, nobody would know which rows are duplicates",
                "Name what it is computed from, or store the value in a field of its own.",
                56,
            )
        if index.name in _named_by(constraint.expressions):
            yield _error(
                index,
                f"stands in an expression of {constraint.name!r}, which is not looked at while "
                "two master keys are live",
                "Name it in fields= of the constraint.",
                56,
            )


def _is_index(model: type[models.Model], name: str) -> bool:
    return isinstance(model._meta.get_field(name), BlindIndexField)


def _named_by(expressions: Sequence[Any]) -> set[str]:
    found = set()
    for expression in expressions:
        for part in expression.flatten():
            found.add(getattr(part, "name", ""))
    return found


def _error(index: BlindIndexField, what: str, hint: str, number: int) -> CheckMessage:
    return Error(f"{index.label} {what}.", hint, obj=index, id=f"encryption.E{number:03d}")


@register(Tags.database)
def check_missing_indexes(
    app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """W059 rows cannot be found by their index yet (``check --database default``)."""
    if not databases:
        return []
    columns = [column for column in encrypted_columns() if column.field.indexes]
    try:
        known = set(get_keyring().key_ids())
        found = [
            (column.model._meta.label, column_status(column, alias))
            for column in columns
            for alias in databases
            if alias in databases_of(column, alias) and is_migrated(column, alias)
        ]
    except (ImproperlyConfigured, ValueError):
        return []  # E001 and E002 say so
    return [
        CheckWarning(
            ngettext(
                "%(count)d row cannot be found by %(index)s: it has no index",
                "%(count)d rows cannot be found by %(index)s: they have no index",
                missing,
            )
            % {"count": missing, "index": f"{label}.{name}"}
            + ("." if set(counts) - known == {NO_INDEX} else " under a key of the keyring."),
            "Run rotate_master_key: it computes those of all rows that can be read.",
            id="encryption.W059",
        )
        for label, status in found
        for name, counts in status.indexes.items()
        if (missing := sum(count for key, count in counts.items() if key not in known))
    ]
