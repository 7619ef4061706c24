"""Peak memory of a rotation by rows of the table: ``python -m benchmarks.memory_of_rotation``.

Each table, in an SQLite file, is filled by one process and rotated by another with the command, as
an operator runs it: where the machine has several cores, it forks for many rows. The operating
system tells the peak resident memory; of several processes the largest one's counts. The difference
has to stay within 20 MB.
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

MOST_MEGABYTES = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--step", choices=["fill", "rotate"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        _step(options.step, options.rows[0])
        return 0
    peaks = []
    for rows in options.rows:
        with TemporaryDirectory() as folder:
            environment = {**os.environ, "MEMORY_DATABASE": str(Path(folder) / "rows.sqlite3")}
            for step in ("fill", "rotate"):
                command = [sys.executable, "-m", __spec__.name, "--rows", str(rows), "--step", step]
                told = subprocess.run(
                    command, env=environment, check=True, stdout=subprocess.PIPE, text=True
                ).stdout
        peak, seconds = map(float, told.split())
        peaks.append(peak)
        print(f"{rows:>9,} rows: peak {peak:.1f} MB, {rows / seconds:,.0f} rows/s")
    growth = max(peaks) - min(peaks)
    print(f"difference {growth:.1f} MB (at most {MOST_MEGABYTES})")
    return int(growth > MOST_MEGABYTES)


def _step(step: str, rows: int) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
    import django  # noqa: PLC0415

    django.setup()
    from django.db import connections  # noqa: PLC0415

    connections.settings["default"]["NAME"] = os.environ["MEMORY_DATABASE"]
    if step == "fill":
        _fill(rows)
        return
    start = time.perf_counter()
    _rotate(rows)
    seconds = time.perf_counter() - start
    # Kilobytes on Linux, bytes on macOS.
    unit = 1_000_000 if sys.platform == "darwin" else 1_000
    own, of_the_largest_child = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(max(own, of_the_largest_child) / unit, seconds)


def _fill(rows: int) -> None:
    from django.db import connection, transaction  # noqa: PLC0415

    from benchmarks.models import Encrypted, Tenant  # noqa: PLC0415
    from benchmarks.rotations import OLD  # noqa: PLC0415
    from encryption.core.keyring import Keyring  # noqa: PLC0415
    from encryption.models import RotationRun  # noqa: PLC0415

    keyring, field = Keyring(OLD), Encrypted._meta.get_field("secret")
    with connection.schema_editor() as editor:
        for model in (Tenant, Encrypted, RotationRun):
            editor.create_model(model)
    tenants = [Tenant.objects.create(name="tenant").pk for _ in range(1_000)]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {Encrypted._meta.db_table} (tenant_id, secret) VALUES (%s, %s)",
            (
                (pk, keyring.encrypt(f"secret {number}", str(pk), field.aad_context))
                for number in range(rows)
                for pk in (tenants[number % len(tenants)],)
            ),
        )


def _rotate(rows: int) -> None:
    from django.core.management import execute_from_command_line  # noqa: PLC0415

    from benchmarks.rotations import use_keys  # noqa: PLC0415
    from encryption.models import RotationRun  # noqa: PLC0415

    use_keys()
    of_this_table = ("--model", "benchmarks.Encrypted", "--database", "default")
    with redirect_stdout(io.StringIO()):
        execute_from_command_line(["manage.py", "rotate_master_key", *of_this_table])
    (counts,) = RotationRun.objects.get(part_of=None).columns
    if counts["rotated"] != rows:
        raise RuntimeError(f"{counts['rotated']} of {rows} rows were rotated")


if __name__ == "__main__":
    sys.exit(main())
