"""REST framework fields in which a secret is written and never shown.

Once :func:`register` has run (the app does it where REST framework is installed), every
``ModelSerializer`` uses them for encrypted model fields by itself.

What a client sends: a key left out keeps what is stored, ``null`` clears it where the model
allows NULL, a value replaces it. What a client reads: ``{"set": true}`` or ``{"set": false}``.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from copy import copy
from enum import Enum
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Final

from django.core.exceptions import FieldDoesNotExist, ObjectDoesNotExist
from django.db import models
from rest_framework import fields, serializers
from rest_framework.exceptions import ErrorDetail
from rest_framework.utils import html

from encryption import entry
from encryption.core.errors import DecryptionError
from encryption.fields import (
    BlindIndexField,
    EncryptedField,
    EncryptedJSONField,
    EncryptedTextField,
)
from encryption.rules import rules_of
from encryption.validation import duplicates

if TYPE_CHECKING:
    AnyField = serializers.Field[Any, Any, Any, Any]
else:
    AnyField = serializers.Field

_TEMPLATE: Final = "encryption/rest_framework/secret.html"


class Presence(Enum):
    """Whether there is a value; all that is ever read of a secret."""

    SET = True
    NOT_SET = False


class SecretFieldMixin(AnyField):
    """Keeps, clears or replaces; tells only whether a value is set, and decrypts nothing for it."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs["style"] = {**self.default_style, "template": _TEMPLATE, **kwargs.get("style", {})}
        super().__init__(**kwargs)

    default_style: ClassVar[dict[str, str]] = {}

    # -- reading ------------------------------------------------------------------------------

    def get_attribute(self, instance: Any) -> Presence:
        try:
            owner = fields.get_attribute(instance, self.source_attrs[:-1])
            value = self._peek(owner, self.source_attrs[-1])
        except (AttributeError, KeyError, ObjectDoesNotExist):
            value = None
        return Presence(value is not None and value != "")

    def _peek(self, owner: Any, name: str) -> Any:
        """The value, or of an encrypted model field its ciphertext."""
        if isinstance(owner, models.Model):
            try:
                field = owner._meta.get_field(name)
            except FieldDoesNotExist:
                pass  # a property, say
            else:
                if isinstance(field, EncryptedField):
                    return field.value_from_object(owner)
        return fields.get_attribute(owner, [name])

    def to_representation(self, value: Any) -> Any:
        return {"set": value.value if isinstance(value, Presence) else value not in (None, "")}

    # -- writing ------------------------------------------------------------------------------

    def get_value(self, dictionary: Any) -> Any:
        value = super().get_value(dictionary)
        if html.is_html_input(dictionary) and not dictionary.get(self.field_name or ""):
            return fields.empty  # an HTML form sends every input, and "" for one left empty
        return value

    def validate_empty_values(self, data: Any) -> tuple[bool, Any]:
        if data is fields.empty and not self.read_only and self._is_stored():
            raise fields.SkipField
        return super().validate_empty_values(data)

    def _is_stored(self) -> bool:
        instance = getattr(self.parent, "instance", None)
        return isinstance(instance, models.Model) and self.get_attribute(instance) is Presence.SET

    def run_validators(self, value: Any) -> None:
        """Run the validators; where one of them quotes the value, say something else."""
        try:
            super().run_validators(value)
        except serializers.ValidationError as error:
            details = error.detail if isinstance(error.detail, list) else [error.detail]
            quiet = [self._quiet(detail, value) for detail in details]
        else:
            return
        raise serializers.ValidationError(quiet)

    def _quiet(self, detail: Any, value: Any) -> Any:
        if entry.echoes(detail, value):
            return ErrorDetail(str(self.error_messages["echo"]), code="invalid")
        return detail


