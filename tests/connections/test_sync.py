import logging
import threading
import uuid
from datetime import timedelta

import pytest
from celery import current_app
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection as database, connections as databases
from django.utils import timezone

from connections import sync, tasks
from connections.conf import get_settings
from connections.integrations.base import IntegrationError, Sample
from connections.integrations.stripe import Stripe
from connections.models import Connection, CredentialEvent, Metric, Status
from connections.models.event import Action
from tests.connections.factories import CANARY, ConnectionFactory, poison

pytestmark = pytest.mark.django_db


class Service:
    """What Stripe answers in these tests, without the network."""

    def __init__(self, monkeypatch):
        self.calls = []
        self.samples = []
        self.error = None
        self.meanwhile = None
        monkeypatch.setattr(Stripe, "fetch_metrics", self.fetch)
        monkeypatch.setattr(Stripe, "check", self.check)

    def fetch(self, credentials, config, metric_ids, start, end):
        self.calls.append((credentials, start, end))
        if self.meanwhile is not None:
            self.meanwhile()
        yield from self.samples
        if self.error is not None:
            raise self.error

    def check(self, credentials, config):
        self.calls.append(credentials)
        if self.error is not None:
            raise self.error


@pytest.fixture
def service(monkeypatch):
    return Service(monkeypatch)


NOW = timezone.now().replace(microsecond=0)
SAMPLES = [Sample("charges", NOW - timedelta(days=day), float(day)) for day in range(3)]


def values():
    return sorted(Metric.objects.values_list("metric_id", "at", "value"))


def test_what_is_fetched_is_stored(service):
    connection = ConnectionFactory(status=Status.ERROR, failures=2, health_score=50)
    service.samples = SAMPLES
    outcome = sync.sync_connection(connection.pk)
    assert (outcome.code, outcome.stored) == ("ok", 3)
    assert values() == sorted((one.metric_id, one.at, one.value) for one in SAMPLES)
    stored = Connection.objects.get()
    assert (stored.status, stored.failures, stored.health_score) == (Status.ACTIVE, 0, 100)
    assert stored.last_synced_at == stored.last_tried_at is not None
    assert (stored.lease_until, stored.lease_token, stored.last_error) == (None, None, "")
    ((credentials, start, end),) = service.calls
    assert credentials == {"api_key": f"rk_live_{CANARY}"}
    assert end - start == timedelta(days=30)


def test_a_second_sync_writes_over_the_same_moments(service):
    connection = ConnectionFactory()
    service.samples = SAMPLES
    sync.sync_connection(connection.pk)
    service.samples = [Sample("charges", NOW, 9.0), Sample("charges", NOW, 10.0)]
    assert sync.sync_connection(connection.pk).stored == 1
    assert len(values()) == 3
    assert ("charges", NOW, 10.0) in values()
    (_, (_, start, end)) = service.calls
    assert abs(end - start - timedelta(days=1)) < timedelta(minutes=2)


def test_failures_lower_the_health_and_a_success_restores_it(service):
    connection = ConnectionFactory()
    service.error = IntegrationError("It is down.", "service_failing")
    seen = []
    for _ in range(6):
        assert sync.sync_connection(connection.pk).code == "service_failing"
        stored = Connection.objects.get()
        seen.append((stored.health_score, stored.status))
    assert seen == [
        (75, "active"), (50, "active"), (25, "error"), (0, "error"), (0, "error"), (0, "error"),
    ]  # fmt: skip
    assert stored.last_error == "service_failing"
    assert stored.last_synced_at is None
    service.error = None
    sync.sync_connection(connection.pk)
    stored = Connection.objects.get()
    assert (stored.health_score, stored.status, stored.last_error) == (100, "active", "")


def test_what_only_a_person_can_mend_is_an_error_at_once(service):
    connection = ConnectionFactory()
    service.error = IntegrationError("Refused.", "credentials_refused", permanent=True)
    sync.sync_connection(connection.pk)
    assert Connection.objects.get().status == Status.ERROR


