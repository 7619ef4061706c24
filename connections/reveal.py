"""Showing stored credentials to a person: the audit row is committed before they are read."""

from typing import Any

from django.core.cache import cache
from django.db import transaction

from connections.models import Connection, CredentialEvent
from connections.models.event import Action

WRONG_PASSWORDS = 5
WINDOW = 15 * 60


def reveal(connection: Connection, actor: str, reason: str) -> dict[str, Any]:
    """Record the reveal, and then decrypt.

    Args:
        actor: "user:ID".
        reason: why; it is kept.

    Raises:
        DecryptionError: the credentials cannot be read. The event stays.
        RuntimeError: called inside a transaction, whose rollback would take the event away.
    """
    with transaction.atomic(durable=True):
        CredentialEvent.objects.record(
            Action.REVEAL, connection, actor, connection.credential_names, reason
        )
    stored = connection.credentials
    return dict(stored) if isinstance(stored, dict) else {"": stored}


def is_locked_out(user_id: Any) -> bool:
    """Say whether a user got the password wrong too often of late (5 times in 15 minutes)."""
    return bool(cache.get(_key(user_id), 0) >= WRONG_PASSWORDS)


def count_wrong_password(user_id: Any) -> None:
    """Note that a user got the password wrong."""
    cache.add(_key(user_id), 0, WINDOW)
    cache.incr(_key(user_id))


def _key(user_id: Any) -> str:
    return f"connections.reveal.{user_id}"
