"""Sync connections without a broker: run it from cron or a timer."""

import uuid
from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.translation import ngettext

from connections.models import Connection, Status
from connections.sync import BusyError, sync_connection


class Command(BaseCommand):
    help = (
        "Sync the connections that are due, one after another. Any number of these may run at "
        "once; each connection is synced by one of them. Exits with 1 if any failed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("ids", nargs="*", type=uuid.UUID, help="sync these, due or not")
        parser.add_argument("--all", action="store_true", help="sync all that are not paused")

    def handle(self, *args: Any, ids: list[uuid.UUID], **options: Any) -> None:
        connections = self._chosen(ids, everything=options["all"])
        only_if_due = not ids and not options["all"]
        counts: Counter[str] = Counter()
        for pk, name in connections:
            try:
                outcome = sync_connection(pk, only_if_due=only_if_due)
            except BusyError:
                counts["busy"] += 1
                continue
            counts["ok" if outcome.ok else "failed"] += 1
            style = self.style.SUCCESS if outcome.ok else self.style.ERROR
            values = ngettext("%d value", "%d values", outcome.stored) % outcome.stored
            self.stdout.write(style(f"{pk} {name}: {outcome.code}, {values}"))
        total = ", ".join(f"{counts[kind]} {kind}" for kind in ("ok", "failed", "busy"))
        self.stdout.write(total)
        if counts["failed"]:
            raise CommandError("Some connections could not be synced.")

    def _chosen(self, ids: list[uuid.UUID], *, everything: bool) -> list[tuple[uuid.UUID, str]]:
        connections = Connection.objects.all()
        if ids:
            connections = connections.filter(pk__in=ids)
        elif everything:
            connections = connections.exclude(status=Status.PAUSED)
        else:
            connections = connections.due(timezone.now())
        return list(connections.order_by("last_tried_at", "pk").values_list("pk", "name"))
