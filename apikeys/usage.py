"""When a key was last used: to the minute, forward only, and never at the request's expense."""

import logging
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from threading import Lock
from typing import Any
from uuid import UUID

from django.db import DatabaseError, connections, router, transaction
from django.db.models import Q
from django.utils import timezone

from apikeys.models import ApiKey

logger = logging.getLogger(__name__)

#: How many keys a process remembers; one that is forgotten costs a statement that changes nothing.
REMEMBERED = 10_000

_lock = Lock()
_written: OrderedDict[UUID, datetime] = OrderedDict()


def record_use(key: ApiKey) -> None:
    """Note that a key is used now.

    Of all requests of a minute, one writes. The others see it in the row that they were
    authenticated with, or, those in between, in the memory of the process.
    """
    minute = timezone.now().replace(second=0, microsecond=0)
    if (key.last_used_at is not None and key.last_used_at >= minute) or not _claim(key.pk, minute):
        return
    alias = router.db_for_write(ApiKey, instance=key)
    try:
        with _unharmed(alias):
            ApiKey.objects.using(alias).filter(
                Q(last_used_at=None) | Q(last_used_at__lt=minute), pk=key.pk
            ).update(last_used_at=minute)
    except DatabaseError as error:
        logger.warning("The use of API key %s is not noted: %s", key.pk, type(error).__name__)


def _claim(key_id: UUID, minute: datetime) -> bool:
    with _lock:
        before = _written.get(key_id)
        if before is not None and before >= minute:
            return False
        _written[key_id] = minute
        _written.move_to_end(key_id)
        if len(_written) > REMEMBERED:
            _written.popitem(last=False)
        return True


def _unharmed(alias: str) -> AbstractContextManager[Any]:
    """Keep a failure from spoiling the transaction around it, if there is one."""
    if connections[alias].in_atomic_block:
        return transaction.atomic(using=alias)
    return nullcontext()
