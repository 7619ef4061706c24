"""API keys, AI keys and the record of changes on the admin site."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_variables

from apikeys.forms import AIKeyForm, NewApiKeyForm, RenameForm, RotationForm
from apikeys.models import Actor, AIKey, ApiKey, ApiKeyEvent, ApiKeyStateError
from projects.admin import ProjectRecordAdmin, ProjectScopedAdmin, manageable_projects
from projects.roles import Role

if TYPE_CHECKING:
    AIKeyModelAdmin = admin.ModelAdmin[AIKey]
else:
    AIKeyModelAdmin = admin.ModelAdmin


@admin.register(ApiKey)
class ApiKeyAdmin(ProjectScopedAdmin):
    """Keys are created, renamed, rotated, revoked and deleted here; a new one is shown once."""

    list_display = ("name", "begins_with", "project", "state", "expires_at", "last_used_at")
    list_filter = ("revoked_at", "expires_at")
    list_select_related = ("project",)
    search_fields = ("name", "key_prefix", "project__name")
    actions = ("revoke_selected",)
    write_role = Role.ADMIN

    # -- showing ------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        keys: QuerySet[ApiKey] = super().get_queryset(request)
        return keys.filter(deleted_at=None)

    def lookup_allowed(self, lookup: str, value: Any, request: Any = None) -> bool:
        """As Django's; an address with a filter by the hash would tell whether a guess is right."""
        return not lookup.startswith("key_hash") and super().lookup_allowed(lookup, value, request)

    @admin.display(description="begins with")
    def begins_with(self, key: ApiKey) -> str:
        return f"{key.key_prefix}..."

    @admin.display(description="status")
    def state(self, key: ApiKey) -> str:
        return str(key.status.label)

    @admin.display(description="scopes")
    def scope_list(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    @admin.display(description="accepted from")
    def network_list(self, key: ApiKey) -> str:
        return ", ".join(key.allowed_networks) or "any address"

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return (*NewApiKeyForm.Meta.fields, "request_id")
        return ("name", *self.get_readonly_fields(request, obj))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ()
        return (
            "begins_with",
            "project",
            "state",
            "scope_list",
            "network_list",
            "created_by",
            "created_at",
            "expires_at",
            "revoked_at",
            "last_used_at",
            "replaces",
        )

    def get_form(self, request: Any, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        kwargs["form"] = RenameForm if change else NewApiKeyForm
        return super().get_form(request, obj, change, **kwargs)

    # -- changing -----------------------------------------------------------------------------

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        try:
            return super().add_view(request, form_url, extra_context)
        except IntegrityError:
            if not ApiKey.objects.filter(pk=request.POST["request_id"]).exists():
                raise
        messages.warning(request, "This key was created already. It is not shown again.")
        return HttpResponseRedirect(reverse("admin:apikeys_apikey_changelist"))

    @sensitive_variables()
    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        by = Actor.of_user(request.user)
        if change:
            obj.rename(form.cleaned_data["name"], by=by)
            return
        wanted = dict(form.cleaned_data)
        key, token = ApiKey.objects.issue(id=wanted.pop("request_id"), by=by, **wanted)
        obj.pk, obj.key_prefix, obj.token = key.pk, key.key_prefix, token
        obj._state.adding = False

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        obj.remove(by=Actor.of_user(request.user))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for key in queryset:
            key.remove(by=Actor.of_user(request.user))

    @admin.action(description="Revoke selected API keys", permissions=["change"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        allowed = manageable_projects(request, self.write_role)
        keys = queryset.filter(project__in=allowed)
        count = sum(key.revoke(by=Actor.of_user(request.user)) for key in keys)
        messages.success(request, f"Revoked: {count}.")

    # -- new keys, shown once -----------------------------------------------------------------

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        return self._shown_once(request, obj)

    def _shown_once(self, request: HttpRequest, key: Any) -> HttpResponse:
        """The reply to the request that made the key, and the only page that it is ever on.

        There is no address under which the page could be asked for again, and no copy: like all
        pages of the admin it is "no-store", and its script empties it when it is left.
        """
        return TemplateResponse(
            request,
            "admin/apikeys/apikey/shown_once.html",
            {
                **self.admin_site.each_context(request),
                "title": "New API key",
                "opts": self.opts,
                "key": key,
                "plaintext": key.token.plaintext,
            },
        )

    def get_urls(self) -> list[URLPattern]:
        rotate = path(
            "<uuid:key_id>/rotate/",
            self.admin_site.admin_view(self.rotate_view),
            name="apikeys_apikey_rotate",
        )
        return [rotate, *super().get_urls()]

    @method_decorator(sensitive_variables())
    def rotate_view(self, request: HttpRequest, key_id: Any) -> HttpResponse:
        key = self.get_object(request, str(key_id))
        if key is None:
            raise Http404
        if not self.has_change_permission(request, key):
            raise PermissionDenied
        form = RotationForm(request.POST or None)
        if form.is_valid():
            overlap = timedelta(hours=form.cleaned_data["overlap_hours"])
            try:
                successor, token = key.rotate(overlap, by=Actor.of_user(request.user))
            except ApiKeyStateError as error:
                messages.error(request, str(error))
                return HttpResponseRedirect(reverse("admin:apikeys_apikey_change", args=[key.pk]))
            self.log_addition(request, successor, "Replaces another key.")
            successor.token = token
            return self._shown_once(request, successor)
        context = {
            **self.admin_site.each_context(request),
            "title": "Rotate API key",
            "opts": self.opts,
            "key": key,
            "form": form,
        }
        return TemplateResponse(request, "admin/apikeys/apikey/rotate.html", context)


@admin.register(ApiKeyEvent)
class ApiKeyEventAdmin(ProjectRecordAdmin):
    list_display = ("at", "kind", "key_prefix", "actor", "project_id")
    list_filter = ("kind", "at")
    search_fields = ("key_prefix", "actor", "project_id", "api_key_id")


@admin.register(AIKey)
class AIKeyAdmin(AIKeyModelAdmin):
    """Everybody sets and replaces their own key.

    Of the others' one sees that they are set; with Django's permission one may delete them, as when
    a key is known to have leaked. Nobody sees one.
    """

    form = AIKeyForm
    list_display = ("user", "provider", "created_at", "updated_at")
    list_filter = ("provider",)
    list_select_related = ("user",)
    search_fields = ("user__username",)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if self.has_change_permission(request, obj):
            return ("provider", "api_key", *self.get_readonly_fields(request, obj)[-3:])
        return ("provider", "user", "created_at", "updated_at")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ()
        return ("provider", "user", "created_at", "updated_at")

    def get_form(self, request: Any, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)  # a class for this request
        form.owner_id = request.user.pk  # type: ignore[attr-defined]
        return form

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        own = obj is None or obj.user_id == request.user.pk
        return own and super().has_change_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: AIKey, form: Any, change: bool) -> None:
        if not change:
            obj.user = request.user  # type: ignore[assignment]  # who is logged in here
        super().save_model(request, obj, form, change)
        if "api_key" in form.changed_data:
            for doubt in obj.doubts():
                messages.warning(request, doubt)
