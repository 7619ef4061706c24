"""Rotation against the bare limit: the same statements with ready strings and no cryptography."""

import os
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connections, transaction

from benchmarks.models import PEERS, Encrypted, Tenant
from benchmarks.rows import TEXT, Model, empty
from benchmarks.timing import Task, Timing, interleaved
from encryption.conf import get_keyring, reset
from encryption.core.derivation import MasterKey
from encryption.core.keyring import Keyring
from encryption.processes import Workers, plan_for
from encryption.ranges import collect
from encryption.registry import EncryptedColumn
from encryption.rotation import DEFAULT_BATCH_SIZE, Options, Rotation

_KEYS = "an old key for measurements, known", "a new key for measurements, known"
OLD, NEW = MasterKey(_KEYS[0]), MasterKey(_KEYS[1])
_PAGE = DEFAULT_BATCH_SIZE
_COLUMN = EncryptedColumn(Encrypted, Encrypted._meta.get_field("secret"))
_TABLE = Encrypted._meta.db_table


def measure(
    alias: str, rows: int, repetitions: int, processes: int = 1
) -> dict[str, dict[str, Timing]]:
    """Time a rotation from one v2 key to another, and those of the peers that can do one.

    The bare limit is hand-written SQL; beside it stands what the engine's own statements take.

    The peers have no command that reads back or keeps a user's edit: they are timed with the
    fastest way there is, upserts of pages without any check.

    Args:
        processes: time a rotation in so many processes too; the database is in no memory then.
    """
    before = _stored(alias, Keyring(OLD), rows)
    after = {pk: token for pk, _, token in _stored(alias, Keyring(NEW), rows)}
    tasks = {
        "bare limit": lambda: _fill(alias, before) or (lambda: _bare(alias, after)),
        "dashtray with ready strings": lambda: (
            _fill(alias, before) or (lambda: _write_ready(alias, after))
        ),
        "dashtray": lambda: _fill(alias, before) or (lambda: _rotate(alias, rows)),
    }
    if processes > 1:
        use_keys()
        tasks[f"dashtray, {processes} processes"] = lambda: (
            _fill(alias, before) or (lambda: _rotate_in(processes, rows))
        )
    figures = interleaved(tasks, rows, repetitions)
    few = min(rows, 10_000)
    for peer in PEERS:
        if peer.text is not None:
            theirs = interleaved({"peer": _upserts(peer.text, alias, few)}, few, 1)["peer"]
            ratio = theirs.microseconds / figures["bare limit"].microseconds
            figures[peer.name] = Timing(theirs.microseconds, ratio)
    return {f"rotate {rows:,}, v2 to v2": figures}


def from_v1(alias: str, rows: int, tenants: int, processes: int) -> dict[str, float]:
    """Rotate v1 rows of many tenants once: seconds, and how many cores that kept busy.

    Those of the whole machine, where Linux tells them, have the database server's in them, and
    whatever else ran.
    """
    old = Keyring(OLD, write_format="v1")
    _fill(alias, _stored(alias, old, rows, tenants))
    use_keys()
    start, cpu, machine = time.perf_counter(), _processor_seconds(), _machine_seconds()
    if processes > 1:
        Rotation(_COLUMN, alias).derive_ahead()
        _rotate_in(processes, rows)
    else:
        _rotate(alias, rows, get_keyring())
    wall = time.perf_counter() - start
    found = {
        "rows": rows,
        "tenants": tenants,
        "processes": processes,
        "seconds": wall,
        "processor seconds per second": (_processor_seconds() - cpu) / wall,
        "cores": os.cpu_count() or 1,
    }
    if machine is not None and (after := _machine_seconds()) is not None:
        found["of the machine"] = (after - machine) / wall
    return found


def _processor_seconds() -> float:
    """Of this process and those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _machine_seconds() -> float | None:
    """Of all processes and the kernel since the machine began; ``None`` where that is not told."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, first.split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _stored(
    alias: str, keyring: Keyring, rows: int, tenants: int = 100
) -> list[tuple[int, int, str]]:
    keys = [tenant.pk for tenant in Tenant.objects.using(alias).order_by("pk")[:tenants]]
    context = _COLUMN.field.aad_context
    return [
        (number + 1, key, keyring.encrypt(TEXT, str(key), context))
        for number in range(rows)
        for key in (keys[number % len(keys)],)
    ]


