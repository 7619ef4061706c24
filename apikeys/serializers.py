"""API keys and AI keys as JSON. No hash and no secret goes out, but for the one new key."""

from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apikeys import restrictions, tokens
from apikeys.models import AIKey, ApiKey
from apikeys.scopes import Scope
from encryption import entry
from projects import strict
from projects.strict import StrictMixin


class AwareDateTimeField(serializers.DateTimeField):
    """A time with its offset from UTC; without one it is not guessed."""

    default_error_messages: ClassVar[dict[str, Any]] = {
        "naive": "Give the time with its offset from UTC, as in 2030-01-01T00:00:00Z."
    }

    def enforce_timezone(self, value: datetime) -> datetime:
        if timezone.is_naive(value):
            self.fail("naive")
        return super().enforce_timezone(value)


@extend_schema_field(
    {
        "type": "string",
        "minLength": 1,
        "maxLength": restrictions.NAME_LENGTH,
        "pattern": strict.NAME,
    }
)
class NameField(serializers.CharField):
    """The name of a key."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=restrictions.NAME_LENGTH, **kwargs)


@extend_schema_field({"type": "string", "format": "cidr", "minLength": 1, "maxLength": 50})
class NetworkField(serializers.CharField):
    """A network in CIDR notation, or one address."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=50, **kwargs)


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    """What is known of an API key; the key itself is not."""

    kind = serializers.CharField(read_only=True, help_text="live or test; imported, of old keys")
    scopes = serializers.ListField(child=serializers.CharField(), read_only=True)
    allowed_networks = serializers.ListField(
        child=serializers.CharField(),
        read_only=True,
        help_text="Networks that the key is accepted from; none means any.",
    )
    status = serializers.ChoiceField(ApiKey.Status.choices, read_only=True)
    created_by = serializers.CharField(
        source="created_by.get_username", read_only=True, allow_null=True, default=None
    )
    successor = serializers.PrimaryKeyRelatedField[ApiKey](
        read_only=True, allow_null=True, default=None, help_text="The key that replaces this one."
    )

    class Meta:
        model = ApiKey
        fields: tuple[str, ...] = (
            "id",
            "name",
            "key_prefix",
            "kind",
            "scopes",
            "allowed_networks",
            "status",
            "created_by",
            "created_at",
            "expires_at",
            "revoked_at",
            "last_used_at",
            "replaces",
            "successor",
        )
        read_only_fields = fields


class NewApiKeySerializer(ApiKeySerializer):
    """The reply to creation and rotation, the only one that holds a key."""

    key = serializers.CharField(
        source="token.plaintext", read_only=True, help_text="The key. It is never shown again."
    )

    class Meta(ApiKeySerializer.Meta):
        fields = (*ApiKeySerializer.Meta.fields, "key")


class CreationSerializer(StrictMixin, serializers.Serializer[ApiKey]):
    """What is decided when an API key is created, and, but for the name, not changed later."""

    name = NameField()
    kind = serializers.ChoiceField(tokens.KINDS, default="live")
    scopes = serializers.ListField(
        child=serializers.ChoiceField(Scope.choices), min_length=1, max_length=len(Scope)
    )
    allowed_networks = serializers.ListField(
        child=NetworkField(),
        default=list,
        max_length=restrictions.MAXIMUM_NETWORKS,
        help_text="Networks in CIDR notation that the key is accepted from; none means any.",
    )
    expires_at = AwareDateTimeField(
        required=False,
        allow_null=True,
        help_text="Null: never. Left out: as late as is allowed here.",
    )

    validate_name = staticmethod(restrictions.clean_name)
    validate_scopes = staticmethod(restrictions.clean_scopes)
    validate_allowed_networks = staticmethod(restrictions.clean_networks)
    validate_expires_at = staticmethod(restrictions.clean_expiry)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs.setdefault("expires_at", restrictions.default_expiry())
        return attrs


class RenameSerializer(StrictMixin, serializers.Serializer[ApiKey]):
    """The one thing that is changed of an API key."""

    name = NameField()

    validate_name = staticmethod(restrictions.clean_name)


class RotationSerializer(StrictMixin, serializers.Serializer[ApiKey]):
    """How an API key is replaced."""

    overlap_hours = serializers.IntegerField(
        min_value=0,
        max_value=restrictions.MAXIMUM_OVERLAP // timedelta(hours=1),
        default=24,
        help_text="For how long the old key stays valid, unless it expires before.",
    )
    expires_at = AwareDateTimeField(
        required=False,
        help_text="When the new key expires. Left out: it is valid for as long as the old one was.",
    )

    validate_expires_at = staticmethod(restrictions.clean_expiry)


class NoContentSerializer(StrictMixin, serializers.Serializer[Any]):
    """A request that says all by its address."""


class AIKeyField(serializers.CharField):
    """A provider's key: written, and never shown."""

    default_error_messages: ClassVar[dict[str, Any]] = {
        **entry.MESSAGES,
        "api_key": "This is a key to this API. Its place is nowhere but the Authorization header.",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(write_only=True, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        text = super().to_internal_value(data)
        if problem := entry.text_problem(text):
            self.fail(problem)
        if tokens.contains_key(text):
            self.fail("api_key")
        return text


class AIKeySerializer(StrictMixin, serializers.Serializer[AIKey]):
    """That a key is set and since when; of the key itself, nothing."""

    provider = serializers.ChoiceField(AIKey.Provider.choices, read_only=True)
    set = serializers.BooleanField(read_only=True)
    created_at = serializers.DateTimeField(read_only=True, allow_null=True)
    updated_at = serializers.DateTimeField(read_only=True, allow_null=True)


class NewAIKeySerializer(AIKeySerializer):
    api_key = AIKeyField()
    warnings = serializers.ListField(
        child=serializers.CharField(),
        read_only=True,
        help_text="Why this may not be a key of this provider. It is stored all the same.",
    )
