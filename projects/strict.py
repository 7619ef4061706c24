"""Serializers that refuse what they do not know, where REST framework would drop it silently."""

from typing import Any

from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.serializers import Serializer

UNKNOWN = "unknown_field"
READ_ONLY = "read_only_field"


class StrictMixin(Serializer[Any]):
    """Refuses fields that do not exist or cannot be written.

    The name of an unknown field is whatever the client sent, so it is not repeated.
    """

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict):
            self._refuse_others(data)
        return super().to_internal_value(data)

    def _refuse_others(self, data: dict[str, Any]) -> None:
        errors: dict[str, list[ErrorDetail]] = {}
        for name in data:
            field = self.fields.get(name)
            if field is None:
                known = ", ".join(n for n, f in self.fields.items() if not f.read_only)
                detail = f"There is a field here that does not exist. Known are: {known}."
                errors.setdefault("non_field_errors", [ErrorDetail(detail, code=UNKNOWN)])
            elif field.read_only:
                errors[name] = [ErrorDetail("This field cannot be written.", code=READ_ONLY)]
        if errors:
            raise ValidationError(errors)
