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
    # Of a service that is not known here nobody can tell names from secrets.
    names = connection.credential_names if connection.integration else ["(all)"]
    with transaction.atomic(durable=True):
        CredentialEvent.objects.record(Action.REVEAL, connection, actor, names, reason)
    stored = connection.credentials
    return dict(stored) if isinstance(stored, dict) else {"": stored}