class SecretSerializerField(SecretFieldMixin, serializers.CharField):
    """A text secret. Whitespace is part of it; "" is refused, and so is a mask sent back."""

    default_style: ClassVar[dict[str, str]] = {"input_type": "password"}
    default_error_messages = dict(entry.MESSAGES)

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("trim_whitespace", False)
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        if (problem := entry.text_problem(data)) is not None:
            self.fail(problem)
        text: str = super().to_internal_value(data)
        return text


class SecretJSONSerializerField(SecretFieldMixin, serializers.JSONField):
    """Any JSON value as one secret, replaced as a whole.

    See :class:`CredentialsField` for an object whose members are replaced one by one.
    """

    default_error_messages = dict(entry.MESSAGES)

    def to_internal_value(self, data: Any) -> Any:
        if getattr(data, "is_json_string", False):
            data, problem = entry.parse_json(data, self.decoder)
            if problem is not None:
                self.fail(problem)
        if data == "":
            self.fail("invalid")
        if (problem := entry.json_problem(data, self.encoder)) is not None:
            self.fail(problem)
        return data


class Unreadable(Enum):
    """Stands for stored credentials that cannot be decrypted, or are no JSON object."""

    UNREADABLE = "unreadable"


Names = Collection[str] | Callable[["CredentialsField", Any], Iterable[str]]


class CredentialsField(AnyField):
    """Named secrets in one encrypted JSON object, such as the credentials for a service.

    A client sends an object. A name left out keeps its secret, ``null`` clears it, a text replaces
    it. The validated value is the whole object to store, with what was kept; names that are
    stored and not offered are kept too, and not shown. Kept secrets are read from the
    serializer's instance, which should be locked if two clients may write at once.

    A client reads ``{"api_key": {"set": true}, ...}``: every name that is offered, no value.
    ``{"set": null}`` says that what is stored cannot be decrypted; writing all names mends it.

    Args:
        names: the names on offer, or a function of this field and the row (``None`` where one is
            created) that gives them.
        required_names: those that have to be set after every write, in either form.
    """

    default_error_messages = {
        **entry.MESSAGES,
        "not_a_dict": "Send an object: a text, or null, for each name.",
        "invalid": "Not a valid string.",
        "blank": "This may not be blank. Leave it out to keep it, or send null to clear it.",
        "unknown_name": "There are unknown names. These are known: {names}.",
        "unreadable": "What is stored cannot be decrypted, so nothing of it can be kept. "
        "Send all of these, null for what is not needed: {names}.",
    }

    def __init__(self, *, names: Names, required_names: Names = (), **kwargs: Any) -> None:
        self.names = names
        self.required_names = required_names
        style = {"input_type": "passwords", "template": _TEMPLATE}
        super().__init__(**{**kwargs, "style": {**style, **kwargs.get("style", {})}})

    @property
    def fixed_names(self) -> list[str]:
        """The names that the form of the browsable API has inputs for."""
        return [] if callable(self.names) else list(self.names)

    def offered(self, row: Any) -> list[str]:
        """The names on offer for a row (``None``: for a new one)."""
        return self._list(self.names, row)

    def _list(self, names: Names, row: Any) -> list[str]:
        return list(names(self, row) if callable(names) else names)

    # -- reading ------------------------------------------------------------------------------

    def get_attribute(self, instance: Any) -> dict[str, bool | None]:
        stored = self._stored(instance)
        return {
            name: None if isinstance(stored, Unreadable) else stored.get(name) is not None
            for name in self.offered(instance)
        }

    def to_representation(self, value: Any) -> dict[str, dict[str, bool | None]]:
        return {name: {"set": is_set} for name, is_set in value.items()}

    def _stored(self, row: Any) -> "Mapping[str, Any] | Unreadable":
        try:
            stored = fields.get_attribute(row, self.source_attrs)
        except DecryptionError:
            return Unreadable.UNREADABLE
        except (AttributeError, KeyError):
            return {}
        if stored is None:
            return {}
        return stored if isinstance(stored, Mapping) else Unreadable.UNREADABLE

    # -- writing ------------------------------------------------------------------------------

    def get_value(self, dictionary: Any) -> Any:
        if html.is_html_input(dictionary):
            parsed = html.parse_html_dict(dictionary, prefix=self.field_name or "")
            return {name: text for name, text in parsed.items() if text} or fields.empty
        return dictionary.get(self.field_name, fields.empty)

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            self.fail("not_a_dict")
        row = getattr(self.parent, "instance", None)
        row = row if isinstance(row, models.Model) else None
        offered = self.offered(row)
        if not set(data) <= set(offered):
            self.fail("unknown_name", names=", ".join(offered))  # which may be a secret itself
        if problems := {name: p for name, value in data.items() if (p := self._problem(value))}:
            raise serializers.ValidationError(self._details(problems))
        merged = {**self._kept(row, data, offered), **data}
        merged = {name: value for name, value in merged.items() if value is not None}
        needed = self._list(self.required_names, row)
        if missing := {name: "required" for name in needed if name not in merged}:
            raise serializers.ValidationError(self._details(missing))
        return merged

    def _kept(self, row: Any, data: Mapping[str, Any], offered: list[str]) -> Mapping[str, Any]:
        stored = {} if row is None else self._stored(row)
        if not isinstance(stored, Unreadable):
            return stored
        if not set(offered) <= set(data):
            self.fail("unreadable", names=", ".join(offered))
        return {}

    def _problem(self, value: Any) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str):
            return "invalid"
        return entry.text_problem(value) if value else "blank"

    def _details(self, problems: Mapping[str, str]) -> dict[str, list[ErrorDetail]]:
        return {
            name: [ErrorDetail(str(self.error_messages[code]), code=code)]
            for name, code in problems.items()
        }