def test_a_paused_connection_stays_paused(service):
    connection = ConnectionFactory(status=Status.PAUSED)
    sync.sync_connection(connection.pk)
    assert Connection.objects.get().status == Status.PAUSED
    service.error = IntegrationError("Refused.", "credentials_refused", permanent=True)
    sync.sync_connection(connection.pk)
    assert Connection.objects.get().status == Status.PAUSED


def test_what_was_fetched_before_a_failure_is_not_stored(service):
    connection = ConnectionFactory()
    service.samples, service.error = SAMPLES, IntegrationError("It broke.", "unreachable")
    sync.sync_connection(connection.pk)
    assert values() == []


@pytest.mark.parametrize("error", [KeyError(CANARY), ValueError(CANARY), RecursionError(CANARY)])
def test_a_reply_that_nobody_foresaw_is_a_failure_that_tells_nothing(service, caplog, error):
    connection = ConnectionFactory()
    service.error = error
    with caplog.at_level(logging.DEBUG):
        assert sync.sync_connection(connection.pk).code == "unexpected_reply"
        assert sync.check_connection(connection, "user:1").code == "unexpected_reply"
    assert str(connection.pk) in caplog.text
    assert CANARY not in caplog.text
    assert Connection.objects.get().lease_until is None


UNSTORABLE = {
    "long id": Sample("x" * 201, NOW, 1.0),
    "empty id": Sample("", NOW, 1.0),
    "NUL": Sample("with\0nul", NOW, 1.0),
    "line break": Sample("with\nbreak", NOW, 1.0),
    "lone surrogate": Sample("lone\ud800", NOW, 1.0),
    "id that is a number": Sample(5, NOW, 1.0),
    "NaN": Sample("charges", NOW, float("nan")),
    "infinity": Sample("charges", NOW, float("inf")),
    "huge": Sample("charges", NOW, 10**400),
    "text": Sample("charges", NOW, CANARY),
    "nothing": Sample("charges", NOW, None),
    "naive time": Sample("charges", NOW.replace(tzinfo=None), 1.0),
    "time as a text": Sample("charges", "2026-01-01", 1.0),
}


@pytest.mark.parametrize("sample", UNSTORABLE)
def test_what_cannot_be_stored_is_a_failure_of_the_service(service, caplog, sample):
    connection = ConnectionFactory()
    service.samples = [*SAMPLES, UNSTORABLE[sample]]
    assert sync.sync_connection(connection.pk).code == "unexpected_reply"
    assert values() == []
    stored = Connection.objects.get()
    assert (stored.last_error, stored.health_score) == ("unexpected_reply", 75)
    assert stored.lease_until is None
    assert CANARY not in caplog.text


def test_the_values_of_one_sync_have_an_end(service, monkeypatch):
    monkeypatch.setattr(sync, "MOST_SAMPLES", 3)
    connection = ConnectionFactory()
    service.samples = SAMPLES
    assert sync.sync_connection(connection.pk).ok
    service.samples = (Sample("charges", NOW, 1.0) for _ in iter(int, 1))  # without end
    assert sync.sync_connection(connection.pk).code == "too_many_values"


def test_unreadable_credentials(service):
    connection = ConnectionFactory()
    poison(connection)
    assert sync.sync_connection(connection.pk).code == "undecryptable"
    stored = Connection.objects.get()
    assert (stored.status, stored.health_score, stored.last_error) == ("error", 75, "undecryptable")
    assert service.calls == []
    assert not CredentialEvent.objects.exists()


def test_missing_credentials(service):
    connection = ConnectionFactory(credentials={})
    assert sync.sync_connection(connection.pk).code == "credentials_missing"
    assert service.calls == []


def test_an_unknown_service_is_left_as_it_is():
    connection = ConnectionFactory(service="fax", credentials={"pin": CANARY})
    assert sync.sync_connection(connection.pk).code == "unsupported"
    stored = Connection.objects.get()
    assert (stored.status, stored.health_score, stored.last_tried_at) == ("active", 100, None)
    assert stored.credentials == {"pin": CANARY}


