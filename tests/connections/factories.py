from typing import Any

import factory
from django.db import connection as database
from factory.django import DjangoModelFactory

from connections.models import Connection
from tests.projects.factories import ProjectFactory

#: What no output may ever contain.
CANARY = "canary4eC39HqLyjWDarjtT1zdp7dc"


class ConnectionFactory(DjangoModelFactory[Connection]):
    class Meta:
        model = Connection

    project = factory.SubFactory(ProjectFactory)
    service = "stripe"
    name = factory.Sequence(lambda n: f"Connection {n}")
    credentials = factory.LazyFunction(lambda: {"api_key": f"rk_live_{CANARY}"})

    class Params:
        github = factory.Trait(
            service="github",
            config={"owner": "acme", "repositories": ["shop"]},
            credentials={"token": f"ghp_{CANARY}"},
        )
        prometheus = factory.Trait(
            service="prometheus",
            config={"base_url": "https://prometheus.example", "queries": {"up": "sum(up)"}},
            credentials={"username": f"user-{CANARY}", "password": f"pass-{CANARY}"},
        )


def poison(connection: Any) -> None:
    """Make the stored credentials unreadable, as a lost master key does."""
    with database.cursor() as cursor:
        cursor.execute(
            f"UPDATE {Connection._meta.db_table} SET credentials = %s WHERE id = %s",
            [
                "v2:deadbeef:" + "A" * 80,
                Connection._meta.pk.get_db_prep_value(connection.pk, database),
            ],
        )
