"""The REST list and detail of connections, against the same views over a plain field."""

from collections.abc import Callable
from typing import Any

from django.contrib.auth import get_user_model
from django.db import models
from rest_framework.test import APIRequestFactory, force_authenticate

from benchmarks.timing import Task, Timing, interleaved
from connections.filters import ConnectionFilter
from connections.models import Connection
from connections.serializers import ConnectionDetailSerializer, ConnectionSerializer
from connections.views import ConnectionViewSet
from encryption.fields import BlindIndexField
from projects.models import Project

_CREDENTIALS = {"api_key": "sk_test_" + "x" * 40}
_SHOWN = ("integration", "credential_fields", "has_readable_credentials")


def _plain_model() -> type[models.Model]:
    """The model of a connection with its credentials in a plain ``JSONField``."""
    members: dict[str, Any] = {
        "__module__": "benchmarks.models",
        "Meta": type("Meta", (), {"app_label": "benchmarks", "db_table": "plain_connection"}),
        **{name: Connection.__dict__[name] for name in _SHOWN},
    }
    for field in Connection._meta.local_concrete_fields:
        if not isinstance(field, BlindIndexField):
            members[field.name] = field.clone()
    members["project"] = models.ForeignKey(Project, models.CASCADE, related_name="+")
    members["credentials"] = models.JSONField(default=dict)
    return type("PlainConnection", (models.Model,), members)


PlainConnection: Any = _plain_model()


class _PlainSerializer(ConnectionSerializer):
    class Meta(ConnectionSerializer.Meta):
        model = PlainConnection


class _PlainDetailSerializer(ConnectionDetailSerializer):
    class Meta(ConnectionDetailSerializer.Meta):
        model = PlainConnection


class _PlainFilter(ConnectionFilter):
    class Meta(ConnectionFilter.Meta):
        model = PlainConnection


class _PlainViewSet(ConnectionViewSet):
    serializer_class = _PlainSerializer
    filterset_class = _PlainFilter

    def get_queryset(self) -> Any:
        return PlainConnection.objects.filter(project=self.project)

    def _shown(self, connection: Any) -> Any:
        return _PlainDetailSerializer(connection).data


def measure(rows: int, times: int, repetitions: int) -> dict[str, dict[str, Timing]]:
    """Time requests from the view to the rendered reply, with the permissions of a person.

    Args:
        rows: connections of the project; a page of the list shows up to 100 of them.
        times: requests of a repetition.
    """
    owner = get_user_model().objects.create(username="benchmark of the views")
    project = Project.objects.create(name="Benchmark", owner=owner)
    for number in range(rows):
        values = {"service": "stripe", "name": f"Connection {number}", "credential_names": []}
        for model in (PlainConnection, Connection):
            model.objects.create(project=project, credentials=_CREDENTIALS, **values)
    views = {"plain": (_PlainViewSet, PlainConnection), "dashtray": (ConnectionViewSet, Connection)}
    figures = {}
    for title, action, page in (("list", "list", {"page_size": 100}), ("detail", "retrieve", {})):
        tasks = {
            name: _requests(view, action, project, model.objects.first(), owner, page, times)
            for name, (view, model) in views.items()
        }
        figures[f"{title}, {min(rows, 100)} connections" if page else title] = interleaved(
            tasks, times, repetitions
        )
    return figures


def _requests(
    view: type[ConnectionViewSet],
    action: str,
    project: Project,
    row: Any,
    owner: Any,
    query: dict[str, Any],
    times: int,
) -> Task:
    handle: Callable[..., Any] = view.as_view({"get": action})
    path = {"project_id": project.pk} | ({} if action == "list" else {"connection_id": row.pk})
    factory = APIRequestFactory()

    def run() -> None:
        for _ in range(times):
            request = factory.get("/", query)
            force_authenticate(request, owner)
            reply = handle(request, **path).render()
            if reply.status_code != 200:
                raise RuntimeError(f"{action} was answered with {reply.status_code}")

    return lambda: run
