"""Run the measurements: ``python -m benchmarks [--quick]``."""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import OperationalError, connections  # noqa: E402

from benchmarks import (  # noqa: E402
    chart,
    keys,
    lookups,
    models,
    report,
    rest,
    rows,
    values,
)
from benchmarks.timing import Clock, Timing  # noqa: E402

RESULTS = Path(__file__).parent / "results"


def sizes(rows: int, repetitions: int) -> dict[str, Any]:
    """How much is measured: `rows` is 10,000 in a full run and 200 in a quick one."""
    return {
        "rows": rows,
        "tenants": min(1_000, rows // 2),
        "rotated": rows * 10,
        "v1 tenants": max(5, rows // 20),
        "growth": (rows // 10, rows, rows * 10),
        "connections": min(100, rows // 20),
        "values": 300,
        "singles": max(20, rows // 40),
        "repetitions": repetitions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers: to see that it runs")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of a table (10,000)")
    parser.add_argument("--repetitions", type=int, default=7, help="of each measure (7)")
    parser.add_argument("--only", choices=["lookups"], help="print this part, and keep nothing")
    options = parser.parse_args()
    quick = options.quick
    size = sizes(200, 1) if quick else sizes(options.rows, options.repetitions)
    if options.only:
        only_lookups(size)
        return
    path = RESULTS / f"{'quick' if quick else 'full'}.json"
    gc.collect()
    gc.freeze()  # what was imported is not looked at before each measure again
    result: dict[str, Any] = {"machine": machine(), "size": size, "databases": {}}
    print(report.heading(result["machine"]))
    Clock.use(time.process_time)
    result["values"] = shown(
        "Single values", values.measure(size["values"], size["repetitions"] * 3)
    )
    with database("default"):
        result["databases"]["SQLite"] = of_database("SQLite", "default", size)
        result["databases"]["SQLite"] |= of_rotation("sqlite", size)
        report.save(path, result)  # a run that is broken off keeps what it has
        result["keys"] = shown("API keys", keys.measure(size["singles"], size["repetitions"]))
        figures = rest.measure(size["connections"], size["singles"], size["repetitions"])
        result["rest"] = shown("REST, requests from the view to the reply", figures)
    Clock.use(time.perf_counter)
    try:
        with database("postgresql"):
            result["databases"]["PostgreSQL"] = of_database("PostgreSQL", "postgresql", size)
        result["databases"]["PostgreSQL"] |= of_rotation("postgresql", size)
    except OperationalError as error:
        if not quick:
            raise
        print(f"\nPostgreSQL was left out: {str(error).splitlines()[0]}", file=sys.stderr)
    result["problems"] = {peer.name: peer.problem for peer in models.PEERS if peer.problem}
    for name, problem in result["problems"].items():
        print(f"{name} does not run: {problem}")
    result["load at the end"] = os.getloadavg()
    report.save(path, result)
    path.with_suffix(".svg").write_text(chart.draw(result), encoding="utf-8")


def of_rotation(name: str, size: dict[str, Any]) -> dict[str, Any]:
    """The measures of rotations, by a process of their own: several share a database there."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rotation.json"
        command = [sys.executable, "-m", "benchmarks.rotation_speed", name, "--result", str(path)]
        for option, key in (("--rows", "rotated"), ("--tenants", "v1 tenants")):
            command += [option, str(size[key])]
        command += ["--repetitions", str(min(size["repetitions"], 3))]
        subprocess.run(command, check=True)
        found = json.loads(path.read_text(encoding="utf-8"))
    return {kind: found[kind] for kind in ("rotation", "rotation from v1")}


def only_lookups(size: dict[str, Any]) -> None:
    """Measure lookups alone."""
    clocks = {"SQLite": time.process_time, "PostgreSQL": time.perf_counter}
    aliases = {"SQLite": "default", "PostgreSQL": "postgresql"}
    print(report.heading(machine()))
    for title, alias in aliases.items():
        Clock.use(clocks[title])
        with database(alias):
            shown(f"{title}: lookups", of_lookups(alias, size))


def of_lookups(alias: str, size: dict[str, Any]) -> dict[str, dict[str, Timing]]:
    """The measures of lookups among ten times as many rows as in a table."""
    return lookups.measure(alias, size["rotated"], size["repetitions"], size["singles"])


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
        cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
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
    figures["lookups"] = shown(f"{title}: lookups", of_lookups(alias, size))
    figures["growth"] = shown(f"{title}: growth", rows.growth(alias, size["growth"]))
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
