"""The rotation alone: ``python -m benchmarks.rotation_speed [sqlite|memory|postgresql]``.

SQLite is a file in WAL mode with the site's settings; ``memory`` is SQLite in memory, which other
processes cannot share. All times are on the wall. Bare limit, one process and two take turns.
"""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"

import django

django.setup()

from django.db import connections  # noqa: E402

from benchmarks import report, rotations  # noqa: E402
from benchmarks.__main__ import database, machine  # noqa: E402
from encryption.models import RotationRun  # noqa: E402

#: What the site's settings say of SQLite.
_WAL = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rotation_speed")
    parser.add_argument("database", choices=["sqlite", "memory", "postgresql"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--tenants", type=int, default=500, help="of the rows under v1")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--result", type=Path, help="write the figures into this file too")
    options = parser.parse_args()
    default = connections.settings["default"]
    result: dict[str, Any] = {"machine": machine(), "database": options.database}
    with TemporaryDirectory() as folder:
        if options.database == "postgresql":
            default.update(connections.settings["postgresql"])
            del connections["default"]  # made for SQLite
        elif options.database == "sqlite":
            default["NAME"] = str(Path(folder) / "rows.sqlite3")
            default["OPTIONS"] = {"init_command": _WAL}
        with database("default"):
            if options.database == "postgresql":
                with connections["default"].schema_editor() as editor:
                    editor.create_model(RotationRun)
            _measure(options, result)
        connections.close_all()
    if options.result:
        report.save(options.result, result)


def _measure(options: argparse.Namespace, result: dict[str, Any]) -> None:
    rows, processes = options.rows, 1 if options.database == "memory" else 2
    figures = rotations.measure("default", rows, options.repetitions, processes)
    print(report.table(f"{options.database}: rotation", figures))
    result["rotation"] = {}
    for measure, timings in figures.items():
        for name, timing in timings.items():
            print(f"  {name:36} {1e6 / timing.microseconds:12,.0f} rows/s, {1 / timing.ratio:.2f}")
        result["rotation"][measure] = {name: asdict(one) for name, one in timings.items()}
    result["rotation from v1"] = {}
    for count in {1, processes}:
        found = rotations.from_v1("default", rows, options.tenants, count)
        result["rotation from v1"][str(count)] = found
        print(report.plain(found))


if __name__ == "__main__":
    sys.exit(main())
