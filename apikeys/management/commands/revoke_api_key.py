"""``manage.py revoke_api_key``: make keys invalid."""

import sys
from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from apikeys import tokens
from apikeys.management import arguments
from apikeys.models import Actor, ApiKey
from encryption import sha256_hex


class Command(BaseCommand):
    help = (
        "Revoke API keys, for good. A key that is revoked already stays so. Never write a key "
        "itself on the command line: to revoke one that was found somewhere, pipe it in with "
        "--stdin."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "keys",
            nargs="*",
            type=arguments.no_key,
            metavar="KEY",
            help="The id of a key, or what it begins with (pp_live_ and 12 characters).",
        )
        parser.add_argument(
            "--stdin", action="store_true", help="Read whole keys, one a line, instead."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["stdin"] == bool(options["keys"]):
            raise CommandError("Name keys, or pipe them in with --stdin.", returncode=2)
        if options["stdin"]:
            found = [_by_secret(line) for line in sys.stdin.read().split()]
        else:
            found = [_by_name(name) for name in options["keys"]]
        unknown = 0
        for number, key in enumerate(found, start=1):
            if key is None:
                unknown += 1
                self.stderr.write(self.style.ERROR(f"There is no such key: number {number}."))
                continue
            done = "revoked" if key.revoke(by=Actor("command")) else "was revoked before"
            self.stdout.write(f"{key.pk} {key.key_prefix}... {done}")
        if unknown:
            raise CommandError("Not all keys were found.")


def _by_secret(text: str) -> ApiKey | None:
    return ApiKey.objects.filter(key_hash=sha256_hex(text)).first()


def _by_name(name: str) -> ApiKey | None:
    try:
        return ApiKey.objects.filter(pk=UUID(name)).first()
    except ValueError:
        pass
    name = name.rstrip(".")
    if len(name) == tokens.PREFIX_LENGTH - 1:
        name += "_"
    # Compared here once more: some collations take "a" and "A" for equal.
    keys = [key for key in ApiKey.objects.filter(key_prefix=name) if key.key_prefix == name]
    if len(keys) > 1:
        raise CommandError("Several keys begin like this. Name them by their id.", returncode=2)
    return keys[0] if keys else None
