"""The record of credential events: to be read, and never changed."""

from django.contrib import admin

from connections.models import CredentialEvent
from projects.admin import ProjectRecordAdmin


@admin.register(CredentialEvent)
class CredentialEventAdmin(ProjectRecordAdmin):
    list_display = ("at", "action", "connection_name", "actor", "field_names", "count", "reason")
    list_filter = ("action", "at")
    search_fields = ("connection_name", "connection_ref", "project_id", "actor")
    date_hierarchy = "at"

    @admin.display(description="fields")
    def field_names(self, event: CredentialEvent) -> str:
        return ", ".join(event.names)
