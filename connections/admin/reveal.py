"""Showing stored credentials on the admin site."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from connections.forms import RevealForm
from connections.models import Connection
from connections.reveal import reveal
from encryption import DecryptionError
from projects.acting import actor_of
from projects.admin import ModelAdmin, manageable_projects
from projects.login import lock_out_if_told
from projects.roles import Role


class RevealMixin(ModelAdmin):
    """A page of its own, for those who have the permission and are admins of the project."""

    def may_reveal(self, request: HttpRequest, connection: Connection) -> bool:
        """Say whether a user may be shown the credentials of a connection."""
        if not request.user.has_perm("connections.reveal_credentials"):
            return False
        projects = manageable_projects(request, Role.ADMIN)
        return projects.filter(pk=connection.project_id).exists()

    def reveal_url(self, request: HttpRequest, connection: Any) -> str | None:
        """Where the page is, for those who may see it."""
        if not self.may_reveal(request, connection):
            return None
        return reverse("admin:connections_connection_reveal", args=[connection.pk])

    @method_decorator([never_cache, sensitive_post_parameters(), sensitive_variables()])
    def reveal_view(self, request: HttpRequest, connection_id: Any) -> HttpResponse:
        """Ask for a reason and the password, record it, and show the credentials."""
        connection: Connection | None = self.get_object(request, str(connection_id))
        if connection is None:
            raise Http404
        if not self.may_reveal(request, connection):
            raise PermissionDenied
        form = RevealForm(request.POST or None, user=request.user)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": connection,
            "title": _("Reveal credentials"),
            "form": form,
            **self._attempt(request, connection, form),
        }
        name = "admin/connections/connection/reveal.html"
        return TemplateResponse(request, name, context)

    def _attempt(
        self, request: HttpRequest, connection: Connection, form: RevealForm
    ) -> dict[str, Any]:
        if request.method != "POST":
            return {"revealed": None}
        if not form.is_valid():
            lock_out_if_told(request, form)
            return {"revealed": None}
        try:
            reason = form.cleaned_data["reason"]
            return {"revealed": reveal(connection, actor_of(request), reason)}
        except DecryptionError:
            return {"revealed": None, "problem": _("The credentials cannot be decrypted.")}
