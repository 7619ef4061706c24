"""Looking a value up by its blind index, against the same on a plain indexed column.

By itself: ``python -m benchmarks --only lookups``.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from django.db import connections, models

from benchmarks import models as tables
from benchmarks.timing import Task, Timing, interleaved

Model = type[models.Model]

#: Rows of one INSERT, while the tables are filled.
_BATCH = 5_000


def measure(alias: str, count: int, repetitions: int, lookups: int) -> dict[str, Any]:
    """Time lookups among `count` rows of up to 1,000 tenants, each row with its own value.

    Args:
        lookups: how many are done in one repetition.
    """
    tenants = list(tables.Tenant.objects.using(alias).order_by("pk"))
    values = [secrets.token_urlsafe(30) for _ in range(count)]
    columns: dict[str, Model] = {"plain": tables.PlainSearched, "dashtray": tables.Searched}
    for model in columns.values():
        _fill(model, alias, tenants, values)
    step = max(1, count // lookups)
    wanted = [(tenants[n % len(tenants)], values[n]) for n in range(0, count, step)][:lookups]

    def timed(task: Callable[[Any, Any, str], object]) -> dict[str, Timing]:
        tasks = {name: _many(task, model, alias, wanted) for name, model in columns.items()}
        return interleaved(tasks, len(wanted), repetitions)

    figures = {
        f"find among {count:,}": timed(_find),
        "find and read": timed(lambda rows, tenant, value: _find(rows, tenant, value).secret),
        "exists": timed(
            lambda rows, tenant, value: rows.filter(tenant=tenant, secret=value).exists()
        ),
        "find nothing": timed(
            lambda rows, tenant, value: list(rows.filter(tenant=tenant, secret=f"{value} not"))
        ),
    }
    for model in columns.values():
        model._base_manager.using(alias).all()._raw_delete(alias)
    return figures


def _find(rows: Any, tenant: Any, value: str) -> Any:
    return rows.get(tenant=tenant, secret=value)


def _fill(model: Model, alias: str, tenants: Sequence[Any], values: Sequence[str]) -> None:
    for start in range(0, len(values), _BATCH):
        model._base_manager.using(alias).bulk_create(
            [
                model(tenant=tenants[number % len(tenants)], secret=values[number])
                for number in range(start, min(start + _BATCH, len(values)))
            ]
        )
    connection = connections[alias]
    with connection.cursor() as cursor:
        table = connection.ops.quote_name(model._meta.db_table)
        cursor.execute(f"{'VACUUM ' * (connection.vendor == 'postgresql')}ANALYZE {table}")


def _many(
    task: Callable[[Any, Any, str], object],
    model: Model,
    alias: str,
    wanted: Sequence[tuple[Any, str]],
) -> Task:
    rows = model._base_manager.using(alias)

    def run() -> None:
        for tenant, value in wanted:
            task(rows, tenant, value)

    return lambda: run
