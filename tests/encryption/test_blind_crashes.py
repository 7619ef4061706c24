"""Blind indexes while rotations are killed with SIGKILL and two sides of a rotation write."""

import os
import random
import time
from collections.abc import Callable
from typing import IO

from pytest_django import Settings

from encryption.registry import encrypted_columns
from encryption.status import column_status
from tests.encryption.matching import expect_indexes
from tests.encryption.test_rotation_crashes import (
    NEW,
    OLD,
    Writer,
    await_runs,
    environment,
    is_any_unfinished,
    rotation_log,
    start_rotation,
    start_writer,
)
from tests.fieldapp.factories import UuidTenantFactory
from tests.fieldapp.models import Watched

__all__ = ["environment", "rotation_log", "start_writer"]

KILLS = int(os.environ.get("ROTATION_KILLS", "6"))
ROWS = 200 * KILLS


def test_killed_rotations_leave_no_index_behind(
    environment: dict[str, str],
    rotation_log: IO[str],
    start_writer: Callable[..., Writer],
    settings: Settings,
) -> None:
    owners = UuidTenantFactory.create_batch(5)
    Watched.objects.bulk_create(
        [
            Watched(tenant=owners[n % 5], secret=f"secret {n}", data={"PLAINTEXT": n}, host="h")
            for n in range(ROWS)
        ],
        batch_size=500,
    )
    settings.ENCRYPTION = {"MASTER_KEY": NEW, "MASTER_KEY_FALLBACKS": [OLD]}
    sides = [(NEW, OLD), (OLD, NEW)]
    writers = [
        start_writer("Watched", MASTER_ENCRYPTION_KEY=primary, OLD_MASTER_KEY=fallback)
        for primary, fallback in sides
    ]
    begun = 0
    # There and back, so that every rotation has something to do.
    while begun < KILLS or not is_any_unfinished():
        assert begun < KILLS + 40, "the rotations are over before they are killed"
        rotation = start_rotation(environment, rotation_log, back=begun % 2 == 1)
        begun += 1
        await_runs(begun)
        time.sleep(random.random() * 0.2)
        rotation.kill()
        rotation.wait()
        expect_indexes(Watched)  # while others go on writing
    saved = [line for writer in writers for line in writer.stop()]
    assert saved
    expect_indexes(Watched)
    assert start_rotation(environment, rotation_log).wait(timeout=120) == 0
    settings.ENCRYPTION = {"MASTER_KEY": NEW}
    expect_indexes(Watched)
    for column in encrypted_columns("fieldapp.Watched"):
        assert column_status(column, "default").stale == 0
    row = Watched.objects.order_by("?").first()
    assert row is not None
    assert row in Watched.objects.filter(tenant=row.tenant_id, secret=row.secret)