def test_the_names_of_credentials_are_noted_once_the_service_is_known(service):
    connection = ConnectionFactory(credentials={"apiKey": CANARY})
    Connection.objects.update(credential_names=[])
    sync.sync_connection(connection.pk)
    assert Connection.objects.get().credential_fields() == {"api_key": {"set": True}}
    assert Connection.objects.get().credentials == {"apiKey": CANARY}


# -- one worker at a time ---------------------------------------------------------------------


def test_a_connection_that_is_being_synced_is_busy(service):
    connection = ConnectionFactory()

    def meanwhile():
        with pytest.raises(sync.BusyError):
            sync.sync_connection(connection.pk)

    service.meanwhile = meanwhile
    assert sync.sync_connection(connection.pk).ok
    assert len(service.calls) == 1


def test_a_connection_that_is_gone_is_busy():
    with pytest.raises(sync.BusyError):
        sync.sync_connection(uuid.uuid4())


def test_a_connection_that_is_deleted_meanwhile(service):
    connection = ConnectionFactory()
    service.samples = SAMPLES
    service.meanwhile = lambda: Connection.objects.all().delete()
    with pytest.raises(sync.BusyError):
        sync.sync_connection(connection.pk)
    assert values() == []


def test_a_worker_that_was_taken_for_dead_writes_nothing(service):
    connection = ConnectionFactory()
    service.samples = [Sample("charges", NOW, 1.0)]
    taken = []

    def meanwhile():
        Connection.objects.update(lease_until=timezone.now())
        taken.append(Connection.objects.claim(connection.pk, timezone.now()))

    service.meanwhile = meanwhile
    with pytest.raises(sync.BusyError):
        sync.sync_connection(connection.pk)
    stored = Connection.objects.get()
    assert stored.lease_token == taken[0] is not None
    assert stored.last_synced_at is None
    assert values() == []


def test_what_a_user_saves_during_a_sync_stays(service):
    connection = ConnectionFactory()

    def meanwhile():
        other = Connection.objects.get()
        other.name = "New"
        other.change_credentials({"api_key": "rk_new"})
        other.save()

    service.meanwhile = meanwhile
    sync.sync_connection(connection.pk)
    stored = Connection.objects.get()
    assert (stored.name, stored.credentials) == ("New", {"api_key": "rk_new"})
    assert stored.last_synced_at is not None


class Killed(BaseException):
    """The process ends here: nothing of it runs any more, no `finally` either."""


@pytest.mark.django_db(transaction=True)
def test_a_worker_killed_at_any_point_leaves_nothing_behind(service):
    """Kill it at its first query, at its second, and so on, until it comes through."""
    service.samples = SAMPLES
    connection = ConnectionFactory()
    points = 0
    while True:
        count = 0

        def killed(execute, *args, at=points):
            nonlocal count
            count += 1
            if count > at:
                raise Killed
            return execute(*args)

        try:
            with database.execute_wrapper(killed):
                sync.sync_connection(connection.pk)
        except Killed:
            points += 1
        else:
            break
        # The database of a killed process rolls back what it had not committed.
        later = timezone.now() + get_settings().lease + timedelta(seconds=1)
        token = Connection.objects.claim(connection.pk, later)
        assert token is not None
        Connection.objects.held(connection.pk, token).update(lease_until=None, lease_token=None)
        moments = list(Metric.objects.values_list("metric_id", "at"))
        assert len(moments) == len(set(moments))
        assert len(moments) in {0, 3}
    assert points >= 6
    assert len(values()) == 3
    assert Connection.objects.get().lease_until is None


def test_a_lease_that_is_not_over_is_respected():
    connection = ConnectionFactory()
    now = timezone.now()
    assert Connection.objects.claim(connection.pk, now)
    early = now + get_settings().lease - timedelta(seconds=1)
    assert Connection.objects.claim(connection.pk, early) is None
    with pytest.raises(sync.BusyError):
        sync.sync_connection(connection.pk)


