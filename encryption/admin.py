"""Django's admin: wherever it would show a secret, it shows "set" or "not set".

The forms need nothing of this module (see :mod:`encryption.forms`). What is left is the places
where the admin takes a value for display: a column of the list, a read-only field, and the whole
page of a user who may view but not change. All of them ask ``lookup_field``, which reads the
attribute, and so would decrypt. :func:`install` puts a version before it that does not, and keeps
lists from being sorted by ciphertext, and from telling by a filter in the address whether a guess
is right. That works for every ``ModelAdmin``, and for a row whose secret cannot be decrypted too.
"Save as new" is the matter of :mod:`encryption.copies_admin`.

What cannot work, such as searching in ciphertext, is refused by :func:`check_admin_exposure`.
"""

from collections.abc import Callable, Collection, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin import (
    EmptyFieldListFilter,
    ModelAdmin,
    SimpleListFilter,
    helpers,
    utils,
)
from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.admin.options import BaseModelAdmin, InlineModelAdmin
from django.contrib.admin.sites import all_sites
from django.contrib.admin.templatetags import admin_list
from django.contrib.admin.views.main import ChangeList
from django.contrib.contenttypes.admin import GenericInlineModelAdmin
from django.core.checks import CheckMessage, Error
from django.core.exceptions import FieldDoesNotExist, ObjectDoesNotExist
from django.db import models
from django.db.models.constants import LOOKUP_SEP

from encryption.copies_admin import form_of_copy, formset_of_copies
from encryption.entry import NOT_SET, SET
from encryption.fields import EncryptedField
from encryption.forms import SecretField
from encryption.indexes import BlindIndexField

if TYPE_CHECKING:
    AnyModelAdmin = ModelAdmin[Any]
    AnyAdmin = BaseModelAdmin[Any]
else:
    AnyModelAdmin = ModelAdmin
    AnyAdmin = BaseModelAdmin

Wrapped = Callable[..., Any]


# -- display ----------------------------------------------------------------------------------


def install() -> None:
    """Make the admin show "set" or "not set" for encrypted fields; to be called when it is loaded.

    Calling it again changes nothing.
    """
    for owner, name, wrapper in (
        (utils, "lookup_field", _without_secrets),
        (helpers, "lookup_field", _without_secrets),
        (admin_list, "lookup_field", _without_secrets),
        (admin_list, "label_for_field", _unsortable),
        (ChangeList, "get_ordering_field", _without_order),
        (ChangeList, "get_filters", _without_guesses),
        (ModelAdmin, "get_form", form_of_copy),
        (InlineModelAdmin, "get_formset", formset_of_copies),
        (GenericInlineModelAdmin, "get_formset", formset_of_copies),
    ):
        original = vars(owner)[name]
        if not hasattr(original, "_encryption_wrapper"):
            wrapped = wraps(original)(wrapper(original))
            wrapped._encryption_wrapper = True  # type: ignore[attr-defined]
            setattr(owner, name, wrapped)


def _without_secrets(original: Wrapped) -> Wrapped:
    def lookup_field(name: Any, obj: Any, model_admin: Any = None) -> Any:
        # As in Django's own: a method of the ModelAdmin goes before a path of names.
        if isinstance(name, str) and (LOOKUP_SEP not in name or not hasattr(model_admin, name)):
            field = secret_at(type(obj), name)
            if field is not None:
                return _StateField(field), None, _state(obj, name)
        return original(name, obj, model_admin)

    return lookup_field


def _unsortable(original: Wrapped) -> Wrapped:
    """The admin offers to sort by what has no attribute beside its label, which is a field."""

    def label_for_field(
        name: Any,
        model: Any,
        model_admin: Any = None,
        return_attr: bool = False,
        form: Any = None,
    ) -> Any:
        found = original(name, model, model_admin, return_attr, form)
        if return_attr and isinstance(name, str) and secret_at(model, name):
            return found[0], _state
        return found

    return label_for_field


def _without_order(original: Wrapped) -> Wrapped:
    """Ciphertext has no order: a list that is asked for one stays as it is."""

    def get_ordering_field(self: Any, field_name: Any) -> Any:
        if isinstance(field_name, str) and secret_at(self.model, field_name):
            return None
        return original(self, field_name)

    return get_ordering_field


def _without_guesses(original: Wrapped) -> Wrapped:
    """Django lets an address filter a list by each field of its model, whoever may see the list.

    By a blind index that would tell those who may not see a secret whether it is what they guess.
    """

    def get_filters(self: Any, request: Any) -> Any:
        declared = {_name_of_filter(item) for item in self.list_filter}
        for name in self.get_filters_params():
            if name not in declared and _compares_secret(self.model, name, declared):
                raise DisallowedModelAdminLookup(f"Filtering by {name} is not allowed.")
        return original(self, request)

    return get_filters


def _name_of_filter(item: Any) -> Any:
    """What an item of ``list_filter`` calls its parameter, or the field that it is about."""
    if isinstance(item, type) and issubclass(item, SimpleListFilter):
        return item.parameter_name
    return item[0] if isinstance(item, (list, tuple)) else item