class NoIndexField(AnyField):
    """The serializer field of a blind index: neither shown nor taken."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(read_only=True)

    def get_attribute(self, instance: Any) -> Any:
        raise fields.SkipField


class UniqueSecretValidator:
    """Refuses a secret that another row holds, where a blind index of it is unique.

    It knows the tenant of a new row only if that is among the validated data: a
    ``HiddenField`` puts it there.
    """

    requires_context = True

    def __call__(self, attrs: Mapping[str, Any], serializer: Any) -> None:
        model = serializer.Meta.model
        row = copy(serializer.instance) if serializer.instance is not None else model()
        for name, value in attrs.items():
            if isinstance(_concrete(model, name), models.Field):
                setattr(row, name, value)
        found = duplicates(row)
        if found:
            raise serializers.ValidationError(
                {
                    name: [
                        ErrorDetail(message, code=error.code or "unique")
                        for error in errors
                        for message in error.messages
                    ]
                    for name, errors in found.items()
                }
            )


def _concrete(model: type[models.Model], name: str) -> Any:
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return field if field.concrete and not field.many_to_many else None


def _with_unique_secrets(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @wraps(original)
    def get_unique_together_validators(self: Any) -> list[Any]:
        layout = getattr(self.Meta.model, "_encryption_layout", None)
        own = [UniqueSecretValidator()] if layout is not None and rules_of(layout) else []
        return [*original(self), *own]

    get_unique_together_validators._encryption_wrapper = True  # type: ignore[attr-defined]
    return get_unique_together_validators


def register() -> None:
    """Let every ``ModelSerializer`` use these fields for encrypted model fields."""
    method: Any = serializers.ModelSerializer.get_unique_together_validators
    if not hasattr(method, "_encryption_wrapper"):
        wrapped: Any = _with_unique_secrets(method)
        serializers.ModelSerializer.get_unique_together_validators = wrapped  # type: ignore[method-assign]
    serializers.ModelSerializer.serializer_field_mapping.update(
        {
            BlindIndexField: NoIndexField,
            EncryptedField: SecretJSONSerializerField,
            EncryptedTextField: SecretSerializerField,
            EncryptedJSONField: SecretJSONSerializerField,
        }
    )
