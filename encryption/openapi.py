"""What drf-spectacular says about secrets. Import it where that is installed; the app does."""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from drf_spectacular.settings import spectacular_settings
from drf_spectacular.utils import Direction

from encryption import entry

#: In characters. What has fewer may still have too many bytes.
_TEXT = {"type": "string", "format": "password", "minLength": 1, "maxLength": entry.MAX_BYTES}


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Allow null, in the words of the OpenAPI version that is written."""
    if str(spectacular_settings.OAS_VERSION).startswith("3.1"):
        return {**schema, "type": [schema["type"], "null"]}
    return {**schema, "nullable": True}


def presence(of: dict[str, Any]) -> dict[str, Any]:
    """What is read in place of a secret."""
    return {
        "type": "object",
        "properties": {"set": of},
        "required": ["set"],
        "additionalProperties": False,
    }


class SecretExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    """A text goes in, ``{"set": true}`` comes out."""

    target_class = "encryption.serializers.SecretSerializerField"
    match_subclasses = True

    def map_serializer_field(self, auto_schema: Any, direction: Direction) -> dict[str, Any]:
        return dict(_TEXT) if direction == "request" else presence({"type": "boolean"})


class SecretJSONExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    """Any JSON goes in, ``{"set": true}`` comes out."""

    target_class = "encryption.serializers.SecretJSONSerializerField"
    match_subclasses = True

    def map_serializer_field(self, auto_schema: Any, direction: Direction) -> dict[str, Any]:
        return {} if direction == "request" else presence({"type": "boolean"})


class CredentialsExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    """Texts by name go in, ``{"set": true}`` by name comes out."""

    target_class = "encryption.serializers.CredentialsField"
    match_subclasses = True

    def map_serializer_field(self, auto_schema: Any, direction: Direction) -> dict[str, Any]:
        if direction == "request":
            member = nullable(_TEXT)
        else:
            member = presence(nullable({"type": "boolean"}))
        names = self.target.names
        if callable(names):
            return {"type": "object", "additionalProperties": member}
        return {
            "type": "object",
            "properties": dict.fromkeys(names, member),
            "additionalProperties": False,
        }
