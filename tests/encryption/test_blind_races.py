"""Writers under two keys at once: no value of a unique index is ever there twice."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from encryption import locks, uniqueness
from tests.encryption.conftest import OTHER_KEY
from tests.encryption.matching import expect_indexes
from tests.encryption.test_rotation_crashes import NEW, OLD, environment
from tests.fieldapp.factories import TenantFactory
from tests.fieldapp.models import Once, Tenant
from tests.processes import start

__all__ = ["environment"]

#: At least, and longer if nothing much was written in them.
SECONDS = 4
#: Of each of the two sides of a rotation.
WRITERS = 2


def test_concurrent_writers_under_two_keys(
    environment: dict[str, str],
    settings: Settings,
) -> None:
    tenant = TenantFactory()
    sides = [
        {"MASTER_ENCRYPTION_KEY": OLD, "OLD_MASTER_KEY": NEW},
        {"MASTER_ENCRYPTION_KEY": NEW, "OLD_MASTER_KEY": OLD},
    ] * WRITERS
    writers = [
        start(
            {**environment, **keys},
            *("-m", "tests.encryption.racing", str(seed), str(tenant.pk), str(SECONDS)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for seed, keys in enumerate(sides)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    connection.close()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    counts = [writer.communicate(timeout=180)[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * len(writers)
    # They wrote something, and met values that were there. SQLite's one writer is not the next.
    each = [int(written) for written, _ in counts]
    assert sum(each) > 20, counts
    assert connection.vendor == "sqlite" or min(each) > 5, counts
    assert sum(int(refused) for _, refused in counts) > 10, counts

    settings.ENCRYPTION = {"MASTER_KEY": NEW, "MASTER_KEY_FALLBACKS": [OLD]}
    secrets = [row.secret for row in Once.objects.filter(tenant=tenant)]
    assert len(secrets) == len(set(secrets))
    expect_indexes(Once)


# -- locks and rows -------------------------------------------------------------------------------

waits = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer")


@pytest.fixture
def tenant(settings: Settings, transactional_db: None) -> Tenant:
    """While two keys are live."""
    primary = os.environ["MASTER_ENCRYPTION_KEY"]
    settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY, "MASTER_KEY_FALLBACKS": [primary]}
    made: Tenant = TenantFactory()
    return made


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The names of the locks that are taken, of each call."""
    calls: list[set[str]] = []
    original = uniqueness.lock

    def lock(connection: Any, model: Any, names: Iterable[str]) -> bool:
        names = set(names)
        result = original(connection, model, names)
        calls.append(names)
        return result

    monkeypatch.setattr(uniqueness, "lock", lock)
    return calls


def at_once(*works: Callable[[], object]) -> list["Future[object]"]:
    """Do each of these in a thread with a connection of its own."""

    def run(work: Callable[[], object]) -> object:
        try:
            return work()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(works)) as pool:
        return [pool.submit(run, work) for work in works]


@waits
def test_a_deadlock_of_a_row_and_a_lock_ends(
    tenant: Tenant, taken: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 1)
    pk = Once.objects.create(tenant=tenant, secret="s", label="l").pk
    has_row, has_lock = threading.Event(), threading.Event()
    original = uniqueness.lock

    def lock(*args: Any) -> bool:
        result = original(*args)
        has_lock.set()
        return result

    def row_first() -> None:
        with transaction.atomic():
            row = Once.objects.select_for_update().get(pk=pk)
            has_row.set()
            assert has_lock.wait(30)
            row.label = "A"
            row.save()

    def lock_first() -> None:
        row = Once.objects.get(pk=pk)
        assert has_row.wait(30)
        row.label = "B"
        row.save()

    monkeypatch.setattr(uniqueness, "lock", lock)
    works = {"A": row_first, "B": lock_first}
    futures = dict(zip(works, at_once(*works.values()), strict=True))
    failed = [name for name, future in futures.items() if future.exception() is not None]
    assert len(failed) == 1  # the database, or the patience, ended one, and let the other through
    assert isinstance(futures[failed[0]].exception(), OperationalError)
    assert {Once.objects.get().label, *failed} == {"A", "B"}
    at_once(works[failed[0]])[0].result()  # tried again
    assert Once.objects.get().label == failed[0]


@pytest.mark.skipif(connection.vendor != "mysql", reason="GET_LOCK alone waits by the clock")
@pytest.mark.django_db
def test_the_lock_gives_up_before_rows_do() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@innodb_lock_wait_timeout")
        assert cursor.fetchone()[0] > locks._PATIENCE


def made_by_manager(tenant: Tenant) -> Callable[..., object]:
    return partial(Once.objects.update_or_create, tenant=tenant, label="l")


def made_by_id(tenant: Tenant) -> Callable[..., object]:
    return partial(Once.objects.update_or_create, tenant_id=str(tenant.pk), label="l")


def made_by_relation(tenant: Tenant) -> Callable[..., object]:
    return partial(tenant.once_set.update_or_create, label="l")  # type: ignore[attr-defined]


