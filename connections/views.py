"""The REST endpoints of connections."""

from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle

from connections import sync
from connections.etags import etag_of, is_fresh, require_match
from connections.filters import ConnectionFilter, MetricFilter
from connections.models import Connection, CredentialEvent, Metric
from connections.models.event import Action
from connections.serializers import (
    ConnectionCreateSerializer,
    ConnectionDetailSerializer,
    ConnectionSerializer,
    ConnectionUpdateSerializer,
    MetricSerializer,
    NothingSerializer,
    OutcomeSerializer,
    WrittenConnectionSerializer,
)
from connections.throttling import UseThrottle
from projects.acting import actor_of
from projects.errors import Conflict, FailedDependency, errors
from projects.pagination import NewestFirstPagination, StrictCursorPagination
from projects.parsers import StrictJSONParser
from projects.permissions import Need, ProjectPermission, ProjectScoped
from projects.roles import Role

READ = Need(Role.VIEWER, "connections:read")
WRITE = Need(Role.MEMBER, "connections:write")
USE = Need(Role.MEMBER, "connections:sync")

IF_MATCH = OpenApiParameter(
    "If-Match", str, OpenApiParameter.HEADER, description="The ETag of the version you read."
)
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match", str, OpenApiParameter.HEADER, description="The ETag of what you have."
)
CREDENTIALS = (
    "A credential or key of the configuration that is left out is kept, null clears it, a value "
    "replaces it. To send the credentials to a new place, send all of them again."
)


