"""System checks: what could only fail at runtime otherwise, each with an id and a way out."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Tags, Warning as CheckWarning, register
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import connections, models

from encryption.binding import NATIVE_TYPES, end_of_relations, layout_of_class
from encryption.collations import compares_exactly
from encryption.conf import EncryptionSettings, keyring_of, way_to_a_key
from encryption.core.errors import RepeatedKeyError
from encryption.fields import EncryptedField
from encryption.registry import databases_of, declared, encrypted_columns, is_migrated
from encryption.status import column_status, missing_key_text, missing_keys

#: What a deletion of the tenant may not do: write the salt without the secret.
_SETTERS = ("SET_NULL", "SET_DEFAULT", "SET", "DB_SET_NULL", "DB_SET_DEFAULT")


@register(Tags.security)
def check_keys(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """E001 no usable master key; E002 a key stands twice; E003 a wrong entry in ENCRYPTION."""
    try:
        settings = EncryptionSettings.load()
    except (ImproperlyConfigured, ImportError) as error:
        return [Error(str(error), id="encryption.E003")]
    try:
        ring = keyring_of(settings.master_keys(), settings)
        if len(ring.keys) > 1:  # one key cannot collide, and this derives them all
            ring.key_ids()
    except RepeatedKeyError as error:
        once = "Each key stands once: the primary, and the old ones as fallbacks."
        return [Error(f"{error}.", once, id="encryption.E002")]
    except ValueError as error:
        problem = f"There is no usable master key: {error}."
        return [Error(problem, way_to_a_key(), id="encryption.E001")]
    return []


@register(Tags.models)
def check_fields(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check each encrypted field of each model: E010 to E021."""
    return [
        message
        for model, field in declared(app_configs, EncryptedField)
        for message in (
            *_check_options(model, field),
            *_check_salt(model, field),
            *_check_bound(model, field),
            *_check_constraints(model, field),
        )
    ]


def _check_options(model: type[models.Model], field: EncryptedField) -> Iterator[CheckMessage]:
    if field.primary_key:
        yield _error(field, "is a primary key", "Use another field as primary key.", 12)
        return
    random = "Every encryption of a value is a different text, so this can never work on it. "
    if field.unique:
        yield _error(field, "has unique=True", random + "Compare the decrypted values instead.", 10)
    if field.db_index:  # type: ignore[attr-defined]
        yield _error(field, "has db_index=True", random + "Index another column.", 11)
    if field.has_db_default():
        yield _error(
            field, "has a db_default", "The database has no key. Use default= instead.", 18
        )
    if field.choices:
        yield _error(
            field,
            "has choices",
            "A form would have to show the stored value. Validate the value instead.",
            19,
        )


def _check_salt(model: type[models.Model], field: EncryptedField) -> Iterator[CheckMessage]:
    salt = _field(model, field.salt_field)
    if salt is None:
        yield _error(
            field,
            f"has salt_field={field.salt_field!r}, which names no column of this model",
            "Name a field of the same model: a foreign key to the project or user.",
            13,
        )
        return
    if isinstance(salt, EncryptedField):
        yield _error(field, "takes its salt from an encrypted field", "Name another field.", 13)
    if salt.null:
        yield _error(
            field,
            f"takes its salt from {salt.name!r}, which may be NULL",
            "A row without a tenant has no key. Set null=False on that field.",
            14,
        )
    if _is_automatic(salt):
        yield _error(
            field,
            f"takes its salt from {salt.name!r}, which the database numbers when the row is "
            "inserted, after the value was encrypted",
            "Use a foreign key, or a primary key with a default such as uuid.uuid4.",
            15,
        )
    if not _is_stable(salt):
        yield _unstable(field, salt.name)
    if _is_rewritten(salt):
        yield _rewritten(field, salt)


def _check_bound(model: type[models.Model], field: EncryptedField) -> Iterator[CheckMessage]:
    for name in field.bound_to:
        bound = _field(model, name)
        if bound is None or isinstance(bound, EncryptedField) or name == field.salt_field:
            yield _error(
                field,
                f"has bound_to={name!r}, which names no other plain column of this model",
                "Name fields of the same model, such as its 'id'.",
                16,
            )
        elif _is_automatic(bound):
            yield _error(
                field,
                f"is bound to {name!r}, which the database numbers when the row is inserted, "
                "after the value was encrypted",
                "Use a primary key with a default, such as UUIDField(default=uuid.uuid4).",
                15,
            )
        elif not _is_stable(bound):
            yield _unstable(field, name)
        elif _is_rewritten(bound):
            yield _rewritten(field, bound)


