"""Moving over from the original product: its API keys and its users' keys to AI providers.

See :mod:`projects.convex`.
"""

import re
from collections.abc import Sequence
from typing import Any

from apikeys.models import Actor, AIKey, ApiKey, ApiKeyEvent
from projects.convex import Document, Import, UnreadableError, moment, opened, text
from projects.models import Project

ACTOR = Actor("import")
AI_KEYS = "users.aiApiKey"


def import_api_keys(run: Import, scopes: Sequence[str]) -> None:
    """Take the API keys over, of which there is only the hash.

    Args:
        scopes: what they may do; the original product had no scopes.
    """
    for document in run.documents("apiKeys"):
        run.take(
            "apiKeys",
            document,
            lambda document=document: _api_key(run, document, scopes),  # type: ignore[misc]
        )


def _api_key(run: Import, document: Document, scopes: Sequence[str]) -> ApiKey:
    project_id = run.reference("projects", document, "projectId")
    if not Project.objects.filter(pk=project_id).exists():
        raise UnreadableError("its project was deleted here")
    key_hash = text(document, "keyHash").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", key_hash):
        raise UnreadableError("its keyHash is no SHA-256 in hexadecimal")
    if ApiKey.objects.filter(key_hash=key_hash).exists():
        raise UnreadableError("there is an API key with its keyHash here")
    created_by = run.local_id("users", document.get("createdBy"))
    fields: dict[str, Any] = {
        "expires_at": moment(document, "expiresAt"),
        "revoked_at": moment(document, "revokedAt"),
        "last_used_at": moment(document, "lastUsedAt"),
    }
    created_at = moment(document, "createdAt", "_creationTime")
    if created_at is not None:
        fields["created_at"] = created_at
    key = ApiKey(
        project_id=project_id,
        name=text(document, "name")[:100],
        key_hash=key_hash,
        key_prefix=text(document, "keyPrefix")[:64],
        scopes=list(scopes),
        created_by_id=None if created_by is None else int(created_by),
        **fields,
    )
    key.save()
    key.record(ApiKeyEvent.Kind.CREATED, ACTOR, key.summary())
    return key


def import_ai_keys(run: Import) -> None:
    """Take the users' AI keys over: decrypted for the old id, encrypted for the new one."""
    for document in run.documents("users"):
        if document.get("aiApiKey") is not None:
            run.take(
                AI_KEYS,
                document,
                lambda document=document: _ai_key(run, document),  # type: ignore[misc]
            )


def _ai_key(run: Import, document: Document) -> AIKey:
    user_id = int(run.reference("users", document, "_id"))
    provider = document.get("aiProvider", AIKey.Provider.OPENAI)
    if provider not in AIKey.Provider.values:
        raise UnreadableError(f"its aiProvider is none of {', '.join(AIKey.Provider.values)}")
    if AIKey.objects.filter(user=user_id, provider=provider).exists():
        raise UnreadableError("the user has a key to this provider here")
    key = AIKey(user_id=user_id, provider=provider)
    key.api_key = opened(document, "aiApiKey", document["_id"])
    key.save()
    updated = moment(document, "updatedAt", "_creationTime")
    if updated is not None:
        AIKey.objects.filter(pk=key.pk).update(created_at=updated, updated_at=updated)
    return key