@extend_schema_view(
    list=extend_schema(
        summary="The connections of a project",
        responses={200: ConnectionSerializer(many=True), **errors(400)},
    ),
)
class ConnectionViewSet(ProjectScoped, mixins.ListModelMixin, viewsets.GenericViewSet[Connection]):
    queryset = Connection.objects.none()
    serializer_class = ConnectionSerializer
    permission_classes = (ProjectPermission,)
    parser_classes = (StrictJSONParser,)
    filterset_class = ConnectionFilter
    pagination_class = NewestFirstPagination
    lookup_url_kwarg = "connection_id"
    lookup_value_converter = "uuid"
    needs = {
        "list": READ,
        "retrieve": READ,
        "create": WRITE,
        "partial_update": WRITE,
        "destroy": WRITE,
        "sync": USE,
        "test": USE,
    }

    def get_queryset(self) -> QuerySet[Connection]:
        connections: QuerySet[Connection] = Connection.objects.filter(project=self.project)
        return connections

    def get_throttles(self) -> list[BaseThrottle]:
        throttles: list[BaseThrottle] = super().get_throttles()
        return [*throttles, UseThrottle()] if self.action in {"sync", "test"} else throttles

    @extend_schema(
        summary="Create a connection",
        request=ConnectionCreateSerializer,
        responses={201: WrittenConnectionSerializer, **errors(400)},
    )
    def create(self, request: Request, **kwargs: Any) -> Response:
        serializer = ConnectionCreateSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        data = serializer.validated_data
        changes = data.pop("credentials")
        with transaction.atomic():
            connection = Connection(project=self.project, **data)
            names, _ = connection.change_credentials(changes)
            connection.save()
            self._record(Action.CREATE, connection, names)
        return self._written(connection, status.HTTP_201_CREATED)

    @extend_schema(
        summary="Read a connection",
        parameters=[IF_NONE_MATCH],
        responses={200: ConnectionDetailSerializer, 304: None},
    )
    def retrieve(self, request: Request, **kwargs: Any) -> Response:
        reply = self._reply(self.get_object())
        if is_fresh(request, reply["ETag"]):
            return Response(status=status.HTTP_304_NOT_MODIFIED, headers={"ETag": reply["ETag"]})
        return reply

    @extend_schema(
        summary="Change a connection",
        description=CREDENTIALS,
        parameters=[IF_MATCH],
        request=ConnectionUpdateSerializer,
        responses={200: WrittenConnectionSerializer, **errors(400, 412)},
    )
    @transaction.atomic
    def partial_update(self, request: Request, **kwargs: Any) -> Response:
        connection = self._locked(request)
        serializer = ConnectionUpdateSerializer(connection, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        data = serializer.validated_data
        changes = data.pop("credentials", {})
        for name, value in data.items():
            setattr(connection, name, value)
        fields = [*data, "updated_at"]
        connection.updated_at = timezone.now()
        if changes:
            set_names, cleared = connection.change_credentials(changes)
            self._record(Action.CHANGE, connection, set_names)
            self._record(Action.CLEAR, connection, cleared)
            fields.append("credentials")
        connection.save(update_fields=fields)
        return self._written(connection)

    @extend_schema(
        summary="Delete a connection with its credentials and metrics",
        parameters=[IF_MATCH],
        responses={204: None, **errors(412)},
    )
    @transaction.atomic
    def destroy(self, request: Request, **kwargs: Any) -> Response:
        self._locked(request).delete()
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(
        summary="See whether the service takes the credentials",
        request=None,
        responses={200: OutcomeSerializer, **errors(400, 409, 424)},
    )
    @action(detail=True, methods=["post"])
    def test(self, request: Request, **kwargs: Any) -> Response:
        connection = self.get_object()
        NothingSerializer(data=request.data).is_valid(raise_exception=True)
        return _outcome(sync.check_connection(connection, actor_of(request)))

    @extend_schema(
        summary="Fetch what the service measured, now",
        request=None,
        responses={200: OutcomeSerializer, **errors(400, 409, 424)},
    )
    @action(detail=True, methods=["post"])
    def sync(self, request: Request, **kwargs: Any) -> Response:
        connection = self.get_object()
        NothingSerializer(data=request.data).is_valid(raise_exception=True)
        try:
            return _outcome(sync.sync_connection(connection.pk, actor_of(request)))
        except sync.BusyError:
            raise Conflict("This connection is being synced.", code="busy") from None

    def _locked(self, request: Request) -> Connection:
        """The connection, which nobody else changes until this transaction ends."""
        connection = (
            self.get_queryset().select_for_update().filter(pk=self.kwargs["connection_id"]).first()
        )
        if connection is None:
            raise NotFound
        require_match(request, etag_of(self._shown(connection)))
        return connection

    def _shown(self, connection: Connection) -> Any:
        return ConnectionDetailSerializer(connection).data

    def _reply(self, connection: Connection, code: int = status.HTTP_200_OK) -> Response:
        shown = self._shown(connection)
        return Response(shown, code, headers={"ETag": etag_of(shown)})

    def _written(self, connection: Connection, code: int = status.HTTP_200_OK) -> Response:
        """The reply to a write; its warnings are about others, and not in the ETag."""
        shown = WrittenConnectionSerializer(connection).data
        return Response(shown, code, headers={"ETag": etag_of(self._shown(connection))})

    def _record(self, what: Action, connection: Connection, names: list[str]) -> None:
        if names:
            actor = actor_of(self.request)
            CredentialEvent.objects.record(what, connection, actor, names)


def _outcome(outcome: sync.Outcome) -> Response:
    """The reply for an outcome; what depends on the connection's own state is an error.

    Raises:
        FailedDependency: the credentials cannot be decrypted.
        Conflict: the service is not supported, or credentials are missing.
    """
    if outcome.code == "undecryptable":
        raise FailedDependency(outcome.detail, code=outcome.code)
    if outcome.code in {"unsupported", "credentials_missing"}:
        raise Conflict(outcome.detail, code=outcome.code)
    return Response(OutcomeSerializer(outcome).data)


class MetricPagination(StrictCursorPagination):
    ordering = ("-at", "-pk")
    page_size = 200
    max_page_size = 1000


@extend_schema_view(
    list=extend_schema(
        summary="What a connection measured, newest first",
        responses={200: MetricSerializer(many=True), **errors(400)},
    )
)
class MetricViewSet(ProjectScoped, mixins.ListModelMixin, viewsets.GenericViewSet[Metric]):
    queryset = Metric.objects.none()
    serializer_class = MetricSerializer
    permission_classes = (ProjectPermission,)
    filterset_class = MetricFilter
    pagination_class = MetricPagination
    needs = {"list": Need(Role.VIEWER, "metrics:read")}

    def get_queryset(self) -> QuerySet[Metric]:
        connections = Connection.objects.filter(project=self.project)
        connection = connections.filter(pk=self.kwargs["connection_id"]).only("pk").first()
        if connection is None:
            raise NotFound
        return Metric.objects.filter(connection=connection)
