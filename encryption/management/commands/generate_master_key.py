"""``manage.py generate_master_key``: print a new master key."""

import secrets
from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = (
        "Print a new random master key (256 bits, 64 hex digits). Store it where secrets are "
        "kept, and set the environment variable MASTER_ENCRYPTION_KEY to it."
    )
    # It has to run before there is a key, and so before the checks pass.
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(secrets.token_hex(32))
