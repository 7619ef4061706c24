"""Somebody who tries to store values that are there already, in a process of its own.

    python -m tests.encryption.racing SEED TENANT SECONDS

Writes secrets of a small set in every way there is, for so many seconds and until enough of its
writes succeeded and enough were refused. Prints how many did and were.
"""

import os
import random
import sys
import time
from typing import Any

import django

#: Of each process, which waits no longer than this for them.
ENOUGH = {"written": 6, "refused": 3}
LONGEST = 120
VALUES = [f"secret {number}" for number in range(8)]


def main(seed: str, tenant: str, seconds: str) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    from django.db import IntegrityError, OperationalError, transaction  # noqa: PLC0415

    from encryption.conf import get_keyring  # noqa: PLC0415
    from tests.fieldapp.models import Once  # noqa: PLC0415

    get_keyring().key_ids()  # the slow derivations come before the race
    chance = random.Random(seed)
    outcomes = {"written": 0, "refused": 0}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    began = time.monotonic()
    while (passed := time.monotonic() - began) < float(seconds) or (
        passed < LONGEST and any(outcomes[name] < count for name, count in ENOUGH.items())
    ):
        try:
            with transaction.atomic():
                write(chance, Once, int(tenant))
                time.sleep(chance.random() * 0.02)  # others look while this is not committed
                if chance.random() < 0.1:
                    transaction.set_rollback(True)
        except IntegrityError:
            outcomes["refused"] += 1
        except OperationalError:  # a deadlock, or a locked file: nothing was written
            continue
        else:
            outcomes["written"] += 1
    sys.stdout.write(f"{outcomes['written']} {outcomes['refused']}\n")


def write(chance: random.Random, model: Any, tenant: int) -> None:
    """Write a random value in a random way."""
    value = chance.choice(VALUES)
    how = chance.randrange(5)
    if how == 0:
        model.objects.create(tenant_id=tenant, secret=value)
    elif how == 1:
        model._base_manager.bulk_create([model(tenant_id=tenant, secret=value)])
    else:
        row = model.objects.filter(tenant_id=tenant).order_by("?").first()
        if row is None:
            return
        row.secret = value
        if how == 2:
            row.save()
        elif how == 3:
            model.objects.bulk_update([row], ["secret"])
        else:
            row.delete()


if __name__ == "__main__":
    main(*sys.argv[1:])
