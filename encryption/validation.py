"""Duplicates in unique blind indexes, as validation finds them: an error on the secret alone."""

from collections.abc import Callable, Iterable
from typing import Any

from django.core.exceptions import FieldError, ValidationError
from django.db import models, router

from encryption.binding import Partial, Values, layout_of, layout_of_class
from encryption.core.errors import EncryptionError
from encryption.descriptors import UNREAD
from encryption.indexes import BlindIndexField, Index, under_all_keys
from encryption.rules import rules_of


def duplicates(
    instance: models.Model, exclude: Iterable[str] = (), *, of_constraints: bool | None = None
) -> dict[str, list[ValidationError]]:
    """Find the secrets of an instance that another row holds too, under any key.

    Args:
        exclude: names of fields that are not to be looked at.
        of_constraints: look at constraints only, or at ``unique=True`` only; by default at both.

    Returns:
        Errors by the name of the encrypted field; they do not hold the value.
    """
    exclude = set(exclude)
    using = router.db_for_write(type(instance), instance=instance)
    errors: dict[str, list[ValidationError]] = {}
    for rule in rules_of(layout_of(instance)):
        if of_constraints is not None and of_constraints is (rule.constraint is None):
            continue
        if exclude.intersection((rule.index.source, *rule.names)):
            continue
        try:
            beside = rule.beside(instance)
        except FieldError:
            continue  # the write will say so, if it has to
        rows = rule.twins(
            rule.model._default_manager.using(using), _indexes_now(rule.index, instance), beside
        )
        if rows is None or not rule.applies(instance, using):
            continue
        own = rule.key_of(instance)
        if own is not None and not instance._state.adding:
            rows = rows.exclude(pk=own)
        if rows.exists():
            errors.setdefault(rule.index.source, []).append(rule.error(instance))
    return errors


def _indexes_now(index: BlindIndexField, instance: models.Model) -> list[Index]:
    """The indexes of what an instance holds, under every key; none where that cannot be told."""
    try:
        text = text_now(index, instance)
        return (
            []
            if text is None
            else under_all_keys(index, text, under_now(instance), layout_of(instance))
        )
    except EncryptionError:
        return []  # unreadable, or without a tenant: other checks and the save say so


def text_now(index: BlindIndexField, instance: models.Model) -> str | None:
    """What the secret of an instance was encrypted from, or will be; ``None`` where there is none.

    Raises:
        EncryptionError: it cannot be read.
    """
    field = index.encrypted
    secret = instance.__dict__.get(field.attname)
    if secret is None:
        return None
    if secret._value is UNREAD:
        return index.text_in(instance, secret)
    text, problem = field.to_text(secret._value)
    return None if problem is not None else text


def under_now(instance: models.Model) -> Values:
    """The values of an instance's sources; of those that were deferred, what is stored."""
    layout = layout_of(instance)
    under = layout.current(instance)
    return under.filled(layout.loaded(instance) or under) if type(under) is Partial else under


def wrap_validation(cls: Any) -> None:
    """Have a class with unique blind indexes find duplicates when it is validated, and have
    statements refused that nobody can look for duplicates of."""
    for rule in rules_of(layout_of_class(cls)):
        rule.guard()
    for name, of_constraints in (("validate_unique", False), ("validate_constraints", True)):
        original = getattr(cls, name)
        if not hasattr(original, "_encryption_wrapper"):
            setattr(cls, name, _validating(original, of_constraints))


def _validating(original: Callable[..., None], of_constraints: bool) -> Callable[..., None]:
    def validate(self: models.Model, exclude: Any = None) -> None:
        own = {index.name for index in layout_of(self).indexes}
        errors: Any = {}
        try:
            original(self, exclude=own.union(exclude or ()))
        except ValidationError as error:
            errors = error.update_error_dict(errors)
        for name, found in duplicates(self, exclude or (), of_constraints=of_constraints).items():
            errors.setdefault(name, []).extend(found)
        if errors:
            raise ValidationError(errors)

    validate.__name__ = original.__name__
    validate._encryption_wrapper = True  # type: ignore[attr-defined]
    return validate