def _check_constraints(model: type[models.Model], field: EncryptedField) -> Iterator[CheckMessage]:
    opts = model._meta
    constraints = [
        (constraint.name, getattr(constraint, "fields", ())) for constraint in opts.constraints
    ]
    constraints += [(index.name, tuple(index.fields)) for index in opts.indexes]
    constraints += [("unique_together", tuple(names)) for names in opts.unique_together]
    constraints.append(("ordering", tuple(_ordering(opts.ordering))))
    for name, names in constraints:
        if field.name in names:
            yield _error(
                field,
                f"is named by {name!r}",
                "Every encryption of a value is a different text, so uniqueness, order and "
                "look-up cannot work on it. Leave it out.",
                21,
            )


def _ordering(ordering: Any) -> Iterator[str]:
    for entry in ordering or ():
        name = (
            entry
            if isinstance(entry, str)
            else getattr(getattr(entry, "expression", entry), "name", "")
        )
        yield name.lstrip("-+")


def _field(model: type[models.Model], name: str) -> "models.Field[Any, Any] | None":
    try:
        found = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return found if isinstance(found, models.Field) and found.concrete else None


def _is_automatic(field: "models.Field[Any, Any]") -> bool:
    return isinstance(field, models.AutoField) or field.has_db_default() or field.generated


def _is_rewritten(field: "models.Field[Any, Any]") -> bool:
    on_delete = getattr(field.remote_field, "on_delete", None)
    name = getattr(on_delete, "__name__", type(on_delete).__name__)
    return on_delete is not None and (name in _SETTERS or name.startswith("set_on_delete"))


def _rewritten(field: EncryptedField, source: "models.Field[Any, Any]") -> CheckMessage:
    return _error(
        field,
        f"is encrypted under {source.name!r}, whose on_delete writes another value into the row "
        "and would leave the secret unreadable",
        "Use CASCADE, PROTECT or RESTRICT.",
        17,
    )


def _unstable(field: EncryptedField, name: str) -> CheckMessage:
    return _error(
        field,
        f"is encrypted under {name!r}, whose value may come back from the database in another "
        "form than it was saved in, or changes while the row is saved",
        "Use text, whole numbers, booleans, UUIDs or foreign keys to these.",
        20,
    )


def _is_stable(field: "models.Field[Any, Any]") -> bool:
    end = end_of_relations(field)
    return (
        end.get_internal_type() in NATIVE_TYPES
        and type(field).pre_save is models.Field.pre_save
        and not hasattr(end, "from_db_value")
    )


def _error(field: EncryptedField, what: str, hint: str, number: int) -> CheckMessage:
    return Error(f"{field.label} {what}.", hint, obj=field, id=f"encryption.E{number:03d}")


@register(Tags.database)
def check_collations(
    app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """W022 a primary key that a secret is sealed for, and that is found by other texts too."""
    return [
        CheckWarning(
            f"{column.field.label} is encrypted under the primary key {source.field.name!r}, whose "
            f"column in the database {alias!r} takes other texts for equal, such as 'a' and 'A'. "
            "A save() of one that meets the row of the other is refused, and writes nothing.",
            f"Set db_collation on {source.field.name!r} to one that compares byte for byte "
            "(MariaDB: utf8mb4_nopad_bin, MySQL: utf8mb4_0900_bin), or use a UUID.",
            obj=column.field,
            id="encryption.W022",
        )
        for column in encrypted_columns()
        for alias in databases or ()
        if alias in databases_of(column, alias)
        for source in layout_of_class(column.model).sources_of(column.field)
        if source.is_pk and compares_exactly(source.field, connections[alias]) is False
    ]


@register(Tags.database)
def check_missing_keys(
    app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """E030 rows are under a key that the keyring lacks (``check --database default``)."""
    if not databases:
        return []
    try:
        found = [
            column_status(column, alias)
            for column in encrypted_columns()
            for alias in databases
            if alias in databases_of(column, alias) and is_migrated(column, alias)
        ]
        missing = missing_keys(found)
    except (ImproperlyConfigured, ValueError):
        return []  # E001 and E002 say so
    return [
        Error(
            f"{missing_key_text(key_id, count)}, and cannot be read.",
            "Put that key into MASTER_ENCRYPTION_KEY_FALLBACKS (or OLD_MASTER_KEY), then run "
            "rotate_master_key before removing it. If nobody has it any more, write these values "
            "anew or set them to NULL: rotate_master_key --dry-run names the rows. Migrations can "
            "be run meanwhile, with migrate --skip-checks.",
            id="encryption.E030",
        )
        for key_id, count in missing.items()
    ]
