"""The Celery face of the rotation: one task rotates one range. Needs the ``celery`` extra.

What goes to the broker is the id of a part's record. Nothing of a row, and no key.
"""

from celery import shared_task
from django.db import OperationalError

from encryption.ranges import execute_part


@shared_task(  # type: ignore[untyped-decorator]
    name="encryption.rotate_range",
    # A task is over when its range is, not when a worker takes it: a lost worker costs a retry.
    acks_late=True,
    reject_on_worker_lost=True,
    ignore_result=True,
    autoretry_for=(OperationalError,),
    retry_backoff=True,
    max_retries=10,
)
def rotate_range(part_id: int) -> None:
    """Rotate one range of primary keys. Running it twice does no harm."""
    execute_part(part_id)
