"""``manage.py list_api_keys``: what is known of the keys."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.core.serializers.json import DjangoJSONEncoder

from apikeys.management import arguments
from apikeys.models import ApiKey

COLUMNS = ("id", "begins_with", "status", "expires_at", "last_used_at", "project", "name")


class Command(BaseCommand):
    help = "List API keys, newest first. Neither keys nor their hashes are printed."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", type=arguments.project, metavar="ID", help="Its id.")
        parser.add_argument(
            "--all", action="store_true", help="Also revoked, expired and deleted ones."
        )
        parser.add_argument("--json", action="store_true", help="Print a line of JSON for each.")

    def handle(self, *args: Any, **options: Any) -> None:
        keys = ApiKey.objects.all() if options["all"] else ApiKey.objects.listed()
        if options["project"] is not None:
            keys = keys.filter(project=options["project"])
        if not options["json"]:
            self.stdout.write("\t".join(COLUMNS))
        for key in keys.iterator():
            if not options["all"] and key.status is not ApiKey.Status.ACTIVE:
                continue
            row = _row(key)
            if options["json"]:
                self.stdout.write(json.dumps(row, cls=DjangoJSONEncoder))
            else:
                self.stdout.write("\t".join(_cell(row[name]) for name in COLUMNS))


def _row(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.pk,
        "project": key.project_id,
        "name": key.name,
        "begins_with": key.key_prefix,
        "status": "deleted" if key.deleted_at else key.status.value,
        "scopes": key.scopes,
        "allowed_networks": key.allowed_networks,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
    }


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:%Y-%m-%dT%H:%MZ}" if hasattr(value, "isoformat") else str(value)
