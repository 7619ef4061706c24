"""Workers that are killed, in processes of their own, for the tests of crashes.

    python -m tests.connections.crashing fill URL COUNT   make connections to a Prometheus at URL
    python -m tests.connections.crashing points           sync one, killed at each of its queries
    python -m tests.connections.crashing state            tell what the database holds
    python -m tests.connections.crashing pass             let all leases end, as time does

Prints one JSON document.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import django


def fill(url: str, count: str) -> None:
    from tests.connections.factories import CANARY, ConnectionFactory  # noqa: PLC0415

    for _ in range(int(count)):
        ConnectionFactory(
            service="prometheus",
            config={"base_url": url, "queries": {"load": "node_load1"}},
            credentials={"bearer_token": CANARY},
        )


def state() -> list[dict[str, Any]]:
    """Of each connection, what a killed worker could have left behind."""
    from django.utils import timezone  # noqa: PLC0415

    from connections.models import Connection  # noqa: PLC0415

    def seconds_held(connection: Connection) -> float:
        if connection.lease_until is None:
            return 0
        return (connection.lease_until - timezone.now()).total_seconds()

    return [
        {
            "moments": list(map(str, one.metrics.order_by("at").values_list("at", flat=True))),
            "held": seconds_held(one),
            "synced": one.last_synced_at is not None,
            "status": one.status,
            "health": one.health_score,
            "uses": list(one.credential_events.values_list("count", flat=True)),
        }
        for one in Connection.objects.order_by("pk")
    ]


def end_leases() -> None:
    from django.utils import timezone  # noqa: PLC0415

    from connections.models import Connection  # noqa: PLC0415

    Connection.objects.exclude(lease_until=None).update(lease_until=timezone.now())


def points() -> list[dict[str, Any]]:
    """Kill a worker before and after its first query, its second, and so on, until one survives.

    Returns:
        For each worker what it left, and what the next one made of it.
    """
    from connections.models import Connection, CredentialEvent, Metric  # noqa: PLC0415
    from connections.sync import sync_connection  # noqa: PLC0415

    pk = Connection.objects.get().pk
    found = []
    for point in range(100):
        before, number = point % 2 == 0, point // 2
        Metric.objects.all().delete()
        CredentialEvent.objects.all().delete()
        Connection.objects.update(last_synced_at=None, last_tried_at=None, lease_until=None)
        status = in_a_process(lambda n=number, b=before: killed_at(n, b, sync_connection, pk))
        left = state()[0]
        end_leases()
        healed = in_a_process(lambda: sync_connection(pk))
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        found.append({"killed": killed, "left": left, "healed": healed, "after": state()[0]})
        if not killed:
            return found
    raise AssertionError("the worker does not come to an end")


def killed_at(number: int, before: bool, work: Callable[..., Any], *args: Any) -> None:
    from django.db import connection  # noqa: PLC0415

    count = 0

    def kill(execute: Any, *query: Any) -> Any:
        nonlocal count
        count += 1
        if count > number and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = execute(*query)
        if count > number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    with connection.execute_wrapper(kill):
        work(*args)


def in_a_process(work: Callable[[], Any]) -> int:
    """Run something in a process that shares no connection, and return how it ended."""
    from django.db import connections  # noqa: PLC0415

    connections.close_all()
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    code = 1
    try:
        work()
        connections.close_all()
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.encryption.keys_of_environment")
    django.setup()
    commands: dict[str, Callable[..., Any]] = {
        "fill": fill,
        "points": points,
        "state": state,
        "pass": end_leases,
    }
    json.dump(commands[sys.argv[1]](*sys.argv[2:]), sys.stdout)
