"""Testing and syncing connections from the admin site."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _, ngettext
from django.views.decorators.http import require_POST

from connections import sync
from connections.models import Connection
from projects.acting import actor_of
from projects.admin import ModelAdmin

#: Each may take a minute, and the browser waits.
MOST_AT_ONCE = 10


class UseMixin(ModelAdmin):
    """Actions in the list and buttons on the page."""

    actions = ("test_selected", "sync_selected")

    @admin.action(description=_("Test selected connections"), permissions=["change"])
    def test_selected(self, request: HttpRequest, queryset: QuerySet[Connection]) -> None:
        for connection in self._few(request, queryset):
            self._test(request, connection)

    @admin.action(description=_("Sync selected connections now"), permissions=["change"])
    def sync_selected(self, request: HttpRequest, queryset: QuerySet[Connection]) -> None:
        for connection in self._few(request, queryset):
            self._sync(request, connection)

    def _few(self, request: HttpRequest, queryset: QuerySet[Connection]) -> list[Connection]:
        chosen = list(queryset[: MOST_AT_ONCE + 1])
        if len(chosen) > MOST_AT_ONCE:
            text = _("Choose at most %(count)d connections at once.") % {"count": MOST_AT_ONCE}
            messages.error(request, text)
            return []
        allowed = [one for one in chosen if self.has_change_permission(request, one)]
        if len(allowed) < len(chosen):
            messages.error(request, _("You may not use some of these; they were left out."))
        return allowed

    @method_decorator(require_POST)
    def test_view(self, request: HttpRequest, connection_id: Any) -> HttpResponse:
        """Test one, and go back to its page."""
        connection = self._usable(request, connection_id)
        self._test(request, connection)
        return self._back(connection)

    @method_decorator(require_POST)
    def sync_view(self, request: HttpRequest, connection_id: Any) -> HttpResponse:
        """Sync one, and go back to its page."""
        connection = self._usable(request, connection_id)
        self._sync(request, connection)
        return self._back(connection)

    def use_urls(self, connection: Any) -> list[tuple[str, Any]]:
        """Where the buttons of a page lead, and what they say."""
        return [
            (reverse("admin:connections_connection_test", args=[connection.pk]), _("Test")),
            (reverse("admin:connections_connection_sync", args=[connection.pk]), _("Sync now")),
        ]

    def _usable(self, request: HttpRequest, connection_id: Any) -> Connection:
        connection: Connection | None = self.get_object(request, str(connection_id))
        if connection is None:
            raise Http404
        if not self.has_change_permission(request, connection):
            raise PermissionDenied
        return connection

    def _back(self, connection: Connection) -> HttpResponse:
        return HttpResponseRedirect(
            reverse("admin:connections_connection_change", args=[connection.pk])
        )

    def _test(self, request: HttpRequest, connection: Connection) -> None:
        self._tell(request, connection, sync.check_connection(connection, actor_of(request)))

    def _sync(self, request: HttpRequest, connection: Connection) -> None:
        try:
            outcome = sync.sync_connection(connection.pk, actor_of(request))
        except sync.BusyError:
            outcome = sync.Outcome("busy", str(_("It is being synced at this moment.")))
        self._tell(request, connection, outcome)

    def _tell(self, request: HttpRequest, connection: Connection, outcome: sync.Outcome) -> None:
        level = messages.SUCCESS if outcome.ok else messages.ERROR
        stored = ngettext("%d value", "%d values", outcome.stored) % outcome.stored
        values = f" ({stored})" if outcome.stored else ""
        messages.add_message(request, level, f"{connection.name}: {outcome.detail}{values}")
