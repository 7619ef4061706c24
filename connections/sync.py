"""Using a connection: to test it, or to fetch and store what its service measured.

The rule for health: a success sets the score to 100 and the status to active. A failure takes 25
off, and the status becomes error at the third in a row, or at the first that only a person can
mend. A paused connection stays paused.
"""

import logging
import math
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice

from django.db import transaction
from django.utils import timezone

from connections.conf import get_settings
from connections.integrations.base import Integration, IntegrationError, Sample
from connections.models import Connection, CredentialEvent, Metric, Status
from connections.models.connection import FAILURE_COST, FAILURES_UNTIL_ERROR, FULL_HEALTH
from connections.models.event import WORKER, Action
from connections.models.metric import LONGEST_METRIC_ID
from encryption import DecryptionError

#: Each sync fetches what may still have changed since the last one: the day before it.
OVERLAP = timedelta(days=1)
#: Of one sync. They are held in memory until all of them are there: some 100 MB.
MOST_SAMPLES = 250_000

logger = logging.getLogger(__name__)


class BusyError(Exception):
    """Another worker syncs this connection at this moment or has just done so, or it is gone."""


@dataclass(frozen=True)
class Outcome:
    """How a test or sync went.

    Args:
        code: "ok", or one word that says what is wrong.
        detail: the same for people.
        stored: how many metric values were written.
        permanent: whether only a person can mend it.
    """

    code: str
    detail: str
    stored: int = 0
    permanent: bool = False

    @property
    def ok(self) -> bool:
        return self.code == "ok"


UNSUPPORTED = Outcome(
    "unsupported", "This installation does not know the service. Install what provides it."
)
UNDECRYPTABLE = Outcome(
    "undecryptable",
    "The stored credentials cannot be decrypted. Enter them again, or restore the master key.",
    permanent=True,
)


@dataclass(frozen=True)
class _Opened:
    integration: Integration
    credentials: dict[str, str]


def _open(connection: Connection) -> _Opened | Outcome:
    """Decrypt the credentials, once; or say why they cannot be used."""
    integration = connection.integration
    if integration is None:
        return UNSUPPORTED
    try:
        credentials = connection.usable_credentials()
    except DecryptionError:
        return UNDECRYPTABLE
    missing = integration.missing(credentials)
    if missing:
        detail = f"Credentials are missing: {', '.join(missing)}. Enter them."
        return Outcome("credentials_missing", detail, permanent=True)
    return _Opened(integration, credentials)


def check_connection(connection: Connection, actor: str) -> Outcome:
    """See whether the service takes the stored credentials; leaves a test event.

    Args:
        actor: see :meth:`CredentialEventQuerySet.record`.
    """
    opened = _open(connection)
    if isinstance(opened, Outcome):
        return opened
    CredentialEvent.objects.record(Action.TEST, connection, actor, opened.credentials)
    try:
        opened.integration.check(opened.credentials, connection.config)
    except IntegrationError as error:
        outcome = Outcome(error.code, str(error), permanent=error.permanent)
    except Exception as error:  # noqa: BLE001  # whatever a reply makes an integration raise
        outcome = _unexpected(connection, error)
    else:
        outcome = Outcome("ok", "The service takes the credentials.")
    logger.info("Tested connection %s (%s): %s", connection.pk, connection.service, outcome.code)
    return outcome


def sync_connection(
    connection_id: uuid.UUID, actor: str = WORKER, *, only_if_due: bool = False
) -> Outcome:
    """Fetch and store what a connection's service measured since the last sync.

    Args:
        actor: see :meth:`CredentialEventQuerySet.record`.
        only_if_due: leave it if it is not due any more, because another worker was faster.

    Raises:
        BusyError: another worker does that at this moment, or did it.
    """
    with _claimed(connection_id, only_if_due=only_if_due) as (connection, token):
        if connection.integration is None:
            return UNSUPPORTED
        now = timezone.now()
        outcome = _fetch_and_store(connection, token, now, actor)
        _note(connection, token, outcome, now)
        logger.info(
            "Synced connection %s (%s): %s, %d values",
            connection.pk,
            connection.service,
            outcome.code,
            outcome.stored,
        )
        return outcome


