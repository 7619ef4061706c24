import logging
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apikeys import usage
from apikeys.models import ApiKey

from .factories import ApiKeyFactory
from .test_api_key import in_threads

NOON = datetime(2031, 5, 6, 12, 0, 30, 123456, tzinfo=UTC)


def updates(queries) -> list[str]:
    return [query["sql"] for query in queries if query["sql"].startswith("UPDATE")]


@pytest.mark.django_db
def test_a_thousand_requests_in_a_minute_are_one_update(key, bearer, settings) -> None:
    settings.API_KEYS_THROTTLE_RATE = None
    client = bearer(key.issued_token.plaintext)
    written, verified = 0, 0

    def count(execute, sql, *args):
        nonlocal written, verified
        written += sql.startswith("UPDATE")
        verified += "key_hash" in sql
        return execute(sql, *args)

    with time_machine.travel(NOON, tick=False), connection.execute_wrapper(count):
        for _ in range(1000):
            assert client.get(f"/api/v1/projects/{key.project_id}/").status_code == 200
    assert (written, verified) == (1, 1000)
    key.refresh_from_db()
    assert key.last_used_at == NOON.replace(second=0, microsecond=0)


@pytest.mark.django_db
def test_each_minute_is_noted(key) -> None:
    for minutes in range(3):
        with time_machine.travel(NOON + timedelta(minutes=minutes), tick=False):
            usage.record_use(ApiKey.objects.get())
        key.refresh_from_db()
        assert key.last_used_at == NOON.replace(minute=minutes, second=0, microsecond=0)


@pytest.mark.django_db
def test_other_processes_see_it_in_the_row(key) -> None:
    with time_machine.travel(NOON, tick=False):
        usage.record_use(ApiKey.objects.get())
        usage._written.clear()  # another process knows nothing of this one
        with CaptureQueriesContext(connection) as queries:
            usage.record_use(ApiKey.objects.get())
    assert not updates(queries)


@pytest.mark.django_db
def test_two_processes_at_once_change_it_once(key) -> None:
    with time_machine.travel(NOON, tick=False):
        early = ApiKey.objects.get()
        usage.record_use(ApiKey.objects.get())
        usage._written.clear()
        ApiKey.objects.update(name="changed meanwhile")
        usage.record_use(early)
    key.refresh_from_db()
    assert key.name == "changed meanwhile"
    assert key.last_used_at == NOON.replace(second=0, microsecond=0)


@pytest.mark.django_db
def test_time_only_goes_forward(key) -> None:
    late = NOON + timedelta(hours=1)
    early = ApiKey.objects.get()
    with time_machine.travel(late, tick=False):
        usage.record_use(ApiKey.objects.get())
    usage._written.clear()
    with time_machine.travel(NOON, tick=False):
        usage.record_use(early)
    key.refresh_from_db()
    assert key.last_used_at == late.replace(second=0, microsecond=0)


@pytest.mark.django_db
@pytest.mark.parametrize("failure", [DatabaseError("no"), DatabaseError("deadlock on pp_live_")])
def test_its_failure_never_fails_the_request(key, bearer, caplog, failure) -> None:
    def fail(execute, sql, *args):
        if sql.startswith("UPDATE"):
            raise failure
        return execute(sql, *args)

    client = bearer(key.issued_token.plaintext)
    with connection.execute_wrapper(fail), caplog.at_level(logging.WARNING, "apikeys.usage"):
        response = client.get(f"/api/v1/projects/{key.project_id}/")
    assert response.status_code == 200
    assert [record.getMessage() for record in caplog.records] == [
        f"The use of API key {key.pk} is not noted: DatabaseError"
    ]
    key.refresh_from_db()
    assert key.last_used_at is None


@pytest.mark.django_db
def test_its_failure_leaves_the_transaction_around_it_usable(key) -> None:
    def fail(execute, sql, *args):
        if sql.startswith("UPDATE"):
            sql = sql.replace("UPDATE", "UPDATE no_such_table_at_all", 1)
        return execute(sql, *args)

    with transaction.atomic():
        with connection.execute_wrapper(fail):
            usage.record_use(key)
        assert ApiKey.objects.count() == 1


@pytest.mark.django_db
def test_a_refused_key_is_not_used(key, bearer) -> None:
    ApiKey.objects.update(expires_at=timezone.now())
    assert bearer(key.issued_token.plaintext).get("/api/v1/projects/").status_code == 401
    key.refresh_from_db()
    assert key.last_used_at is None


@pytest.mark.django_db
def test_the_memory_is_bounded(project, monkeypatch) -> None:
    monkeypatch.setattr(usage, "REMEMBERED", 3)
    keys = [ApiKeyFactory(project=project) for _ in range(5)]
    for key in keys:
        usage.record_use(key)
    assert list(usage._written) == [key.pk for key in keys[2:]]


def test_threads_write_once(transactional_db) -> None:
    if connection.vendor == "sqlite" and connection.is_in_memory_db():
        pytest.skip("the threads would share one connection")
    key = ApiKeyFactory()
    statements: list[str] = []

    def use() -> None:
        fresh = ApiKey.objects.get(pk=key.pk)
        fresh.last_used_at = None  # as read before anybody wrote

        def note(execute, sql, *args):
            statements.append(sql)
            return execute(sql, *args)

        with connection.execute_wrapper(note):
            usage.record_use(fresh)

    with time_machine.travel(NOON, tick=False):
        assert in_threads(8, use) == [None] * 8
    assert len([sql for sql in statements if sql.startswith("UPDATE")]) == 1
