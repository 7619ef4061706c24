"""Unique blind indexes where a transaction sees only what was there when it began.

Another connection commits the same value under the other key after that. Whatever the isolation
level, the value is there once afterwards.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import (
    DatabaseError,
    IntegrityError,
    NotSupportedError,
    connection,
    models,
    transaction,
)
from django.test import override_settings
from django.test.utils import isolate_apps
from pytest_django import Settings

from encryption.fields import BlindIndexField, EncryptedTextField
from tests.encryption.conftest import OTHER_KEY
from tests.encryption.database import refused, tables
from tests.encryption.matching import expect_indexes
from tests.encryption.test_blind_uniqueness import MARK, WRITES
from tests.fieldapp.factories import TenantFactory
from tests.fieldapp.models import Once, Tenant

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer"),
]

LEVELS = ["READ COMMITTED", "REPEATABLE READ"]
if connection.vendor == "postgresql":  # in MariaDB the other one waits
    LEVELS.append("SERIALIZABLE")

#: Not with a row that another connection has just made.
MADE = [one for one in WRITES if one.__name__ != "by_bulk_update_beside_it"]

Write = Callable[[Any, Tenant], None]


@pytest.fixture
def tenants(settings: Settings) -> tuple[Tenant, Tenant]:
    """This process is under the new key."""
    primary = os.environ["MASTER_ENCRYPTION_KEY"]
    settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY, "MASTER_KEY_FALLBACKS": [primary]}
    return TenantFactory(), TenantFactory()


def elsewhere(work: Callable[[], object]) -> None:
    """Do something in a connection of its own, where the old key is still the first."""

    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    primary = os.environ["MASTER_ENCRYPTION_KEY"]
    keys = {"MASTER_KEY": primary, "MASTER_KEY_FALLBACKS": [OTHER_KEY]}
    with override_settings(ENCRYPTION=keys), ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()


@contextmanager
def transaction_at(level: str) -> Iterator[None]:
    """A transaction that has looked at the table already."""
    session = "SESSION CHARACTERISTICS AS" if connection.vendor == "postgresql" else "SESSION"
    with connection.cursor() as cursor:
        cursor.execute(f"SET {session} TRANSACTION ISOLATION LEVEL {level}")
    try:
        with transaction.atomic():
            assert not Once.objects.exists()
            yield
    finally:
        connection.close()  # the next one is at the level of the settings


def make(tenant: Tenant, **changes: Any) -> Once:
    values = {"tenant": tenant, "secret": MARK, "label": "l", "code": "CODE", **changes}
    return Once.objects.create(**values)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("write", MADE, ids=[one.__name__ for one in MADE])
def test_what_was_committed_meanwhile_is_no_duplicate(
    tenants: tuple[Tenant, Tenant], level: str, write: Write
) -> None:
    tenant, other = tenants

    def both() -> None:
        with transaction_at(level):
            elsewhere(lambda: make(tenant))
            write(Once(tenant=tenant), other)

    with pytest.raises(DatabaseError) as caught:
        both()
    assert MARK not in str(caught.value)
    if isinstance(caught.value, NotSupportedError):
        assert write.__name__ == "by_plain_bulk_create"
        assert "READ COMMITTED" in str(caught.value)
    else:
        assert isinstance(caught.value, IntegrityError)
        assert "another master key" in str(caught.value)
    assert Once.objects.get().secret == MARK
    expect_indexes(Once)


@pytest.mark.parametrize("level", LEVELS)
def test_other_values_are_written_as_ever(tenants: tuple[Tenant, Tenant], level: str) -> None:
    tenant, other = tenants
    with transaction_at(level):
        elsewhere(lambda: make(tenant))
        row = make(other, label="m", secret=MARK)
        row.secret = "changed"
        row.save()
        row.label = "n"
        row.save(update_fields=["label"])
        made = Once.objects.bulk_create([Once(tenant=tenant, secret=f"s{n}") for n in range(3)])
        made[0].secret = "t"
        Once.objects.bulk_update(made, ["secret"])
        make(tenant, secret=None, code=None)
    assert Once.objects.count() == 6
    assert sorted(row.secret or "" for row in Once.objects.filter(tenant=tenant)) == [
        *("", MARK, "s1", "s2", "t")
    ]
    expect_indexes(Once)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="others show what is there now")
@pytest.mark.parametrize("level", LEVELS[1:])
def test_rows_that_cannot_be_told_afterwards_are_refused(
    tenants: tuple[Tenant, Tenant], level: str
) -> None:
    tenant, _ = tenants
    with transaction_at(level), refused(NotSupportedError, "READ COMMITTED"):
        Once.objects.bulk_create([Once(tenant=tenant, secret="x")], ignore_conflicts=True)
    assert not Once.objects.exists()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="no constraint of others waits")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.usefixtures("tenants")
def test_a_constraint_that_is_looked_at_later(level: str) -> None:
    with isolate_apps("tests.fieldapp"):

        class Late(models.Model):
            realm = models.CharField(max_length=10)
            secret = EncryptedTextField(salt_field="realm")
            secret_index = BlindIndexField("secret")

            class Meta:
                app_label = "fieldapp"
                constraints = [
                    models.UniqueConstraint(
                        fields=["secret_index"],
                        name="fieldapp_late_secret",
                        deferrable=models.Deferrable.DEFERRED,
                    )
                ]

    def both() -> None:
        with transaction_at(level):
            elsewhere(lambda: Late.objects.create(realm="r", secret=MARK))
            Late.objects.create(realm="other", secret=MARK)
            Late.objects.create(realm="r", secret=MARK)

    with tables(Late):
        with pytest.raises(IntegrityError, match="another master key"):
            both()
        assert Late.objects.count() == 1


@pytest.mark.skipif(connection.vendor != "postgresql", reason="others show what is there now")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.usefixtures("tenants")
def test_a_composite_primary_key(level: str) -> None:
    with isolate_apps("tests.fieldapp"):

        class Numbered(models.Model):
            pk = models.CompositePrimaryKey("realm", "number")
            realm = models.CharField(max_length=10)
            number = models.IntegerField()
            secret = EncryptedTextField(salt_field="realm")
            secret_index = BlindIndexField("secret", unique=True)

            class Meta:
                app_label = "fieldapp"

    def both() -> None:
        with transaction_at(level):
            elsewhere(lambda: Numbered.objects.create(realm="r", number=1, secret=MARK))
            Numbered.objects.create(realm="r", number=2, secret="else")
            Numbered.objects.create(realm="r", number=3, secret=MARK)

    with tables(Numbered):
        with pytest.raises(IntegrityError, match="another master key"):
            both()
        assert Numbered.objects.count() == 1
