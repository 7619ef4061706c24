import uuid
from typing import Any

import pytest
from django.apps import apps as current
from django.db import connection as database
from django.db.migrations.executor import MigrationExecutor

from connections.models import CredentialEvent
from tests.connections.factories import ConnectionFactory
from tests.projects.factories import ProjectFactory

BEFORE = [("connections", "0002_blind_indexes")]


def migrate(targets: list[tuple[str, str]]) -> Any:
    executor = MigrationExecutor(database)
    executor.migrate(targets)
    return executor.loader.project_state(targets).apps


@pytest.fixture
def latest():
    yield
    executor = MigrationExecutor(database)
    executor.migrate(executor.loader.graph.leaf_nodes())


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("latest")
def test_events_keep_their_project_there_and_back() -> None:
    kept, gone = ProjectFactory(), ProjectFactory()
    for project in (kept, gone):
        CredentialEvent.objects.record("test", ConnectionFactory(project=project), "user:1")
    lost = kept.pk, gone.pk
    gone.delete()
    CredentialEvent.objects.filter(action="delete").delete()

    apps = migrate(BEFORE)
    events = apps.get_model("connections", "CredentialEvent").objects.order_by("pk")
    assert list(events.values_list("project_id", flat=True)) == [kept.pk, None]
    events.create(action="use", actor="x", connection_ref=uuid.uuid4(), project_id=kept.pk)

    migrate(MigrationExecutor(database).loader.graph.leaf_nodes("connections"))
    projects = CredentialEvent.objects.order_by("pk").values_list("project_id", flat=True)
    assert list(projects) == [kept.pk, None, kept.pk]
    kept.delete()
    assert current.get_model("projects", "Project").objects.count() == 0
    assert set(CredentialEvent.objects.values_list("project_id", flat=True)) == {None, lost[0]}
