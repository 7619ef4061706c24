"""``manage.py encryption_status``: which rows are under which key."""

import json
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.utils.connection import ConnectionDoesNotExist

from encryption.conf import get_keyring
from encryption.core.keyring import Keyring
from encryption.rotation import ColumnReport, Options, Rotation
from encryption.runs import places
from encryption.status import ColumnStatus, column_status, missing_key_text, missing_keys


class Command(BaseCommand):
    help = (
        "Count the rows of every encrypted column by format and key id, in SQL, without "
        "decrypting. v1 rows name no key and are counted as v1. Exit status: 0; 1 with "
        "--fail-if-stale while rows are left to rotate, or with --verify if one cannot be "
        "decrypted; 2 wrong usage."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--model", metavar="APP.MODEL[.FIELD]", help="Only this one.")
        parser.add_argument("--database", metavar="ALIAS", help="Only this database.")
        parser.add_argument(
            "--fail-if-stale", action="store_true", help="Exit 1 while any row is stale."
        )
        parser.add_argument("--verify", action="store_true", help="Decrypt every row.")
        parser.add_argument("--json", action="store_true", help="Print JSON.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            chosen = places(options["model"], options["database"])
            keyring = get_keyring()
            found = [column_status(*place) for place in chosen]
        except (LookupError, ConnectionDoesNotExist, ImproperlyConfigured) as error:
            raise CommandError(str(error.args[0]), returncode=2) from None
        missing = missing_keys(found, keyring)
        dry = Options(dry_run=True)
        verified = (
            [Rotation(column, alias, dry, keyring).run() for column, alias in chosen]
            if options["verify"]
            else []
        )
        stale = sum(one.stale for one in found)
        failed = sum(report.failed for report in verified)
        if options["json"]:
            result = {
                "primary": keyring.primary.key_id,
                "fallbacks": keyring.key_ids()[1:],
                "write_format": keyring.write_format,
                "stale": stale,
                "missing_keys": missing,
                "columns": [asdict(one) for one in found],
                "verified": [asdict(report) for report in verified] or None,
            }
            self.stdout.write(json.dumps(result, indent=2))
        else:
            self._tell(keyring, found, missing, verified)
        if failed or (options["fail_if_stale"] and (stale or missing)):
            sys.exit(1)

    def _tell(
        self,
        keyring: Keyring,
        found: list[ColumnStatus],
        missing: dict[str, int],
        verified: list[ColumnReport],
    ) -> None:
        primary, *fallbacks = keyring.key_ids()
        self.stdout.write(f"primary key {primary}")
        self.stdout.write(
            f"fallback keys {', '.join(fallbacks)}" if fallbacks else "no fallback keys"
        )
        for one in found:
            parts = [
                f"{count} under {key_id}{' (primary)' if key_id == primary else ''}"
                for key_id, count in one.keys.items()
            ]
            self.stdout.write(
                f"{one.label} [{one.database}]: {', '.join(parts) or 'no values'}; "
                f"{one.empty} empty; {one.stale} stale"
            )
            for name, counts in one.indexes.items():
                told = ", ".join(f"{count} under {key_id}" for key_id, count in counts.items())
                self.stdout.write(f"  index {name}: {told or 'no values'}")
        for key_id, count in missing.items():
            self.stdout.write(
                f"MISSING KEY: {missing_key_text(key_id, count)}. Put it into "
                "MASTER_ENCRYPTION_KEY_FALLBACKS and run rotate_master_key."
            )
        for report in verified:
            self.stdout.write(
                f"{report.label} [{report.database}]: {report.examined - report.failed} decrypted, "
                f"{report.failed} failed"
            )
            for failure in report.failures:
                self.stderr.write(f"  pk={failure.pk}: {failure.reason}")
