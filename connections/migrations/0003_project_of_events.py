from typing import Any

from django.db import migrations, models
from django.db.models import F


def keep_ids(apps: Any, schema_editor: Any) -> None:
    events = apps.get_model("connections", "CredentialEvent").objects
    events.using(schema_editor.connection.alias).update(project_ref=F("project_id"))


def point_to_projects(apps: Any, schema_editor: Any) -> None:
    connection = schema_editor.connection
    events = apps.get_model("connections", "CredentialEvent").objects.using(connection.alias)
    there = apps.get_model("projects", "Project").objects.using(connection.alias).values("pk")
    events.filter(project_ref__in=there).update(project_id=F("project_ref"))
    # PostgreSQL alters no table with foreign keys that are still to be checked.
    connection.check_constraints()


class Migration(migrations.Migration):
    """A record names its project by its id alone, which stays when the project goes."""

    dependencies = [
        ("connections", "0002_blind_indexes"),
    ]

    operations = [
        migrations.AddField(
            "credentialevent", "project_ref", models.UUIDField("project id", null=True)
        ),
        migrations.RunPython(keep_ids, point_to_projects),
    ]
