"""Run the measurements: ``python -m benchmarks [--quick] [--only NAME]``."""

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import OperationalError, connections  # noqa: E402

from benchmarks import chart, keys, models, report, rotations, rows, values  # noqa: E402
from benchmarks.timing import Timing  # noqa: E402

RESULTS = Path(__file__).parent / "results"

#: Rows, tenants and repetitions of the two forms of a run.
FULL = {
    "rows": 10_000,
    "tenants": 1_000,
    "rotated": 100_000,
    "v1 tenants": 500,
    "growth": (1_000, 10_000, 100_000),
    "values": 5_000,
    "singles": 300,
    "repetitions": 5,
}
QUICK = {
    "rows": 200,
    "tenants": 100,
    "rotated": 500,
    "v1 tenants": 5,
    "growth": (100, 200),
    "values": 200,
    "singles": 20,
    "repetitions": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers: to see that it runs")
    quick = parser.parse_args().quick
    size = QUICK if quick else FULL
    result: dict[str, Any] = {"machine": machine(), "size": size, "databases": {}}
    print(report.heading(result["machine"]))
    result["values"] = shown("Single values", values.measure(size["values"], size["repetitions"]))
    with database("default"):
        result["databases"]["SQLite"] = of_database("SQLite", "default", size)
        result["keys"] = shown("API keys", keys.measure(size["singles"], size["repetitions"]))
    try:
        with database("postgresql"):
            result["databases"]["PostgreSQL"] = of_database("PostgreSQL", "postgresql", size)
    except OperationalError as error:
        if not quick:
            raise
        print(f"\nPostgreSQL was left out: {str(error).splitlines()[0]}", file=sys.stderr)
    result["problems"] = {peer.name: peer.problem for peer in models.PEERS if peer.problem}
    for name, problem in result["problems"].items():
        print(f"{name} does not run: {problem}")
    result["load at the end"] = os.getloadavg()
    name = "quick" if quick else "full"
    report.save(RESULTS / f"{name}.json", result)
    (RESULTS / f"{name}.svg").write_text(chart.draw(result), encoding="utf-8")


def machine() -> dict[str, Any]:
    """What the figures depend on; nothing that names the machine."""
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load at the start": os.getloadavg(),
        **{name: version(name) for name in ("Django", "cryptography", "psycopg")},
    }


@contextmanager
def database(alias: str) -> Iterator[None]:
    """Make the tables; on PostgreSQL in a database of the run's own, dropped afterwards."""
    connection = connections[alias]
    if connection.vendor == "sqlite":
        call_command("migrate", database=alias, run_syncdb=True, verbosity=0)
        yield from _with_tenants(alias)
        return
    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    with connection._nodb_cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {name}")
        cursor.execute(f"CREATE DATABASE {name}")
    try:
        with connection.schema_editor() as editor:
            for model in models.TABLES:
                editor.create_model(model)
        yield from _with_tenants(alias)
    finally:
        connection.close()
        with connection._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name}")


def _with_tenants(alias: str) -> Iterator[None]:
    tenants = models.Tenant.objects.using(alias)
    tenants.bulk_create([models.Tenant(name=str(number)) for number in range(1_000)])
    yield


def of_database(title: str, alias: str, size: dict[str, Any]) -> dict[str, Any]:
    """All measures of one database, each shown as soon as it is there."""
    repetitions = size["repetitions"]
    figures: dict[str, Any] = {}
    for kind, measured in rows.kinds(alias, size["rows"]).items():
        figures[kind] = shown(f"{title}: {kind}", measured.measure(repetitions, size["singles"]))
    figures["tenants"] = shown(
        f"{title}: many tenants", rows.cold_tenants(alias, size["tenants"], repetitions)
    )
    figures["rotation"] = shown(
        f"{title}: rotation", rotations.measure(alias, size["rotated"], min(repetitions, 3))
    )
    figures["rotation from v1"] = rotations.from_v1(alias, size["rotated"], size["v1 tenants"])
    print(report.plain(figures["rotation from v1"]))
    figures["growth"] = shown(
        f"{title}: growth", rows.growth(alias, size["growth"], min(repetitions, 3))
    )
    for model in models.TABLES[1:]:
        rows.empty(model, alias)
    return figures


def shown(title: str, figures: dict[str, dict[str, Timing]]) -> dict[str, Any]:
    """Print figures, and return them as JSON has them."""
    print(report.table(title, figures), flush=True)
    return {
        measure: {name: asdict(timing) for name, timing in timings.items()}
        for measure, timings in figures.items()
    }


if __name__ == "__main__":
    start = time.monotonic()
    main()
    print(f"\n{time.monotonic() - start:.0f} s")
