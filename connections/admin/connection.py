"""Connections on the admin site."""

from collections import defaultdict
from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.db import router, transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext_lazy as _

from connections.admin.reveal import RevealMixin
from connections.admin.use import UseMixin
from connections.charts import Point, chart
from connections.conf import get_settings
from connections.forms import CONFIG, CREDENTIAL, SEEN, ConnectionForm, form_for
from connections.integrations import registry
from connections.integrations.base import Integration
from connections.models import Connection, CredentialEvent, Metric
from connections.models.event import Action
from projects.acting import actor_of
from projects.admin import ProjectScopedAdmin, manageable_projects
from projects.roles import Role

MOST_CHARTS = 12
MOST_POINTS = 2000
#: How many connections with the same credentials are named.
MOST_TOLD = 20


class ProjectFilter(admin.SimpleListFilter):
    """Of the projects that the user may see, and no others."""

    title = _("project")
    parameter_name = "project"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return list(manageable_projects(request).values_list("pk", "name")[:200])

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        shown = {str(key) for key, _name in self.lookup_choices}
        return queryset.filter(project=self.value()) if self.value() in shown else queryset


class ServiceFilter(admin.SimpleListFilter):
    title = _("service")
    parameter_name = "service"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return [(name, one.title) for name, one in registry.integrations().items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(service=self.value()) if self.value() else queryset


class SharedFilter(admin.SimpleListFilter):
    """Credentials that stand twice in the projects that the user owns."""

    title = _("credentials used twice")
    parameter_name = "shared"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, Any]]:
        return [("yes", _("Used by another connection too"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() != "yes":
            return queryset
        owned = Connection.objects.filter(project__in=manageable_projects(request, Role.OWNER))
        return queryset.filter(pk__in=owned.sharing_credentials().values("pk"))


@admin.register(Connection)
class ConnectionAdmin(RevealMixin, UseMixin, ProjectScopedAdmin):
    """A form per service; stored secrets are shown as "set", kept, replaced or cleared."""

    list_display = ("name", "project", "service_title", "status", "health", "last_synced_at")
    list_filter = ("status", ServiceFilter, "last_synced_at", ProjectFilter, SharedFilter)
    list_select_related = ("project",)
    search_fields = ("name", "service", "project__name", "id")
    ordering = ("project__name", "name")

    class Media:
        css = {"all": ("connections/admin.css",)}

    # -- showing ------------------------------------------------------------------------------

    @admin.display(description=_("service"), ordering="service")
    def service_title(self, connection: Connection) -> str:
        integration = connection.integration
        return f"{connection.service} (unsupported)" if integration is None else integration.title

    @admin.display(description=_("health"), ordering="health_score")
    def health(self, connection: Connection) -> str:
        return format_html(
            '<meter min="0" max="100" low="50" high="75" optimum="100" value="{0}" '
            'title="{0}">{0}</meter> {0} <span class="last-error">{1}</span>',
            connection.health_score,
            connection.last_error,
        )

    @admin.display(description=_("credentials"))
    def credential_states(self, connection: Connection) -> str:
        states = connection.credential_fields()
        if not connection.has_readable_credentials():
            return str(_("They cannot be decrypted. Enter them again, or restore the master key."))
        if connection.integration is None:
            return str(_("set, for a service that is not known here"))
        return format_html_join(
            ", ",
            "{}: {}",
            ((name, _("set") if one["set"] else _("not set")) for name, one in states.items()),
        )

    @admin.display(description=_("metrics"))
    def charts(self, connection: Connection) -> str:
        since = timezone.now() - timedelta(days=get_settings().sync_history)
        rows = Metric.objects.filter(connection=connection, at__gte=since).order_by("-at")
        series: dict[str, list[Point]] = defaultdict(list)
        for metric_id, at, value in rows.values_list("metric_id", "at", "value")[:MOST_POINTS]:
            series[metric_id].append((at, value))
        drawn = [(chart(name, series[name][::-1]),) for name in sorted(series)[:MOST_CHARTS]]
        empty = _("No values yet. They come with the first sync, within some minutes, or now.")
        return format_html_join("", "{}", drawn) or str(empty)

    # -- the form of the service --------------------------------------------------------------

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> Any:
        """As Django's; locked, where it is about to be changed or deleted.

        A form is checked against the row that it is written to, so nobody may change that between.
        Django wraps these two views in a transaction, and of the others none.
        """
        found = super().get_object(request, object_id, from_field)
        writes = transaction.get_connection(router.db_for_write(self.model)).in_atomic_block
        if found is None or request.method != "POST" or not writes:
            return found
        return self.get_queryset(request).select_for_update().filter(pk=found.pk).first()

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        if self._chosen(request) is None and self.has_add_permission(request):
            context = {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": _("Add connection"),
                "integrations": registry.integrations().values(),
            }
            name = "admin/connections/connection/choose_service.html"
            return TemplateResponse(request, name, context)
        return super().add_view(request, form_url, extra_context)

    def _chosen(self, request: HttpRequest) -> Integration | None:
        return registry.get(request.GET.get("service", ""))

    def _integration(self, request: HttpRequest, obj: Any) -> Integration | None:
        return self._chosen(request) if obj is None else obj.integration

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> type[Any]:
        kwargs["form"] = form_for(self._integration(request, obj))
        return super().get_form(request, obj, change, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        common = ("project", "name", "status")
        state = ("service_title", "health", "last_synced_at", "credential_states")
        if obj is None:
            return self._with_service_fields(request, obj, common)
        if not self.has_change_permission(request, obj):
            return [(None, {"fields": (*common, *state, "charts")})]
        return [
            *self._with_service_fields(request, obj, (*common, *state)),
            (_("Metrics"), {"fields": ("charts",)}),
        ]

    def _with_service_fields(
        self, request: HttpRequest, obj: Any, first: tuple[str, ...]
    ) -> list[tuple[Any, dict[str, Any]]]:
        integration = self._integration(request, obj)
        config = integration.config_fields if integration else ()
        credentials = integration.credential_fields if integration else ()
        sets: list[tuple[Any, dict[str, Any]]] = [
            (None, {"fields": first}),
            (_("Configuration"), {"fields": [CONFIG + field.name for field in config]}),
            (None, {"fields": [SEEN] if config and obj is not None else []}),
            (_("Credentials"), {"fields": [CREDENTIAL + field.name for field in credentials]}),
        ]
        return [one for one in sets if one[1]["fields"]]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ()
        # The project is the tenant that the credentials are encrypted for.
        return (
            "project",
            "service_title",
            "health",
            "last_synced_at",
            "credential_states",
            "charts",
        )

    def save_model(
        self, request: HttpRequest, obj: Any, form: ConnectionForm, change: bool
    ) -> None:
        fields: list[str] = [one for one in ("name", "status") if one in form.changed_data]
        if form.integration is not None and form.new_config != obj.config:
            obj.config = form.new_config
            fields.append("config")
        names: list[str] = []
        cleared: list[str] = []
        if form.credential_changes:
            names, cleared = obj.change_credentials(form.credential_changes)
            fields.append("credentials")
        if change:
            obj.updated_at = timezone.now()
            # Only what was changed: a sync may have written the rest meanwhile.
            obj.save(update_fields=[*fields, "updated_at"])
        else:
            obj.service = request.GET["service"]
            obj.save()
        self._record(request, Action.CHANGE if change else Action.CREATE, obj, names)
        self._record(request, Action.CLEAR, obj, cleared)
        if names:
            for other in obj.with_same_credentials().filter(project=obj.project_id)[:MOST_TOLD]:
                text = _("%(name)s of this project has the same credentials.")
                messages.warning(request, text % {"name": other.name})

    def _record(
        self, request: HttpRequest, action: Action, connection: Connection, names: list[str]
    ) -> None:
        if names:
            CredentialEvent.objects.record(action, connection, actor_of(request), names)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """As Django's, with a number in the place of each of perhaps 100,000 metrics."""
        names = [str(one) for one in objs]
        metrics = Metric.objects.filter(connection__in=[one.pk for one in objs]).count()
        counts = {
            self.opts.verbose_name_plural: len(names),
            Metric._meta.verbose_name_plural: metrics,
        }
        allowed = all(self.has_delete_permission(request, one) for one in objs)
        return names, counts, set() if allowed else {str(self.opts.verbose_name)}, []

    def get_urls(self) -> list[URLPattern]:
        own = [
            path(f"<uuid:connection_id>/{name}/", self.admin_site.admin_view(view), name=url_name)
            for name, view, url_name in (
                ("test", self.test_view, "connections_connection_test"),
                ("sync", self.sync_view, "connections_connection_sync"),
                ("reveal", self.reveal_view, "connections_connection_reveal"),
            )
        ]
        return [*own, *super().get_urls()]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: Any = None,
    ) -> HttpResponse:
        extra = {**(extra_context or {}), **self._tools(request, object_id)}
        return super().change_view(request, object_id, form_url, extra)

    def _same_credentials(self, request: HttpRequest, connection: Any) -> list[Connection]:
        """Where else the credentials are used, among the projects that the user owns."""
        owned = manageable_projects(request, Role.OWNER)
        if not owned.filter(pk=connection.project_id).exists():
            return []
        same = connection.with_same_credentials().filter(project__in=owned)
        return list(same.select_related("project").order_by("project__name", "name")[:MOST_TOLD])

    def _tools(self, request: HttpRequest, object_id: str) -> dict[str, Any]:
        connection: Model | None = self.get_object(request, object_id)
        if connection is None:
            return {}
        return {
            "same_credentials": self._same_credentials(request, connection),
            "usable": self.has_change_permission(request, connection),
            "use_urls": self.use_urls(connection),
            "reveal_url": self.reveal_url(request, connection),
        }
