"""What may be sent about a connection, in OpenAPI: one alternative per service."""

from collections.abc import Iterable, Mapping
from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension

from connections.integrations import registry
from connections.integrations.base import Integration
from connections.integrations.fields import ConfigField, CredentialField
from projects import strict

NAME = {"type": "string", "minLength": 1, "maxLength": 100, "pattern": strict.NAME}
STATUS = {"oneOf": [{"const": "active"}, {"const": "paused"}]}
MOST_CHARACTERS = 16 * 1024

Schema = dict[str, Any]


class CreationExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """The body of a request that creates a connection."""

    target_class = "connections.serializers.ConnectionCreateSerializer"
    priority = 1

    def map_serializer(self, auto_schema: Any, direction: Any) -> Schema:
        return {
            # Without these, the whole body would be taken for optional.
            "required": ["service", "name"],
            "oneOf": [_creation_of(one) for one in registry.integrations().values()],
        }


class UpdateExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """The body of a request that changes one; which keys there are depends on its service."""

    target_class = "connections.serializers.ConnectionUpdateSerializer"
    priority = 1

    def map_serializer(self, auto_schema: Any, direction: Any) -> Schema:
        integrations = registry.integrations().values()
        config = {
            field.name: _nullable(field.schema, not field.required)
            for integration in integrations
            for field in integration.config_fields
        }
        credentials = {
            field.name: _nullable(_credential(field), True)
            for integration in integrations
            for field in integration.credential_fields
        }
        return {
            "type": "object",
            "properties": {
                "name": NAME,
                "status": STATUS,
                "config": _object(config),
                "credentials": {**_object(credentials), "writeOnly": True},
            },
            "additionalProperties": False,
        }


def _creation_of(integration: Integration) -> Schema:
    config = {f.name: _nullable(f.schema, not f.required) for f in integration.config_fields}
    credentials = {
        f.name: _nullable(_credential(f), not f.required) for f in integration.credential_fields
    }
    needs_config = _required(integration.config_fields)
    needs_credentials = _required(integration.credential_fields)
    return {
        "title": integration.title,
        "type": "object",
        "properties": {
            "service": {"const": integration.service},
            "name": NAME,
            "status": STATUS,
            "config": _object(config, needs_config),
            "credentials": {**_object(credentials, needs_credentials), "writeOnly": True},
        },
        "required": [
            "service",
            "name",
            *(["config"] if needs_config else []),
            *(["credentials"] if needs_credentials else []),
        ],
        "additionalProperties": False,
    }


def _credential(field: CredentialField) -> Schema:
    pattern = r"^[!-~]+$" if field.ascii_only else r"^[^\x00]+$"
    return {
        "type": "string",
        "description": f"{field.label}. {field.help_text}".strip(),
        "maxLength": MOST_CHARACTERS,
        "pattern": pattern,
    }


def _nullable(schema: Mapping[str, Any], nullable: bool) -> Schema:
    return {**schema, "type": [schema["type"], "null"]} if nullable else dict(schema)


def _required(fields: Iterable[ConfigField | CredentialField]) -> list[str]:
    return [field.name for field in fields if field.required]


def _object(properties: Schema, required: list[str] | None = None) -> Schema:
    schema: Schema = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    return {**schema, "required": required} if required else schema
