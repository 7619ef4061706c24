"""The Celery face of :mod:`connections.sync`. What goes to the broker is the id of a connection."""

import uuid

from celery import shared_task
from django.utils import timezone

from connections.models import Connection
from connections.sync import BusyError, sync_connection


@shared_task(name="connections.sync")  # type: ignore[untyped-decorator]
def sync(connection_id: str) -> None:
    """Sync one connection; if another worker does so already, or did, do nothing."""
    try:
        sync_connection(uuid.UUID(connection_id), only_if_due=True)
    except BusyError:
        return


@shared_task(name="connections.sync_due")  # type: ignore[untyped-decorator]
def sync_due() -> int:
    """Send a task for each connection that is due, and return how many there are.

    A connection that is sent twice, because its first task still waits, is synced once: the second
    task finds it busy, or not due any more.
    """
    due = Connection.objects.due(timezone.now()).values_list("pk", flat=True)
    count = 0
    for pk in due.iterator():
        sync.delay(str(pk))
        count += 1
    return count
