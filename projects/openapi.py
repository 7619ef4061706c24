"""How what all endpoints share is told in OpenAPI."""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension

from projects.roles import Role


class StrictExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Serializers that refuse unknown fields say so of what is sent to them."""

    target_class = "projects.strict.StrictMixin"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        schema: dict[str, Any] = auto_schema._map_serializer(
            self.target, direction, bypass_extensions=True
        )
        return {**schema, "additionalProperties": False} if direction == "request" else schema


class MemberExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """What may be sent of a member is less than what is shown of one."""

    target_class = "projects.serializers.MemberSerializer"
    priority = 1

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        schema: dict[str, Any] = auto_schema._map_serializer(
            self.target, direction, bypass_extensions=True
        )
        if direction != "request":
            return schema
        granted = [role.value for role in Role if role is not Role.OWNER]
        properties = {**schema["properties"], "role": {"type": "string", "enum": granted}}
        if auto_schema.method == "PATCH":
            del properties["user"]  # a membership keeps its user
        return {**schema, "properties": properties, "additionalProperties": False}
