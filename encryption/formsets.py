"""Duplicates among the forms of one formset: rows that are new have no index to be found by yet.

Django compares what was typed into the fields of a constraint. For a blind index those are the
secret, as its index takes it, and the tenant. :func:`install` has every model formset compare
them, those of the admin's inlines and lists too. The errors are Django's own and hold no value.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from django.core.exceptions import NON_FIELD_ERRORS, FieldError, ValidationError
from django.db import models, router
from django.forms.models import BaseModelFormSet
from django.utils.hashable import make_hashable

from encryption.binding import Layout, layout_of
from encryption.core.errors import EncryptionError, MissingSaltError
from encryption.indexes import BlindIndexField
from encryption.rules import Rule, rules_of
from encryption.validation import text_now, under_now

if TYPE_CHECKING:
    AnyFormSet = BaseModelFormSet[Any, Any]
else:
    AnyFormSet = BaseModelFormSet


def install() -> None:
    """Have model formsets find duplicates among their forms. Calling it again changes nothing."""
    original: Any = BaseModelFormSet.validate_unique
    if not hasattr(original, "_encryption_wrapper"):
        wrapped: Any = _validating(original)
        wrapped._encryption_wrapper = True
        BaseModelFormSet.validate_unique = wrapped  # type: ignore[method-assign]


def _validating(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def validate_unique(self: AnyFormSet) -> None:
        layout: Layout | None = getattr(self.model, "_encryption_layout", None)
        rules = () if layout is None else rules_of(layout)
        # Before Django marks the forms that it finds.
        forms = _saved(self) if rules else []
        errors: list[ValidationError] = []
        try:
            original(self)
        except ValidationError as error:
            errors += error.error_list
        errors += [error for rule in rules for error in _errors(self, rule, forms)]
        if errors:
            raise ValidationError(errors)

    return validate_unique


def _saved(formset: Any) -> list[Any]:
    """The valid forms that a save of the formset would write.

    What the others hold is stored, where each form looks for its own value already.
    """
    return [
        form
        for form in formset.forms
        if form.is_valid()
        and form.has_changed()
        and not (formset.can_delete and formset._should_delete_form(form))
    ]


def _errors(formset: Any, rule: Rule, forms: Sequence[Any]) -> Iterator[ValidationError]:
    """Mark each form that repeats the value of another one, as Django does, and say so."""
    names = (*rule.names, rule.index.source)
    for form in _repeating(rule, forms):
        form._errors[NON_FIELD_ERRORS] = formset.error_class(
            [formset.get_form_error()], renderer=formset.renderer
        )
        for name in names:
            form.cleaned_data.pop(name, None)
        yield ValidationError(formset.get_unique_error_message(names))


def _repeating(rule: Rule, forms: Sequence[Any]) -> Iterator[Any]:
    seen: dict[Any, list[models.Model]] = {}
    for form in forms:
        key = _compared(rule, form)
        if key is None:
            continue
        same = seen.setdefault(key, [])
        if same and _applies(rule, form.instance) and any(_applies(rule, one) for one in same):
            yield form
        same.append(form.instance)


def _applies(rule: Rule, instance: models.Model) -> bool:
    return rule.applies(instance, router.db_for_write(type(instance), instance=instance))


def _compared(rule: Rule, form: Any) -> Any:
    """What is equal in two forms whose rows the rule forbids to stand together, if anything is."""
    names = {rule.index.source, *rule.names}
    if rule.index.source not in form.cleaned_data or not names.isdisjoint(
        form._get_validation_exclusions()
    ):
        return None
    instance = form.instance
    try:
        values = [_known(instance, name, value) for name, value in rule.beside(instance).items()]
        digest = _digest(rule.index, instance)
    except (EncryptionError, FieldError):
        return None  # unreadable, or without a tenant: other checks and the save say so
    distinct = getattr(rule.constraint, "nulls_distinct", None) is not False
    if digest is None or (distinct and None in values):
        return None
    return digest, make_hashable(values)


def _digest(index: BlindIndexField, instance: models.Model) -> str | None:
    """The index of what an instance holds, though its tenant may have no id yet."""
    salt, text = _salt(index, instance), text_now(index, instance)
    try:
        message = None if text is None else index.message_of_text(text)
    finally:
        del text  # a traceback page shows the locals of this frame
    return None if message is None else index.of_message(message, salt)


def _salt(index: BlindIndexField, instance: models.Model) -> str | None:
    try:
        return index.salt(under_now(instance), layout_of(instance))
    except MissingSaltError:
        new = _unsaved(instance, index.encrypted.salt_field)
        if new is None:
            raise
        return f"\0{new}"  # no tenant's own


def _known(instance: models.Model, name: str, value: Any) -> Any:
    return _unsaved(instance, name) if value is None else value


def _unsaved(instance: models.Model, name: str) -> str | None:
    """What tells a related object from others that are not saved yet: the parent of an inline."""
    related = instance._state.fields_cache.get(name)
    return None if related is None else f"unsaved {id(related)}"
