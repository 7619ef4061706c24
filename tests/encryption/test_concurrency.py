"""Threads that read and write secrets of many tenants while the keyring changes under them.

STRESS multiplies how much each thread does.
"""

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection
from pytest_django import Settings

from encryption.conf import get_keyring
from encryption.registry import EncryptedColumn
from encryption.rotation import Rotation
from tests.fieldapp.models import Note, Tenant, UuidTenant, Vault

STRESS = int(os.environ.get("STRESS", "1"))
THREADS, TENANTS = 32, 200
OLD = "the old master key, at least 32 characters long"
NEW = "the new master key, at least 32 characters long"

#: The steps of docs/rotating-keys.md, as each process goes through them.
STEPS: Sequence[dict[str, Any]] = (
    {"MASTER_KEY": OLD},
    {"MASTER_KEY": OLD, "MASTER_KEY_FALLBACKS": [NEW]},
    {"MASTER_KEY": NEW, "MASTER_KEY_FALLBACKS": [OLD]},
)


class Worker(threading.Thread):
    """Writes its own rows, reads everybody's, and remembers the first thing that was wrong.

    Args:
        rows: model and primary key of every row; this worker writes each ``THREADS``-th.
        tenants: ids of tenants that a ``Note`` and a ``Vault`` may move to.
    """

    def __init__(
        self,
        number: int,
        rows: Sequence[tuple[type[Any], Any]],
        tenants: dict[type[Any], list[Any]],
        stop: threading.Event,
    ) -> None:
        super().__init__(name=f"worker {number}")
        self.rows = rows
        self.mine = rows[number::THREADS]
        self.tenants = tenants
        self.stop = stop
        self.chance = random.Random(number)
        #: The last secret that was saved to each of its rows.
        self.saved: dict[Any, str] = {}
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        try:
            while not self.stop.is_set() and not self.wrong:
                self.step()
        except Exception as error:  # noqa: BLE001  # whatever it is, the test shows it
            self.wrong.append(f"{type(error).__name__}: {error}")
        finally:
            connection.close()

    def step(self) -> None:
        kind = self.chance.choice(["read", "read", "list", "save", "save", "part", "move", "bulk"])
        if kind in ("read", "list"):
            self.read(kind)
        else:
            self.write(kind)
        self.done[kind] += 1

    def read(self, kind: str) -> None:
        model, pk = self.chance.choice(self.rows)
        found = model._base_manager
        rows = [found.get(pk=pk)] if kind == "read" else found.filter(pk__gte=pk)[:20]
        for row in rows:
            self.check(row)

    def check(self, row: Any) -> None:
        """A value names the row that it was written to."""
        if not row.secret.startswith(f"{row.pk}/") or row.data["row"] != str(row.pk):
            self.wrong.append(f"{row} holds the secret of another")

    def write(self, kind: str) -> None:
        model, pk = self.chance.choice(self.mine)
        row = model._base_manager.get(pk=pk)
        if row.secret != self.saved.get(pk, row.secret):
            self.wrong.append(f"{row} lost what was saved")
        if kind == "move":
            row.tenant_id = self.chance.choice(self.tenants[model])
            row.save(update_fields=["tenant"])
            return
        row.secret = f"{pk}/{self.chance.random()}"
        if kind == "save":
            row.data["times"] = row.data.get("times", 0) + 1
            row.save()
        elif kind == "part" or model is Note:  # whose manager is Django's own
            row.save(update_fields=["secret"])
        else:
            row.host = f"host-{self.chance.randrange(9)}.example"
            Vault.objects.bulk_update([row], ["secret", "host"])
        self.saved[pk] = row.secret


@pytest.fixture
def rows(shared_database: str, settings: Settings) -> list[tuple[type[Any], Any]]:
    settings.ENCRYPTION = STEPS[0]
    tenants = Tenant.objects.bulk_create(Tenant() for _ in range(TENANTS))
    owners = UuidTenant.objects.bulk_create(UuidTenant() for _ in range(TENANTS))
    notes = [
        Note(pk=number, tenant=tenant, secret=f"{number}/0", data={"row": str(number)})
        for number, tenant in enumerate(tenants, 1)
    ]
    vaults = [Vault(tenant=owner, host="host.example") for owner in owners]
    for vault in vaults:
        vault.secret, vault.data = f"{vault.pk}/0", {"row": str(vault.pk)}
    Note.objects.bulk_create(notes)
    Vault.objects.bulk_create(vaults)
    return [(type(row), row.pk) for pair in zip(notes, vaults, strict=True) for row in pair]


@contextmanager
def working(rows: list[tuple[type[Any], Any]]) -> Iterator[list[Worker]]:
    stop = threading.Event()
    tenants = {
        Note: list(Tenant.objects.values_list("pk", flat=True)),
        Vault: list(UuidTenant.objects.values_list("pk", flat=True)),
    }
    workers = [Worker(number, rows, tenants, stop) for number in range(THREADS)]
    for worker in workers:
        worker.start()
    try:
        yield workers
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert [wrong for worker in workers for wrong in worker.wrong] == []


def let_work(workers: list[Worker], steps: int) -> None:
    """Wait until each worker has done some steps that began after this call."""
    goals = [worker.done.total() + 1 + steps for worker in workers]
    for worker, goal in zip(workers, goals, strict=True):
        while worker.is_alive() and worker.done.total() < goal:
            worker.join(0.01)


def test_32_threads_and_200_tenants_while_the_keyring_changes(
    shared_database: str, rows: list[tuple[type[Any], Any]], settings: Settings
) -> None:
    with working(rows) as workers:
        for step in STEPS:
            settings.ENCRYPTION = step
            let_work(workers, 3 * STRESS)
        for model in (Note, Vault):
            for name in ("secret", "data"):
                column = EncryptedColumn(model, model._meta.get_field(name))
                report = Rotation(column, "default").run()
                assert report.failed == 0
        let_work(workers, 1)  # nobody holds a row that was read before
        settings.ENCRYPTION = {"MASTER_KEY": NEW}
        let_work(workers, 3 * STRESS)

    saved = {pk: secret for worker in workers for pk, secret in worker.saved.items()}
    assert len(saved) > THREADS
    new = get_keyring().primary.prefix
    for model, pk in rows:
        row = model._base_manager.get(pk=pk)
        assert row.secret == saved.get(pk, f"{pk}/0")
        assert row.data["row"] == str(pk)
    for model in (Note, Vault):
        for secret, data in model._base_manager.values_list("secret", "data"):
            assert secret.token.startswith(new)
            assert data.token.startswith(new)
    done = sum((worker.done for worker in workers), Counter())
    print(f"\n{done.total()} operations: {dict(done)}")  # noqa: T201  # for docs/concurrency.md
