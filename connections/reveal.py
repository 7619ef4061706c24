"""Showing stored credentials to a person: the audit row is committed before they are read."""

from typing import Any

from django.db import transaction

from connections.models import Connection, CredentialEvent
from connections.models.event import Action


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
