from apikeys.models.ai_key import AIKey
from apikeys.models.api_key import ApiKey, ApiKeyQuerySet, ApiKeyStateError
from apikeys.models.event import Actor, ApiKeyEvent

__all__ = ["AIKey", "Actor", "ApiKey", "ApiKeyEvent", "ApiKeyQuerySet", "ApiKeyStateError"]
