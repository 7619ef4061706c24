"""The record of credential events: to be read, and never changed."""

from django.contrib import admin

from connections.models import CredentialEvent
from projects.admin import ProjectScopedAdmin, RecordAdmin
from projects.roles import Role


@admin.register(CredentialEvent)
class CredentialEventAdmin(RecordAdmin, ProjectScopedAdmin):
    list_display = ("at", "action", "connection_name", "actor", "field_names", "count", "reason")
    list_filter = ("action", "at")
    search_fields = ("connection_name", "connection_ref", "actor")
    date_hierarchy = "at"
    read_role = Role.ADMIN

    @admin.display(description="fields")
    def field_names(self, event: CredentialEvent) -> str:
        return ", ".join(event.names)
