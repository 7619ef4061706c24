"""The record of credential events: to be read, and never changed."""

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest

from connections.models import CredentialEvent
from projects.admin import ProjectScopedAdmin
from projects.roles import Role


@admin.register(CredentialEvent)
class CredentialEventAdmin(ProjectScopedAdmin):
    list_display = ("at", "action", "connection_name", "actor", "field_names", "count", "reason")
    list_filter = ("action", "at")
    search_fields = ("connection_name", "connection_ref", "actor")
    date_hierarchy = "at"
    read_role = Role.ADMIN

    @admin.display(description="fields")
    def field_names(self, event: CredentialEvent) -> str:
        return ", ".join(event.names)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False
