"""How what all endpoints share is told in OpenAPI."""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension


class StrictExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Serializers that refuse unknown fields say so of what is sent to them."""

    target_class = "projects.strict.StrictMixin"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        schema: dict[str, Any] = auto_schema._map_serializer(
            self.target, direction, bypass_extensions=True
        )
        return {**schema, "additionalProperties": False} if direction == "request" else schema
