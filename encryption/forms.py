"""Forms in which a secret is written and never shown.

What is stored reaches a form as a :class:`~encryption.descriptors.Ciphertext`, its initial value.
Left empty, the field hands that very object back, and the model field takes it as "keep what is
there": nothing is decrypted, so a row whose secret cannot be read can still be edited.
"""

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from encryption import entry


class Ticked(Enum):
    """What the widget gives instead of a text when its box is ticked."""

    CLEAR = "clear"
    CONTRADICTION = "contradiction"


class SecretState(str):
    """All that a widget is told: an empty text, so that no widget whatever shows more than that.

    Args:
        is_set: there is a value.
        clearable: offer the box that clears it.
        clearing: the box was ticked in a form that comes back with errors.
        retype: something was typed in such a form.
        is_copy: the value is that of the original, which the copy does not get.
    """

    __slots__ = ("clearable", "clearing", "is_copy", "is_set", "retype")

    is_set: bool
    clearable: bool
    clearing: bool
    retype: bool
    is_copy: bool

    def __new__(
        cls,
        *,
        is_set: bool,
        clearable: bool = False,
        clearing: bool = False,
        retype: bool = False,
        is_copy: bool = False,
    ) -> "SecretState":
        state = super().__new__(cls, "")
        state.is_set = is_set
        state.clearable = clearable
        state.clearing = clearing
        state.retype = retype
        state.is_copy = is_copy
        return state


def is_set(initial: object) -> bool:
    """Say whether an initial value is one that can be kept."""
    return initial is not None and initial != ""


class _SecretWidget(forms.Widget):
    """Renders no value; a box beside the input clears the one that is stored."""

    template_name = "encryption/widgets/secret.html"
    input_template_name: ClassVar[str]
    # Browsers and their extensions send what they spell-check to other people's servers.
    default_attrs: ClassVar[dict[str, str]] = {
        "autocomplete": "off",
        "autocapitalize": "off",
        "spellcheck": "false",
    }
    set_text: str | Promise = entry.KEEP
    copy_text: str | Promise = _("A copy does not get the value that the original has.")
    clear_label: str | Promise = _("Clear")
    retype_text: str | Promise = _("Enter the value again: what was typed is never sent back.")

    def __init__(self, attrs: Mapping[str, Any] | None = None) -> None:
        super().__init__({**self.default_attrs, **(attrs or {})})

    def get_context(
        self, name: str, value: Any, attrs: "Mapping[str, Any] | None"
    ) -> dict[str, Any]:
        state = value if isinstance(value, SecretState) else SecretState(is_set=is_set(value))
        context = super().get_context(name, None, dict(attrs or {}))
        own_id = context["widget"]["attrs"].get("id") or f"id_{name}"
        context["widget"] |= {
            "value": None,
            "input_template_name": self.input_template_name,
            "is_set": state.is_set,
            "set_text": self.copy_text if state.is_copy else self.set_text,
            "clearable": state.clearable,
            "clearing": state.clearing,
            "clear_name": self.clear_name(name),
            "clear_id": f"{own_id}-clear",
            "clear_label": self.clear_label,
            "retype": state.retype,
            "retype_text": self.retype_text,
        }
        return context

    def clear_name(self, name: str) -> str:
        """The name of the box that clears."""
        return f"{name}-clear"

    def value_from_datadict(self, data: Mapping[str, Any], files: Any, name: str) -> Any:
        typed = super().value_from_datadict(data, files, name)
        ticked = forms.CheckboxInput().value_from_datadict(data, files, self.clear_name(name))
        if not ticked:
            return typed
        return Ticked.CONTRADICTION if typed else Ticked.CLEAR

    def value_omitted_from_data(self, data: Mapping[str, Any], files: Any, name: str) -> bool:
        return (
            super().value_omitted_from_data(data, files, name) and self.clear_name(name) not in data
        )

    def use_required_attribute(self, initial: Any) -> bool:
        return super().use_required_attribute(initial) and not is_set(initial)


class SecretInput(_SecretWidget, forms.PasswordInput):
    """One line, not shown while it is typed."""

    template_name = "encryption/widgets/secret.html"
    input_template_name = "django/forms/widgets/password.html"
    # Browsers take no notice of "off" in a password input, and would fill in the password that
    # they keep for this site: the next save would store it as the secret.
    default_attrs: ClassVar[dict[str, str]] = {
        **_SecretWidget.default_attrs,
        "autocomplete": "new-password",
        "size": "40",
    }


class SecretTextarea(_SecretWidget, forms.Textarea):
    """Several lines, such as a private key; they can be read while they are typed."""

    template_name = "encryption/widgets/secret.html"
    input_template_name = "django/forms/widgets/textarea.html"
    default_attrs: ClassVar[dict[str, str]] = {**_SecretWidget.default_attrs, "rows": "5"}

    def value_from_datadict(self, data: Mapping[str, Any], files: Any, name: str) -> Any:
        typed = super().value_from_datadict(data, files, name)
        # Browsers send the line breaks of a text area as CRLF (HTML, "form data set"); what
        # stands in it, and what was pasted, has LF.
        return typed.replace("\r\n", "\n") if isinstance(typed, str) else typed


