"""Writers under two keys at once: no value of a unique index is ever there twice."""

import subprocess

from django.db import connection
from pytest_django import Settings

from tests.encryption.matching import expect_indexes
from tests.encryption.test_rotation_crashes import NEW, OLD, environment
from tests.fieldapp.factories import TenantFactory
from tests.fieldapp.models import Once
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