@contextmanager
def _claimed(
    connection_id: uuid.UUID, *, only_if_due: bool
) -> Iterator[tuple[Connection, uuid.UUID]]:
    now = timezone.now()
    candidates = Connection.objects.due(now) if only_if_due else Connection.objects.all()
    token = candidates.claim(connection_id, now)
    if token is None:
        raise BusyError
    held = Connection.objects.held(connection_id, token)
    try:
        yield held.get(), token
    finally:
        held.update(lease_until=None, lease_token=None)


def _fetch_and_store(
    connection: Connection, token: uuid.UUID, now: datetime, actor: str
) -> Outcome:
    opened = _open(connection)
    if isinstance(opened, Outcome):
        return opened
    CredentialEvent.objects.count_use(connection, actor, now)
    try:
        samples = _fetch(connection, opened, now)
    except IntegrationError as error:
        return Outcome(error.code, str(error), permanent=error.permanent)
    except Exception as error:  # noqa: BLE001  # whatever a reply makes an integration raise
        return _unexpected(connection, error)
    with transaction.atomic():
        # A worker that was taken for dead has lost its lease, and must not write any more.
        if not Connection.objects.select_for_update().held(connection.pk, token).exists():
            raise BusyError
        stored = Metric.objects.store(connection, samples)
    return Outcome("ok", "Synced.", stored=stored)


def _fetch(connection: Connection, opened: _Opened, now: datetime) -> list[Sample]:
    end = now.replace(second=0, microsecond=0)
    start = end - timedelta(days=get_settings().sync_history)
    if connection.last_synced_at is not None:
        start = max(start, connection.last_synced_at - OVERLAP)
    metric_ids = opened.integration.metric_ids(connection.config)
    samples = opened.integration.fetch_metrics(
        opened.credentials, connection.config, metric_ids, start, end
    )
    checked = [_checked(sample) for sample in islice(samples, MOST_SAMPLES + 1)]
    if len(checked) > MOST_SAMPLES:
        raise IntegrationError(
            f"The service has more than {MOST_SAMPLES} values. Ask for fewer of them.",
            "too_many_values",
            permanent=True,
        )
    return checked


def _checked(sample: Sample) -> Sample:
    """A sample that can be stored, whatever a service made an integration yield.

    Raises:
        ValueError: it cannot be.
    """
    value = float(sample.value)
    named = 0 < len(sample.metric_id) <= LONGEST_METRIC_ID and sample.metric_id.isprintable()
    if not named or not math.isfinite(value) or sample.at.utcoffset() is None:
        raise ValueError
    return replace(sample, value=value)


def _unexpected(connection: Connection, error: Exception) -> Outcome:
    """A reply that nobody documented. The error's text may quote it, so that is not told."""
    logger.error(
        "Connection %s (%s) failed with %s",
        connection.pk,
        connection.service,
        type(error).__name__,
    )
    return Outcome("unexpected_reply", "The service answered in a way that is not understood.")


def _note(connection: Connection, token: uuid.UUID, outcome: Outcome, now: datetime) -> None:
    """Write the outcome into the row, unless the lease was lost; what a user saves stays."""
    held = Connection.objects.held(connection.pk, token)
    if outcome.ok:
        held.update(
            failures=0,
            health_score=FULL_HEALTH,
            last_error="",
            last_synced_at=now,
            last_tried_at=now,
        )
        held.exclude(status=Status.PAUSED).update(status=Status.ACTIVE)
        names = connection.names_set()
        if names != connection.credential_names:
            # The service was not known when they were written. Not over what a user saved since.
            held.filter(updated_at=connection.updated_at).update(credential_names=names)
        return
    failures = connection.failures + 1
    held.update(
        failures=failures,
        health_score=max(0, FULL_HEALTH - FAILURE_COST * failures),
        last_error=outcome.code,
        last_tried_at=now,
    )
    if outcome.permanent or failures >= FAILURES_UNTIL_ERROR:
        held.exclude(status=Status.PAUSED).update(status=Status.ERROR)
