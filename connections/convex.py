"""Moving over from the original product: its connections. See :mod:`projects.convex`."""

import json
from typing import Any

from connections.changes import name_problem
from connections.integrations import registry
from connections.models import Connection, CredentialEvent, Status
from connections.models.connection import FULL_HEALTH
from connections.models.event import Action
from projects.convex import Document, Import, UnreadableError, moment, name, opened, text
from projects.models import Project

ACTOR = "import"


def import_connections(run: Import) -> None:
    """Take the connections over: decrypted for the old project, encrypted for the new one.

    The credentials stay as they were, under the names that they had. Where this installation knows
    the service, what is configuration here is copied out of them.
    """
    for document in run.documents("connections"):
        run.take(
            "connections",
            document,
            lambda document=document: _connection(run, document),  # type: ignore[misc]
        )


def _connection(run: Import, document: Document) -> Connection:
    project_id = run.reference("projects", document, "projectId")
    project = Project.objects.filter(pk=project_id).first()
    if project is None:
        raise UnreadableError("its project was deleted here")
    service = text(document, "service")
    credentials = _credentials(document)
    integration = registry.get(service)
    created = moment(document, "createdAt", "_creationTime")
    connection = Connection(
        project=project,
        service=service,
        name=_name(run, document, integration.title if integration else service),
        config=integration.config_from(credentials) if integration else {},
        credentials=credentials,
        status=_status(document),
        health_score=_health(document),
        last_synced_at=moment(document, "lastSyncedAt", "lastSyncAt"),
    )
    if created is not None:
        connection.created_at = created
    connection.updated_at = moment(document, "updatedAt") or connection.created_at
    connection.full_clean(exclude=["credentials", "project"])
    connection.save()
    CredentialEvent.objects.record(Action.IMPORT, connection, ACTOR, connection.credential_names)
    return connection


def _name(run: Import, document: Document, default: str) -> str:
    found = name(document, "name", 100, default)
    if name_problem(found) is None:
        return found
    run.remarks.append(
        ("connections", document["_id"], "its name looks like a secret: it is named by its service")
    )
    return name({"service": default}, "service", 100)


def _credentials(document: Document) -> dict[str, Any]:
    plain = opened(document, "encryptedCredentials", text(document, "projectId"))
    try:
        credentials = json.loads(plain)
    except ValueError:
        credentials = None
    del plain
    if not isinstance(credentials, dict):
        raise UnreadableError("its credentials are no JSON object")
    return credentials


def _status(document: Document) -> str:
    status = document.get("status", Status.ACTIVE)
    if status not in Status.values:
        raise UnreadableError(f"its status is none of {', '.join(Status.values)}")
    return str(status)


def _health(document: Document) -> int:
    health = document.get("healthScore", FULL_HEALTH)
    if not isinstance(health, (int, float)) or not 0 <= health <= FULL_HEALTH:
        raise UnreadableError("its healthScore is no number from 0 to 100")
    return round(health)
