"""The REST endpoints of projects and their members."""

from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import viewsets
from rest_framework.serializers import BaseSerializer

from projects.acting import ApiCredential
from projects.errors import Conflict, errors
from projects.models import Membership, Project
from projects.pagination import NewestFirstPagination
from projects.parsers import StrictJSONParser
from projects.permissions import (
    Need,
    ProjectPermission,
    ProjectScoped,
    visible_projects,
)
from projects.roles import Role
from projects.serializers import MemberSerializer, ProjectSerializer

METHODS = ["get", "post", "patch", "delete", "head", "options"]
READ = Need(Role.VIEWER, "projects:read")


@extend_schema_view(
    list=extend_schema(
        summary="The projects you belong to",
        responses={200: ProjectSerializer(many=True), **errors(400)},
    ),
    create=extend_schema(
        summary="Create a project; you become its owner",
        responses={201: ProjectSerializer, **errors(400)},
    ),
    retrieve=extend_schema(summary="Read a project"),
    partial_update=extend_schema(
        summary="Rename a project", responses={200: ProjectSerializer, **errors(400)}
    ),
    destroy=extend_schema(summary="Delete a project with all that it holds"),
)
class ProjectViewSet(ProjectScoped, viewsets.ModelViewSet[Project]):
    queryset = Project.objects.none()
    serializer_class = ProjectSerializer
    parser_classes = (StrictJSONParser,)
    pagination_class = NewestFirstPagination
    http_method_names = METHODS
    permission_classes = (ProjectPermission,)
    lookup_url_kwarg = "project_id"
    lookup_value_converter = "uuid"
    needs = {
        "list": READ,
        "create": Need(Role.VIEWER),  # of no project yet: any person, and no API key
        "retrieve": READ,
        "partial_update": Need(Role.ADMIN),
        "destroy": Need(Role.OWNER),
    }

    def get_queryset(self) -> QuerySet[Project]:
        visible = visible_projects(self.request).select_related("owner")
        if not isinstance(self.request.auth, ApiCredential):
            own = Membership.objects.filter(project=OuterRef("pk"), user=self.request.user.pk)
            visible = visible.annotate(caller_role=Subquery(own.values("role")[:1]))
        return visible

    def perform_create(self, serializer: BaseSerializer[Project]) -> None:
        project = serializer.save(owner=self.request.user)
        project.caller_role = Role.OWNER  # type: ignore[attr-defined]  # what get_queryset adds


@extend_schema_view(
    list=extend_schema(
        summary="The members of a project",
        responses={200: MemberSerializer(many=True), **errors(400)},
    ),
    create=extend_schema(summary="Add a member", responses={201: MemberSerializer, **errors(400)}),
    retrieve=extend_schema(summary="Read a membership"),
    partial_update=extend_schema(
        summary="Change a member's role",
        responses={200: MemberSerializer, **errors(400, 409)},
    ),
    destroy=extend_schema(summary="Remove a member", responses={204: None, **errors(409)}),
)
class MemberViewSet(
    ProjectScoped,
    viewsets.ModelViewSet[Membership],
):
    queryset = Membership.objects.none()
    serializer_class = MemberSerializer
    permission_classes = (ProjectPermission,)
    parser_classes = (StrictJSONParser,)
    pagination_class = NewestFirstPagination
    http_method_names = METHODS
    lookup_url_kwarg = "member_id"
    lookup_value_converter = "int"
    needs = {
        "list": READ,
        "retrieve": READ,
        "create": Need(Role.ADMIN),
        "partial_update": Need(Role.ADMIN),
        "destroy": Need(Role.ADMIN),
    }

    def get_queryset(self) -> QuerySet[Membership]:
        return Membership.objects.filter(project=self.project).select_related("user")

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), "project": getattr(self, "project", None)}

    def perform_create(self, serializer: BaseSerializer[Membership]) -> None:
        serializer.save(project=self.project)

    def perform_update(self, serializer: BaseSerializer[Membership]) -> None:
        self._refuse_owner(serializer.instance)
        serializer.save()

    def perform_destroy(self, instance: Membership) -> None:
        self._refuse_owner(instance)
        instance.delete()

    def _refuse_owner(self, membership: Any) -> None:
        if membership.role == Role.OWNER:
            raise Conflict(
                _("The owner stays the owner until the project is handed on."), code="is_owner"
            )
