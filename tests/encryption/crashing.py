"""Somebody who saves all the time, in a process of its own, for the tests of crashes.

    python -m tests.encryption.crashing SEED [MODEL ...]

Saves new secrets to random rows, and prints a line for each save that was committed:
"table pk secret". What the database holds in the end is compared with those lines.
"""

import os
import random
import secrets
import sys

import django


def main(seed: str, *names: str) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    from django.db import OperationalError  # noqa: PLC0415

    from tests.fieldapp import models  # noqa: PLC0415

    chance = random.Random(seed)
    written = [getattr(models, name) for name in names or ("Note", "Vault")]
    keys = {model: list(model._base_manager.values_list("pk", flat=True)) for model in written}
    say("ready")
    while True:
        model = chance.choice(written)
        row = model._base_manager.get(pk=chance.choice(keys[model]))
        row.secret = secrets.token_urlsafe(chance.choice([9, 30, 90]))
        if hasattr(row, "host") and chance.random() < 0.3:
            row.host = f"host-{chance.randrange(10)}.example.com"
        try:
            row.save(update_fields=["secret"]) if chance.random() < 0.5 else row.save()
        except OperationalError:  # a deadlock, or a locked file: nothing was committed
            continue
        say(f"{model.__name__} {row.pk} {row.secret}")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