@pytest.mark.django_db(transaction=True)
def test_of_many_workers_one_gets_the_connection():
    if database.vendor == "sqlite" and database.is_in_memory_db():
        pytest.skip("threads share one connection to a database in memory")
    connection = ConnectionFactory()
    start = threading.Barrier(8)
    tokens = []

    def work():
        start.wait()
        tokens.append(Connection.objects.claim(connection.pk, timezone.now()))
        databases.close_all()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([token for token in tokens if token]) == 1


# -- the record of uses -----------------------------------------------------------------------


def test_uses_are_counted_per_hour(service):
    connection = ConnectionFactory()
    for _ in range(3):
        sync.sync_connection(connection.pk)
    sync.sync_connection(connection.pk, "user:7")
    CredentialEvent.objects.count_use(connection, "worker", timezone.now() + timedelta(hours=1))
    uses = CredentialEvent.objects.filter(action=Action.USE)
    counted = sorted(uses.values_list("actor", "count"))
    assert counted[-1][0] == "worker"
    assert sum(count for _, count in counted) == 5
    assert len(counted) in {3, 4}  # 4 if the hour ended meanwhile
    assert uses.first().names == ["api_key"]


def test_a_test_leaves_an_event(service):
    connection = ConnectionFactory()
    assert sync.check_connection(connection, "user:7").ok
    event = CredentialEvent.objects.get()
    assert (event.action, event.actor, event.names) == ("test", "user:7", ["api_key"])


def test_the_record_outlives_the_project(service):
    connection = ConnectionFactory()
    sync.check_connection(connection, "user:7")
    connection.project.delete()
    for event in CredentialEvent.objects.all():
        assert (event.connection, event.project_id) == (None, connection.project_id)
        assert event.connection_ref == connection.pk
    assert {event.action for event in CredentialEvent.objects.all()} == {"test", "delete"}


# -- the command ------------------------------------------------------------------------------


def test_the_command_syncs_what_is_due(service, capsys):
    due = ConnectionFactory(name="due")
    recent = ConnectionFactory(name="recent", last_tried_at=timezone.now())
    paused = ConnectionFactory(name="paused", status=Status.PAUSED)
    held = ConnectionFactory(name="held", lease_until=timezone.now() + timedelta(minutes=1))
    call_command("sync_connections")
    tried = {one.name for one in Connection.objects.exclude(last_synced_at=None)}
    assert tried == {due.name}
    assert capsys.readouterr().out.endswith("1 ok, 0 failed, 0 busy\n")
    call_command("sync_connections", "--all")
    tried = {one.name for one in Connection.objects.exclude(last_synced_at=None)}
    assert tried == {due.name, recent.name}
    assert capsys.readouterr().out.endswith("2 ok, 0 failed, 1 busy\n")
    call_command("sync_connections", str(paused.pk))
    assert Connection.objects.get(pk=paused.pk).last_synced_at
    assert Connection.objects.get(pk=held.pk).last_synced_at is None


def test_one_failure_does_not_stop_the_command(service, capsys):
    bad = ConnectionFactory()
    poison(bad)
    good = ConnectionFactory()
    with pytest.raises(CommandError):
        call_command("sync_connections")
    assert "1 ok, 1 failed, 0 busy" in capsys.readouterr().out
    assert Connection.objects.get(pk=good.pk).last_synced_at


# -- the tasks --------------------------------------------------------------------------------


def test_the_tasks(service, monkeypatch):
    due, _ = ConnectionFactory(), ConnectionFactory(last_tried_at=timezone.now())
    sent = []
    monkeypatch.setattr(tasks.sync, "delay", lambda *args: sent.append(args))
    assert tasks.sync_due() == 1
    assert sent == [(str(due.pk),)]
    tasks.sync(*sent[0])
    assert Connection.objects.get(pk=due.pk).last_synced_at
    tasks.sync(*sent[0])  # sent a second time, while the first one still waited
    assert len(service.calls) == 1
    Connection.objects.update(last_tried_at=None)
    Connection.objects.claim(due.pk, timezone.now())
    tasks.sync(*sent[0])
    assert len(service.calls) == 1
    assert {"connections.sync", "connections.sync_due"} <= set(current_app.tasks)
