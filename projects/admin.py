"""Projects on the admin site, and what any admin page of a project's things needs."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _

from projects.models import Membership, Project, ProjectQuerySet
from projects.roles import Role

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
    MembershipTabularInline = admin.TabularInline[Membership, Project]
    MembershipModelForm = forms.ModelForm[Membership]
    MembershipBaseFormSet = forms.BaseInlineFormSet[Membership, Project, forms.ModelForm[Any]]
else:
    ModelAdmin = admin.ModelAdmin
    MembershipTabularInline = admin.TabularInline
    MembershipModelForm = forms.ModelForm
    MembershipBaseFormSet = forms.BaseInlineFormSet


def manageable_projects(request: HttpRequest, least: Role = Role.VIEWER) -> ProjectQuerySet:
    """The projects whose things a user of the admin site may see, or do more with.

    Args:
        request: of the admin site.
        least: the role that it takes; a superuser needs none.
    """
    if getattr(request.user, "is_superuser", False):
        return Project.objects.all()
    return Project.objects.for_user(request.user, least)


class HiddenAdmin(ModelAdmin):
    """What a user may not see does not exist: 404, as over REST, where Django would redirect."""

    def _get_obj_does_not_exist_redirect(
        self, request: HttpRequest, opts: Any, object_id: str
    ) -> HttpResponse:
        raise Http404


class RecordAdmin(HiddenAdmin):
    """A record of what was done: to be read, and nothing else."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class ProjectRecordAdmin(RecordAdmin):
    """A record of a project's things, which names the project by a ``project_id`` alone."""

    read_role = Role.ADMIN

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        records = super().get_queryset(request)
        if getattr(request.user, "is_superuser", False):
            return records  # those of projects that are gone, too
        return records.filter(project_id__in=manageable_projects(request, self.read_role))


class ProjectScopedAdmin(HiddenAdmin):
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


class MembershipForm(MembershipModelForm):
    """A member in a row: what stays as it is needs no check, whoever became the owner."""

    role = forms.ChoiceField(choices=[one for one in Role.choices if one[0] != Role.OWNER])

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.empty_permitted = self.empty_permitted or self.instance.pk is not None


class MembershipFormSet(MembershipBaseFormSet):
    def clean(self) -> None:
        super().clean()
        if any(one.instance.user_id == self.instance.owner_id for one in self.deleted_forms):
            raise ValidationError(_("The owner of a project is a member of it."))


class MembershipInline(MembershipTabularInline):
    """The members but for the owner, who is a field of the project."""

    model = Membership
    form = MembershipForm
    formset = MembershipFormSet
    extra = 0
    autocomplete_fields = ("user",)
    readonly_fields = ("created_at",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Membership]:
        members = super().get_queryset(request).select_related("user")
        return members.exclude(role=Role.OWNER)


@admin.register(Project)
class ProjectAdmin(ProjectScopedAdmin):
    """An admin of a project renames it and manages its members; its owner hands it on."""

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

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fields = super().get_readonly_fields(request, obj)
        return fields if obj is None or self._owns(request, obj) else (*fields, "owner")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        owns = obj is None or self._owns(request, obj)
        return owns and super().has_delete_permission(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Project]) -> None:
        super().delete_queryset(
            request, queryset.filter(pk__in=manageable_projects(request, Role.OWNER))
        )

    def _owns(self, request: HttpRequest, project: Project) -> bool:
        return manageable_projects(request, Role.OWNER).filter(pk=project.pk).exists()