def _compares_secret(model: type[models.Model], lookup: str, declared: Collection[Any]) -> bool:
    """Say whether a lookup tells more of a secret than whether there is one.

    Args:
        declared: what the list has filters for; a developer who wants an index there may.
    """
    parts = lookup.split(LOOKUP_SEP)
    for number, name in enumerate(parts, 1):
        try:
            field: Any = model._meta.get_field(name)
        except FieldDoesNotExist:
            return False
        if isinstance(field, BlindIndexField) and LOOKUP_SEP.join(parts[:number]) in declared:
            return False
        if isinstance(field, (EncryptedField, BlindIndexField)):
            return parts[number:] not in (["isnull"], ["isempty"])
        if not field.is_relation or not getattr(field, "path_infos", None):
            return False
        model = field.path_infos[-1].to_opts.model
    return False


class _StateField(models.CharField):  # type: ignore[type-arg]
    """Tells the admin how to display the state of a secret: as a text, and nothing more."""

    def __init__(self, field: EncryptedField) -> None:
        super().__init__(name=field.name, auto_created=True)
        self.model = field.model


def _state(obj: Any, path: str) -> Any:
    *relations, name = path.split(LOOKUP_SEP)
    try:
        for relation in relations:
            obj = getattr(obj, relation)
    except ObjectDoesNotExist:
        obj = None
    if obj is None:
        return NOT_SET
    return NOT_SET if obj._meta.get_field(name).value_from_object(obj) is None else SET


def secret_at(model: type[models.Model], path: str) -> EncryptedField | None:
    """Return the encrypted field that a path of names leads to.

    Args:
        model: where the path begins.
        path: ``"secret"``, or ``"note__secret"`` across relations.
    """
    *relations, name = path.split(LOOKUP_SEP)
    try:
        for relation in relations:
            step = model._meta.get_field(relation).related_model
            if step is None or isinstance(step, str):
                return None
            model = step
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return field if isinstance(field, EncryptedField) else None


# -- checks -----------------------------------------------------------------------------------


def check_admin_exposure(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check each ``ModelAdmin`` and inline of every admin site: E040 to E044."""
    labels = None if app_configs is None else {config.label for config in app_configs}
    return [
        message
        for site in all_sites
        for model, model_admin in site._registry.items()
        if labels is None or model._meta.app_label in labels
        for admin in (model_admin, *_inlines(model_admin))
        for message in _check(admin)
    ]


def _inlines(model_admin: AnyModelAdmin) -> Iterator[AnyAdmin]:
    for inline in model_admin.inlines:
        if isinstance(inline, type):  # Django's own check complains about any other
            yield inline(model_admin.model, model_admin.admin_site)


def _check(admin: AnyAdmin) -> Iterator[CheckMessage]:
    yield from _check_search(admin)
    yield from _check_filters(admin)
    yield from _check_order(admin)
    yield from _check_prepopulated(admin)
    yield from _check_form(admin)


def _error(admin: AnyAdmin, option: str, name: str, hint: str, number: int) -> Error:
    return Error(
        f"{option} names {name!r}, which is encrypted.",
        hint,
        obj=type(admin),
        id=f"encryption.E{number:03d}",
    )


def _check_search(admin: AnyAdmin) -> Iterator[Error]:
    for name in getattr(admin, "search_fields", ()):
        path = name.lstrip("^=@")
        bare, _, _lookup = path.rpartition(LOOKUP_SEP)
        if secret_at(admin.model, path) or (bare and secret_at(admin.model, bare)):
            yield _error(
                admin,
                "search_fields",
                name,
                "Ciphertext cannot be searched: leave it out.",
                40,
            )


def _check_filters(admin: AnyAdmin) -> Iterator[Error]:
    for item in getattr(admin, "list_filter", ()):
        name, kind = item if isinstance(item, (list, tuple)) else (item, None)
        if not isinstance(name, str) or not secret_at(admin.model, name):
            continue
        if kind is None or not issubclass(kind, EmptyFieldListFilter):
            yield _error(
                admin,
                "list_filter",
                name,
                f'Use ("{name}", admin.EmptyFieldListFilter), which tells set from not set.',
                41,
            )


def _check_order(admin: AnyAdmin) -> Iterator[Error]:
    for item in admin.ordering or ():
        name = item.removeprefix("-") if isinstance(item, str) else ""
        if secret_at(admin.model, name):
            yield _error(admin, "ordering", name, "Ciphertext has no order: leave it out.", 42)


def _check_prepopulated(admin: AnyAdmin) -> Iterator[Error]:
    for target, sources in admin.prepopulated_fields.items():
        for name in (target, *sources):
            if secret_at(admin.model, name):
                yield _error(
                    admin,
                    "prepopulated_fields",
                    name,
                    "The browser would copy the secret into another field: leave it out.",
                    43,
                )


def _check_form(admin: AnyAdmin) -> Iterator[CheckMessage]:
    """A form field that does not know of secrets would store what it displays over them."""
    chosen = {
        name: type(field)
        for name, field in getattr(admin.form, "base_fields", {}).items()
        if secret_at(admin.model, name)
    }
    for field in admin.model._meta.get_fields():
        if isinstance(field, EncryptedField):
            kind = _override(admin, field)
            if kind is not None:
                chosen.setdefault(field.name, kind)
    for name, kind in chosen.items():
        if not issubclass(kind, SecretField):
            yield Error(
                f"The form's field {name!r} is a {kind.__name__}, and the model's is encrypted.",
                "Use encryption.forms.SecretField or SecretJSONField, or name no class: Django "
                "then takes the right one by itself.",
                obj=type(admin),
                id="encryption.E044",
            )


def _override(admin: AnyAdmin, field: EncryptedField) -> type[forms.Field] | None:
    for kind in type(field).__mro__:
        if kind in admin.formfield_overrides:
            return admin.formfield_overrides[kind].get("form_class")
    return None
