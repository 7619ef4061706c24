"""What "Save as new" does in Django's admin: a copy of a row gets no secret unseen.

A form never has the stored secret, so the copy that is made of what was sent has none. That is an
error on each secret that the original holds and that was left empty, where it would otherwise pass
without a word. Inlines are copied along with their row, and are treated in the same way.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from django.contrib.admin.utils import unquote
from django.core.exceptions import ValidationError

from encryption.fields import EncryptedField
from encryption.forms import SecretField

Wrapped = Callable[..., Any]

#: Finds the row that a form makes a copy of; ``None`` for a form that makes none.
FindOriginal = Callable[[Any], Any]


def form_of_copy(original: Wrapped) -> Wrapped:
    """Wrap ``ModelAdmin.get_form``."""

    def get_form(self: Any, request: Any, obj: Any = None, change: bool = False, **kw: Any) -> Any:
        form = original(self, request, obj, change, **kw)
        match = getattr(request, "resolver_match", None)
        object_id = match.kwargs.get("object_id") if match else None
        if obj is not None or object_id is None or not _is_copying(request):
            return form

        def find_original(form: Any) -> Any:
            row = self.get_object(request, unquote(object_id))
            return row if row and self.has_view_or_change_permission(request, row) else None

        return _refusing(form, find_original)

    return get_form


def formset_of_copies(original: Wrapped) -> Wrapped:
    """Wrap ``InlineModelAdmin.get_formset``, and that of generic relations."""

    def get_formset(self: Any, request: Any, obj: Any = None, **kwargs: Any) -> Any:
        formset = original(self, request, obj, **kwargs)
        if _is_copying(request):
            formset.form = _refusing(formset.form, partial(_of_inline, self, request))
        return formset

    return get_formset


def _of_inline(inline: Any, request: Any, form: Any) -> Any:
    """The row whose key an inline's form was sent with."""
    rows = inline.get_queryset(request)
    key = form.data.get(form.add_prefix(rows.model._meta.pk.name))
    try:
        row = rows.filter(pk=key).first() if key else None
    except (ValidationError, ValueError):  # no key at all
        return None
    return row if row and inline.has_view_or_change_permission(request, row) else None


def _is_copying(request: Any) -> bool:
    return request.method == "POST" and "_saveasnew" in request.POST


def _refusing(form_class: Any, find_original: FindOriginal) -> Any:
    """A form of which no secret may be left empty that the original holds."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        super(made, self).__init__(*args, **kwargs)
        secrets = [name for name, field in self.fields.items() if isinstance(field, SecretField)]
        row: Any = find_original(self) if secrets and self.is_bound else None
        for field in () if row is None else row._meta.concrete_fields:
            if field.name in secrets and isinstance(field, EncryptedField):
                self.fields[field.name].is_copy = field.value_from_object(row) is not None

    made: Any = type(form_class.__name__, (form_class,), {"__init__": __init__})
    return made