class SecretField(forms.CharField):
    """A text that is written and never shown; left empty, what is stored is kept.

    Its cleaned value is the text as it was typed, whitespace included; the initial value (of a
    model form: a ``Ciphertext``) if it is kept; ``None`` if it is cleared.

    Args:
        nullable: the value may be ``None``. An optional field offers a box then that clears it.
        strip: as on ``CharField``, but off unless asked for.
    """

    widget: Any = SecretInput
    default_error_messages: ClassVar[dict[str, Any]] = {
        **entry.MESSAGES,
        "contradiction": _("Either enter a new value or tick the box that clears it, not both."),
        "not_clearable": _("This value can be replaced, but not cleared."),
        "not_copied": _(
            "Enter the value again: a copy does not get the one that the original has."
        ),
    }
    #: Whether the row is a copy of one that holds a value, which the form neither has nor keeps.
    is_copy = False

    def __init__(self, *, nullable: bool = True, **kwargs: Any) -> None:
        self.nullable = nullable
        kwargs.setdefault("strip", False)
        kwargs.setdefault("empty_value", None if nullable else "")
        # Django asks for it where the model field's default is a callable.
        kwargs["show_hidden_initial"] = False
        super().__init__(**kwargs)

    @property
    def clearable(self) -> bool:
        """Whether the box that clears is offered."""
        # A copy may do without where "" is a value, too.
        can_be_empty = self.nullable or (self.is_copy and self.empty_value is not None)
        return can_be_empty and not self.required and not self.disabled

    # -- showing ------------------------------------------------------------------------------

    def prepare_value(self, value: Any) -> SecretState:
        if isinstance(value, SecretState):
            return value
        return SecretState(is_set=is_set(value), clearable=self.clearable)

    def bound_data(self, data: Any, initial: Any) -> SecretState:
        return SecretState(
            is_set=is_set(initial) or self.is_copy,
            is_copy=self.is_copy,
            clearable=self.clearable,
            clearing=data is Ticked.CLEAR,
            retype=not self.disabled and data not in (None, "", Ticked.CLEAR),
        )

    # -- taking -------------------------------------------------------------------------------

    def _clean_bound_field(self, bf: forms.BoundField) -> Any:
        # Django's own hook for fields whose cleaned value depends on the initial one.
        return self.clean(None if self.disabled else bf.data, bf.initial)

    def clean(self, value: Any, initial: Any = None) -> Any:
        """Validate what was typed.

        Args:
            value: the text, a :class:`Ticked`, or ``None`` or "" for nothing.
            initial: what to keep if nothing was typed.

        Raises:
            ValidationError: it never holds a part of the text.
        """
        if value is Ticked.CONTRADICTION:
            raise self._error("contradiction")
        if value is Ticked.CLEAR:
            if not self.clearable:
                raise self._error("not_clearable")
            return None if self.nullable else self.empty_value
        if value in self.empty_values:
            if is_set(initial):
                return initial
            if self.is_copy and not self.disabled:
                raise self._error("not_copied")
            return self._clean_nothing()
        return super().clean(value)

    def _clean_nothing(self) -> Any:
        if self.required:
            raise self._error("required")
        return self.empty_value

    def _error(self, code: str) -> ValidationError:
        return ValidationError(self.error_messages[code], code=code)

    def to_python(self, value: Any) -> Any:
        if value not in self.empty_values and (problem := entry.text_problem(str(value))):
            raise self._error(problem)
        return super().to_python(value)

    def run_validators(self, value: Any) -> None:
        """Run the validators; where one of them quotes the value, say something else."""
        try:
            super().run_validators(value)
        except ValidationError as error:
            errors = [self._quiet(one, value) for one in error.error_list]
        else:
            return
        raise ValidationError(errors)

    def _quiet(self, error: ValidationError, value: Any) -> ValidationError:
        # A parameter may hold the value even if the message does not name it.
        message = next(iter(error.messages))
        if entry.echoes(message, value):
            return self._error("echo")
        return ValidationError(message, code=error.code)

    def has_changed(self, initial: Any, data: Any) -> bool:
        if self.disabled:
            return False
        if data is Ticked.CLEAR:
            return is_set(initial)
        return data is not None and data != ""


class SecretJSONField(SecretField):
    """A JSON value, typed as text; otherwise like :class:`SecretField`.

    Args:
        encoder, decoder: as on ``JSONField``.
    """

    widget: Any = SecretTextarea

    def __init__(
        self,
        *,
        encoder: type[json.JSONEncoder] | None = None,
        decoder: type[json.JSONDecoder] | None = None,
        **kwargs: Any,
    ) -> None:
        self.encoder = encoder
        self.decoder = decoder
        kwargs["empty_value"] = None
        super().__init__(**kwargs)

    def _clean_nothing(self) -> Any:
        # There is no empty JSON value to stand for "nothing": what cannot be NULL is needed.
        if not self.nullable:
            raise self._error("required")
        return super()._clean_nothing()

    def to_python(self, value: Any) -> Any:
        if value in self.empty_values:
            return None
        parsed, problem = entry.parse_json(str(value), self.decoder)
        if problem is None:
            problem = entry.json_problem(parsed, self.encoder)
        if problem is not None:
            raise self._error(problem)
        return parsed

    def validate(self, value: Any) -> None:
        """Nothing more: ``[]``, ``{}``, ``0`` and ``""`` are values, and required ones too."""
