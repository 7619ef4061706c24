"""Take over the data of the original product."""

from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils.translation import ngettext

from apikeys.convex import import_ai_keys, import_api_keys
from apikeys.scopes import Scope
from connections.convex import import_connections
from projects.convex import Import, import_projects, import_users

TABLES = ("users", "projects", "connections", "apiKeys")
READING = [scope for scope in Scope.values if scope.endswith(":read")]


def folder(value: str) -> Path:
    """The folder of an export."""
    path = Path(value)
    if not path.is_dir():
        raise ArgumentTypeError("there is no such folder")
    return path


class Command(BaseCommand):
    help = (
        "Import a snapshot export (a folder with TABLE/documents.jsonl) of the original product: "
        "users, projects, connections, API keys and AI keys. Set OLD_MASTER_KEY to the master key "
        "that it was encrypted with. What was imported before is left as it is here, so that this "
        "can be run again. What cannot be read is reported, and the exit status is 1 then."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("folder", type=folder, metavar="DIR")
        parser.add_argument(
            "--dry-run", action="store_true", help="do everything, report, and take it all back"
        )
        parser.add_argument(
            "--api-key-scopes",
            nargs="+",
            choices=Scope.values,
            default=READING,
            help=f"what imported API keys may do (default: {' '.join(READING)})",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        run = Import(options["folder"])
        if not set(run.tables()) & set(TABLES):
            raise CommandError(
                f"This folder is no export: it has none of {', '.join(TABLES)}, each a folder with "
                "a documents.jsonl in it. Nothing was imported.",
                returncode=2,
            )
        if options["dry_run"]:
            with transaction.atomic():
                self._import(run, options["api_key_scopes"])
                transaction.set_rollback(True)
        else:
            self._import(run, options["api_key_scopes"])
        self._report(run, dry_run=options["dry_run"])
        if run.problems:
            count = len(run.problems)
            documents = ngettext("document", "documents", count)
            raise CommandError(f"{count} {documents} could not be read.")

    def _import(self, run: Import, scopes: list[str]) -> None:
        import_users(run)
        import_projects(run)
        import_connections(run)
        import_api_keys(run, scopes)
        import_ai_keys(run)

    def _report(self, run: Import, *, dry_run: bool) -> None:
        for table, document, reason in run.problems:
            self.stderr.write(self.style.ERROR(f"{table} {document}: {reason}"))
        for table, document, remark in run.remarks:
            self.stderr.write(f"{table} {document}: {remark}")
        for table in sorted(set(TABLES) - set(run.tables())):
            self.stderr.write(f"{table}: not in this export")
        done = "would be imported" if dry_run else "imported"
        for table in sorted({*run.imported, *run.known}):
            self.stdout.write(
                f"{table}: {run.imported[table]} {done}, {run.known[table]} were here already"
            )
        if run.imported["apiKeys"] and not settings.API_KEYS_ACCEPT_IMPORTED:
            self.stdout.write(
                "Imported API keys are accepted only with API_KEYS_ACCEPT_IMPORTED=true: set it "
                "for as long as clients use them, and have them replaced by new ones."
            )
