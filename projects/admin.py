"""Projects on the admin site, and what any admin page of a project's things needs."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from projects.models import Membership, Project, ProjectQuerySet
from projects.roles import Role

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
    MembershipTabularInline = admin.TabularInline[Membership, Project]
else:
    ModelAdmin = admin.ModelAdmin
    MembershipTabularInline = admin.TabularInline


def manageable_projects(request: HttpRequest, least: Role = Role.VIEWER) -> ProjectQuerySet:
    """The projects whose things a user of the admin site may see, or do more with.

    Args:
        request: of the admin site.
        least: the role that it takes; a superuser needs none.
    """
    if getattr(request.user, "is_superuser", False):
        return Project.objects.all()
    return Project.objects.for_user(request.user, least)


class ProjectScopedAdmin(ModelAdmin):
    """The admin of a model with a ``project``: Django's permissions and the role in the project.

    ``read_role`` is the least role to see one, ``write_role`` to add, change or delete one.
    """

    read_role = Role.VIEWER
    write_role = Role.MEMBER

    def project_of(self, obj: Any) -> Any:
        """The id of the project that an object belongs to."""
        return obj.project_id

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        projects = manageable_projects(request, self.read_role)
        return super().get_queryset(request).filter(project__in=projects)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return super().has_change_permission(request, obj) and self._role_allows(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return super().has_delete_permission(request, obj) and self._role_allows(request, obj)

    def _role_allows(self, request: HttpRequest, obj: Model | None) -> bool:
        if obj is None:
            return True
        allowed = manageable_projects(request, self.write_role)
        return allowed.filter(pk=self.project_of(obj)).exists()

    def formfield_for_foreignkey(self, db_field: Any, request: Any, **kwargs: Any) -> Any:
        if db_field.name == "project":
            kwargs["queryset"] = manageable_projects(request, self.write_role)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)


class MembershipInline(MembershipTabularInline):
    model = Membership
    extra = 0
    autocomplete_fields = ("user",)
    readonly_fields = ("created_at",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Membership]:
        return super().get_queryset(request).select_related("user")


@admin.register(Project)
class ProjectAdmin(ProjectScopedAdmin):
    list_display = ("name", "owner", "created_at")
    list_select_related = ("owner",)
    search_fields = ("name", "id")
    autocomplete_fields = ("owner",)
    readonly_fields = ("id", "created_at", "updated_at")
    inlines = (MembershipInline,)
    write_role = Role.ADMIN

    def project_of(self, obj: Project) -> Any:
        return obj.pk

    def get_queryset(self, request: HttpRequest) -> QuerySet[Project]:
        return manageable_projects(request).order_by("name", "pk")