@waits
@pytest.mark.parametrize("made_by", [made_by_manager, made_by_id, made_by_relation])
def test_update_or_create_takes_the_lock_before_the_row(
    tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
    made_by: Callable[[Tenant], Callable[..., object]],
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 5)
    pk = Once.objects.create(tenant=tenant, secret="s", label="l").pk
    has_row, has_lock = threading.Event(), threading.Event()
    original = uniqueness.lock

    def lock(*args: Any) -> bool:
        result = original(*args)
        if has_row.is_set():
            has_lock.set()
        return result

    def secret() -> str:  # asked for while the row is locked
        has_row.set()
        has_lock.wait(1)  # nobody gets the lock meanwhile; or the two would wait for each other
        return "t"

    def save() -> None:
        row = Once.objects.get(pk=pk)
        assert has_row.wait(30)
        row.is_active = False
        row.save(update_fields=["is_active"])

    monkeypatch.setattr(uniqueness, "lock", lock)
    for future in at_once(lambda: made_by(tenant)(defaults={"secret": secret}), save):
        future.result()
    row = Once.objects.get()
    assert (row.secret, row.is_active) == ("t", False)
    expect_indexes(Once)


def test_update_or_create_takes_the_locks_of_all_tenants_it_names(
    tenant: Tenant, taken: list[set[str]]
) -> None:
    other, third = TenantFactory(), TenantFactory()
    Once.objects.update_or_create(
        label="l",
        tenant=third,
        defaults={"tenant": other, "secret": "s"},
        create_defaults={"tenant": tenant, "secret": "s"},
    )
    named = taken[0]
    assert Once.objects.get().tenant == tenant
    taken.clear()
    for one in (tenant, other):
        Once.objects.create(tenant=one, secret="u", code=str(one.pk))
    assert set[str]().union(*taken) <= named
    taken.clear()
    Once.objects.update_or_create(label="l", defaults={"tenant_id": other.pk})
    assert all(names <= taken[0] for names in taken)


def test_update_or_create_that_names_no_tenant(tenant: Tenant) -> None:
    pk = Once.objects.create(tenant=tenant, secret="s").pk
    for named in ({"pk": pk}, {"tenant__name": tenant.name}, {"tenant__in": [tenant]}):
        row, created = Once.objects.update_or_create(**named, defaults={"secret": "t"})
        assert (row.pk, row.secret, created) == (pk, "t", False)
    row, created = Once.objects.update_or_create(pk=pk, defaults={"tenant": lambda: tenant})
    assert not created
    row, created = Once.objects.update_or_create(
        label="l", defaults={"secret": "u", "tenant": lambda: tenant}
    )
    assert created
    expect_indexes(Once)


def test_all_locks_of_a_write_are_taken_at_once(tenant: Tenant, taken: list[set[str]]) -> None:
    row = Once(tenant=tenant, secret="s", code="c")
    for write in (
        row.save,  # an INSERT
        row.save,
        lambda: Once.objects.bulk_create([Once(tenant=tenant, secret="t", code="d")]),
        lambda: Once.objects.bulk_update([row], ["secret", "code"]),
        lambda: Once.objects.update_or_create(tenant=tenant, label="", secret="s", code="c"),
    ):
        write()
        assert len(taken[0]) == 2  # of the secret and of the code
        assert all(names <= taken[0] for names in taken)
        taken.clear()


TENANTS = 2_000


@pytest.mark.skipif(connection.vendor != "postgresql", reason="pg_locks")
def test_many_tenants_take_a_few_locks(tenant: Tenant) -> None:
    tenants = Tenant.objects.bulk_create(Tenant(name=f"t{n}") for n in range(TENANTS))
    with transaction.atomic():
        with CaptureQueriesContext(connection) as queries:
            Once.objects.bulk_create([Once(tenant=one, secret="s") for one in tenants])
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                " AND pid = pg_backend_pid()"
            )
            assert 0 < cursor.fetchone()[0] <= uniqueness.BUCKETS
    assert sum("pg_advisory" in query["sql"] for query in queries) <= 4
    assert Once.objects.count() == TENANTS


@waits
def test_no_two_transactions_that_write_many_tenants_deadlock(tenant: Tenant) -> None:
    tenants = [tenant, *Tenant.objects.bulk_create(Tenant(name=f"t{n}") for n in range(99))]
    together = threading.Barrier(3)

    def write(order: list[Tenant], secret: str) -> None:
        for number in range(5):
            together.wait(30)
            rows = [Once(tenant=one, secret=f"{secret}{number}") for one in order]
            Once.objects.bulk_create(rows)

    orders = [tenants, tenants[::-1], tenants[50:] + tenants[:50]]
    works = [partial(write, order, f"s{n}") for n, order in enumerate(orders)]
    for future in at_once(*works):
        future.result()
    assert Once.objects.count() == 3 * 5 * len(tenants)
