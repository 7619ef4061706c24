"""Connections and metrics as JSON. Credentials go in and never come out."""

from collections.abc import Mapping
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError

from connections.changes import InvalidChangeError, check_creation, check_update, name_problem
from connections.integrations import registry
from connections.models import Connection, Metric, Status
from encryption.serializers import CredentialsField
from projects.strict import StrictMixin

#: How many connections with the same credentials a reply names.
MOST_WARNINGS = 5


@extend_schema_field(
    {
        "type": "object",
        "additionalProperties": {"type": ["string", "null"], "minLength": 1},
        "writeOnly": True,
    }
)
class CredentialChangesField(CredentialsField):
    """Takes single credentials; what is stored is neither read nor returned."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(names=(), write_only=True, **kwargs)

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            self.fail("not_a_dict")
        if problems := {name: p for name, value in data.items() if (p := self._problem(value))}:
            # A name that is none of ours may be anything, a secret too.
            names = {
                field.name
                for integration in registry.integrations().values()
                for field in integration.credential_fields
            }
            known = {name: problem for name, problem in problems.items() if name in names}
            raise ValidationError(self._details(known) or self._details({"": "invalid"})[""])
        return dict(data)


@extend_schema_field({"type": "object", "additionalProperties": {}})
class ConfigSerializerField(serializers.JSONField):
    """A JSON object without secrets."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValidationError("Send an object.", code="not_a_dict")
        return super().to_internal_value(data)


@extend_schema_field(
    {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "properties": {"set": {"type": "boolean"}},
            "required": ["set"],
        },
    }
)
class CredentialPresenceField(serializers.DictField):
    """For each credential of the service whether it is set."""


class ConnectionSerializer(serializers.ModelSerializer[Connection]):
    """A connection in a list: nothing of it is decrypted."""

    service = serializers.CharField()
    supported = serializers.SerializerMethodField(
        help_text="Whether this installation knows the service."
    )
    config = ConfigSerializerField()
    credential_fields = CredentialPresenceField(read_only=True)

    class Meta:
        model = Connection
        fields: ClassVar[tuple[str, ...]] = (
            "id",
            "project",
            "service",
            "supported",
            "name",
            "config",
            "credential_fields",
            "status",
            "health_score",
            "last_error",
            "created_at",
            "updated_at",
            "last_synced_at",
        )
        read_only_fields = fields

    def get_supported(self, connection: Connection) -> bool:
        return connection.integration is not None


class ConnectionDetailSerializer(ConnectionSerializer):
    """One connection, whose credentials are decrypted to see whether they can be."""

    credentials_status = serializers.SerializerMethodField()

    class Meta(ConnectionSerializer.Meta):
        fields = (*ConnectionSerializer.Meta.fields, "credentials_status")
        read_only_fields = fields

    @extend_schema_field({"type": "string", "enum": ["ok", "undecryptable"]})
    def get_credentials_status(self, connection: Connection) -> str:
        return "ok" if connection.has_readable_credentials() else "undecryptable"


class WrittenConnectionSerializer(ConnectionDetailSerializer):
    """The reply to a write, which may be doubted and is done all the same."""

    warnings = serializers.SerializerMethodField(
        help_text="What may be a mistake, such as credentials that the project has twice."
    )

    class Meta(ConnectionDetailSerializer.Meta):
        fields = (*ConnectionDetailSerializer.Meta.fields, "warnings")
        read_only_fields = fields

    @extend_schema_field({"type": "array", "items": {"type": "string"}})
    def get_warnings(self, connection: Connection) -> list[str]:
        same = connection.with_same_credentials().filter(project=connection.project_id)
        return [
            f'The connection "{name}" of this project has the same credentials.'
            for name in same.order_by("name").values_list("name", flat=True)[:MOST_WARNINGS]
        ]


class ConnectionWriteSerializer(StrictMixin, serializers.ModelSerializer[Connection]):
    """What may be written in both ways; the subclasses say how."""

    config = ConfigSerializerField(required=False)
    credentials = CredentialChangesField(required=False)
    status = serializers.ChoiceField(
        Status.choices, required=False, help_text='"active" or "paused".'
    )

    class Meta:
        model = Connection
        fields: ClassVar[tuple[str, ...]] = ("name", "config", "credentials", "status")

    def validate_status(self, status: str) -> str:
        if status == Status.ERROR:
            raise ValidationError("A connection is set to active or paused.", code="not_settable")
        return status

    def validate_name(self, name: str) -> str:
        if problem := name_problem(name):
            raise ValidationError(problem[0], code=problem[1])
        return name


class ConnectionCreateSerializer(ConnectionWriteSerializer):
    service = serializers.CharField(max_length=50)

    class Meta(ConnectionWriteSerializer.Meta):
        fields = ("service", *ConnectionWriteSerializer.Meta.fields)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        integration = registry.get(attrs["service"])
        if integration is None:
            known = ", ".join(registry.integrations())
            text = f"There is no such service. Known are: {known}."
            raise invalid(InvalidChangeError([(("service",), text, "unknown_service")]))
        credentials = attrs.setdefault("credentials", {})
        try:
            attrs["config"] = check_creation(integration, attrs.get("config", {}), credentials)
        except InvalidChangeError as error:
            raise invalid(error) from None
        return attrs


class ConnectionUpdateSerializer(ConnectionWriteSerializer):
    instance: Connection

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        config, credentials = attrs.pop("config", {}), attrs.get("credentials", {})
        try:
            changed = check_update(self.instance, config, credentials)
        except InvalidChangeError as error:
            raise invalid(error) from None
        return {**attrs, "config": changed} if config else attrs


class MetricSerializer(serializers.ModelSerializer[Metric]):
    class Meta:
        model = Metric
        fields = ("metric_id", "at", "value")
        read_only_fields = fields


class NothingSerializer(StrictMixin, serializers.Serializer[Any]):
    """The body of a test or sync: what is stored is used, and nothing else."""


class OutcomeSerializer(serializers.Serializer[Any]):
    """How a test or sync went."""

    ok = serializers.BooleanField()
    code = serializers.CharField(help_text='"ok", or one word that says what is wrong.')
    detail = serializers.CharField()
    stored = serializers.IntegerField(help_text="How many metric values were written.")


def invalid(error: InvalidChangeError) -> ValidationError:
    """The reply for a change that cannot be made."""
    detail: dict[str, Any] = {}
    for path, text, code in error.problems:
        problem = [ErrorDetail(text, code=code)]
        if len(path) == 1:
            detail[path[0]] = problem
        else:
            detail.setdefault(path[0], {})[path[1]] = problem
    return ValidationError(detail)
