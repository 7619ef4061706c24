"""Serializers that refuse what they do not know, where REST framework would drop it silently."""

import re
from typing import Any, Final

from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.serializers import CharField, IntegerField, Serializer

#: A name: words with spaces between them, and no character that moves or hides others where it is
#: shown, on a terminal too. A regular expression for Python and for OpenAPI.
NAME: Final = (
    r"^[^\s{0}]+( +[^\s{0}]+)*$".format(
        r"\x00-\x1f\x7f-\x9f"  # control characters
        r"\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # format
    )
)  # fmt: skip
_NAME: Final = re.compile(NAME)

UNKNOWN = "unknown_field"
READ_ONLY = "read_only_field"
WRONG_TYPE = "invalid"


class StrictMixin(Serializer[Any]):
    """Refuses fields that do not exist or cannot be written, and numbers for texts and the like.

    The name of an unknown field is whatever the client sent, so it is not repeated.
    """

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict):
            self._refuse_others(data)
        return super().to_internal_value(data)

    def _refuse_others(self, data: dict[str, Any]) -> None:
        errors: dict[str, list[ErrorDetail]] = {}
        for name, value in data.items():
            field = self.fields.get(name)
            if field is None:
                known = ", ".join(n for n, f in self.fields.items() if not f.read_only)
                detail = f"There is a field here that does not exist. Known are: {known}."
                errors.setdefault("non_field_errors", [ErrorDetail(detail, code=UNKNOWN)])
            elif field.read_only:
                errors[name] = [ErrorDetail("This field cannot be written.", code=READ_ONLY)]
            elif problem := _type_problem(field, value):
                errors[name] = [ErrorDetail(problem, code=WRONG_TYPE)]
        if errors:
            raise ValidationError(errors)


def _type_problem(field: Any, value: Any) -> str | None:
    """Say what is wrong with the JSON type of a value, where REST framework would convert it."""
    if isinstance(field, CharField) and not isinstance(value, str | None):
        return "Send a text."
    if isinstance(field, IntegerField) and isinstance(value, str):
        return "Send a number."
    return None


def is_name(text: str) -> bool:
    """Say whether a text without spaces around it is a name; see :data:`NAME`."""
    return _NAME.fullmatch(text) is not None