def _fill(alias: str, rows: list[tuple[int, int, str]]) -> None:
    empty(Encrypted, alias)
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {_TABLE} (id, tenant_id, secret) VALUES (%s, %s, %s)", rows
        )


def _rotate(alias: str, rows: int, keyring: Keyring | None = None) -> None:
    report = Rotation(_COLUMN, alias, keyring=keyring or Keyring(NEW, [OLD])).run()
    if report.rotated != rows or report.failures:
        raise RuntimeError(f"{report.rotated} of {rows} rows were rotated")


class _Ready(Rotation):
    """The engine with all that it reads, writes and reads back, and no cryptography."""

    def __init__(self, alias: str, new: dict[int, str]) -> None:
        super().__init__(_COLUMN, alias, keyring=Keyring(NEW, [OLD]))
        self._new = new

    def _resealed(self, page: Any, salts: Any) -> Any:
        return [("", self._new[row[0]]) for row in page]


def _write_ready(alias: str, new: dict[int, str]) -> None:
    if _Ready(alias, new).run().rotated != len(new):
        raise RuntimeError("not all rows were written")


def use_keys() -> None:
    """Have the settings name the keys of the measurement, with their roots derived."""
    settings.ENCRYPTION = {"MASTER_KEY": _KEYS[1], "MASTER_KEY_FALLBACKS": [_KEYS[0]]}
    reset()
    get_keyring().key_ids()


def _rotate_in(processes: int, rows: int) -> None:
    """What the command does with `--processes`, planning and records included."""
    run = plan_for(processes, {(_COLUMN, "default"): rows}, Options(), "a measurement")
    workers = Workers(run.pk, processes)
    with workers.running():
        while not workers.wait(0.5):
            collect(run.pk)
    (counts,) = collect(run.pk).columns
    if counts["rotated"] != rows or workers.broken:
        raise RuntimeError(f"{counts} of {rows} rows were rotated")


def _bare(alias: str, new: dict[int, str]) -> None:
    """Pages, compare-and-swaps and read-backs by hand-written SQL, through one cursor."""
    connection = connections[alias]
    last = 0
    with connection.cursor() as cursor:
        while True:
            cursor.execute(
                f"SELECT id, secret, tenant_id FROM {_TABLE} WHERE secret IS NOT NULL AND id > %s "
                f"AND substr(secret, 4, 8) <> %s ORDER BY id LIMIT {_PAGE}",
                [last, NEW.key_id],
            )
            page = cursor.fetchall()
            if not page:
                break
            last = page[-1][0]
            with transaction.atomic(using=alias):
                _swap(cursor, connection.vendor, page, new)
                cursor.execute(
                    f"SELECT id, secret, tenant_id FROM {_TABLE} WHERE id BETWEEN %s AND %s",
                    [page[0][0], last],
                )
                for pk, token, _ in cursor.fetchall():
                    if token != new[pk]:
                        raise RuntimeError("a row was not written")
    if last != len(new):
        raise RuntimeError(f"{last} of {len(new)} rows were written")


def _swap(cursor: Any, vendor: str, page: list[tuple[Any, ...]], new: dict[int, str]) -> None:
    if vendor == "postgresql":
        cursor.execute(
            f"UPDATE {_TABLE} SET secret = swaps.new "
            "FROM unnest(string_to_array(%s, ',')::bigint[], string_to_array(%s, ','), "
            "string_to_array(%s, ',')) AS swaps (pk, old, new) "
            f"WHERE id = swaps.pk AND secret = swaps.old",
            [
                ",".join([str(row[0]) for row in page]),
                ",".join([row[1] for row in page]),
                ",".join([new[row[0]] for row in page]),
            ],
        )
    else:
        cursor.executemany(
            f"UPDATE {_TABLE} SET secret = %s WHERE id = %s AND secret = %s",
            [(new[row[0]], row[0], row[1]) for row in page],
        )


def _upserts(model: Model, alias: str, rows: int) -> Task:
    manager = model._base_manager.using(alias)

    def run() -> None:
        last = 0
        while page := list(manager.filter(pk__gt=last).order_by("pk")[:_PAGE]):
            last = page[-1].pk
            manager.bulk_create(
                page, update_conflicts=True, update_fields=["secret"], unique_fields=["id"]
            )

    def prepare() -> Any:
        empty(model, alias)
        tenant = Tenant.objects.using(alias).order_by("pk")[0].pk
        manager.bulk_create([model(tenant_id=tenant, secret=TEXT) for _ in range(rows)])
        return run

    return prepare
