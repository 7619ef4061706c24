"""Rows of a model with one encrypted field against the same rows with a plain one."""

from collections.abc import Callable, Sequence
from typing import Any

from django.db import connections, models

from benchmarks import models as tables, original
from benchmarks.timing import Task, Timing, interleaved, once
from encryption import conf

TEXT = "x" * 324
#: Its JSON text has about as many characters as TEXT.
JSON = {"api_key": "x" * 200, "scopes": ["read", "write"], "webhook": {"secret": "y" * 60}}

Model = type[models.Model]


class Rows:
    """The measures of one kind of value in one database.

    Args:
        columns: models by the name of the package; the plain one first.
        value: what all rows hold.
    """

    def __init__(self, alias: str, columns: dict[str, Model], value: Any, count: int) -> None:
        self.alias = alias
        self.columns = columns
        self.value = value
        self.count = count
        self.tenants: Sequence[Any] = list(tables.Tenant.objects.using(alias).order_by("pk"))

    def measure(self, repetitions: int, singles: int) -> dict[str, dict[str, Timing]]:
        """Time all measures; the tables are full of one tenant's rows afterwards."""
        name = f"insert {self.count:,}, 100 tenants"
        return {
            name: self._timed(self._insert(100), self.count, repetitions),
            **self.many(repetitions),
            "get and read one": self._timed(self._get(singles), singles, repetitions),
            "save one": self._timed(self._save(singles), singles, repetitions),
        }

    def many(self, repetitions: int) -> dict[str, dict[str, Timing]]:
        """Time what is done with all rows at once."""
        rows = self.count
        return {
            f"insert {rows:,}": self._timed(self._insert(1), rows, repetitions),
            f"load and read {rows:,}": self._timed(self._read, rows, repetitions),
            f"load {rows:,} unread": self._timed(self._load, rows, repetitions),
        }

    def _timed(
        self, task: Callable[[Model], Task], operations: int, repetitions: int
    ) -> dict[str, Timing]:
        tasks = {name: task(model) for name, model in self.columns.items()}
        return interleaved(tasks, operations, repetitions)

    def _insert(self, tenants: int) -> Callable[[Model], Task]:
        def of(model: Model) -> Task:
            def prepare() -> Callable[[], object]:
                empty(model, self.alias)
                manager = model._base_manager.using(self.alias)
                keys = [self.tenants[number % tenants].pk for number in range(self.count)]
                return lambda: manager.bulk_create(
                    [model(tenant_id=key, secret=self.value) for key in keys]
                )

            return prepare

        return of

    def _read(self, model: Model) -> Task:
        rows = model._base_manager.using(self.alias)
        return lambda: lambda: [row.secret for row in rows.all()]  # type: ignore[attr-defined]

    def _load(self, model: Model) -> Task:
        rows = model._base_manager.using(self.alias)
        return lambda: lambda: list(rows.all())

    def _get(self, times: int) -> Callable[[Model], Task]:
        def of(model: Model) -> Task:
            rows = model._base_manager.using(self.alias)
            pk = rows.values_list("pk", flat=True)[0]
            return lambda: lambda: [rows.get(pk=pk).secret for _ in range(times)]

        return of

    def _save(self, times: int) -> Callable[[Model], Task]:
        def of(model: Model) -> Task:
            row: Any = model._base_manager.using(self.alias).all()[0]

            def run() -> None:
                for number in range(times):
                    row.secret = (
                        f"{self.value}{number}"
                        if isinstance(self.value, str)
                        else {**self.value, "number": number}
                    )
                    row.save()

            return lambda: run

        return of


def empty(model: Model, alias: str) -> None:
    """Delete all rows of a table, by the fastest way there is."""
    connection = connections[alias]
    table = connection.ops.quote_name(model._meta.db_table)
    verb = "TRUNCATE" if connection.vendor == "postgresql" else "DELETE FROM"
    with connection.cursor() as cursor:
        cursor.execute(f"{verb} {table}")


def kinds(alias: str, count: int) -> dict[str, Rows]:
    """What is measured in a database: texts, JSON, and texts bound to their UUID."""
    peers = tables.PEERS
    text = {peer.name: peer.text for peer in peers if peer.text is not None}
    json = {peer.name: peer.json for peer in peers if peer.json is not None}
    return {
        "text": Rows(
            alias,
            {
                "plain": tables.Plain,
                "least": tables.Least,
                "dashtray": tables.Encrypted,
                **text,
            },
            TEXT,
            count,
        ),
        "json": Rows(
            alias,
            {
                "plain": tables.PlainJSON,
                "least": tables.LeastJSON,
                "dashtray": tables.EncryptedJSON,
                **json,
            },
            JSON,
            count,
        ),
        "text bound to a UUID": Rows(
            alias, {"plain": tables.PlainUuid, "dashtray": tables.BoundUuid}, TEXT, count
        ),
    }


def growth(alias: str, sizes: Sequence[int]) -> dict[str, dict[str, Timing]]:
    """Time insert, read and load at several sizes; linear is when the ratios stay."""
    figures = {}
    for size in sizes:
        repetitions = max(5, min(20, 200_000 // size))
        rows = Rows(alias, {"plain": tables.Plain, "dashtray": tables.Encrypted}, TEXT, size)
        figures.update(rows.many(repetitions))
    return figures


def cold_tenants(alias: str, tenants: int, repetitions: int) -> dict[str, dict[str, Timing]]:
    """Time reading one row of each tenant with no key derived yet, against one tenant's rows.

    The original derives for each row, and with or without a cache each tenant is new to it: it
    is timed with some few, since all would take a quarter of a minute. It was written for
    WebCrypto; the same in Python is faster.
    """
    manager = tables.Encrypted._base_manager.using(alias)
    keys = [tenant.pk for tenant in tables.Tenant.objects.using(alias).order_by("pk")[:tenants]]

    def filled(pks: Sequence[int]) -> Task:
        def prepare() -> Callable[[], object]:
            empty(tables.Encrypted, alias)
            manager.bulk_create([tables.Encrypted(tenant_id=pk, secret=TEXT) for pk in pks])
            conf.reset()  # a new keyring, whose cache is empty
            conf.get_keyring()
            return lambda: [row.secret for row in manager.all()]

        return prepare

    figures = interleaved(
        {"one tenant": filled(keys[:1] * tenants), "dashtray": filled(keys)}, tenants, repetitions
    )
    few = [str(pk) for pk in keys[:10]]
    stored = [(salt, original.encrypt(TEXT, original.cipher(salt))) for salt in few]
    seconds = once(
        lambda: lambda: [original.decrypt(token, original.cipher(salt)) for salt, token in stored]
    )
    microseconds = seconds / len(few) * 1e6
    base = figures["one tenant"].microseconds
    figures["original, also with its key cached"] = Timing(microseconds, microseconds / base)
    in_node = original.in_node(len(TEXT))
    if in_node is not None:
        figures["original, in Node"] = Timing(in_node["decrypt"], in_node["decrypt"] / base)
    return {f"read {tenants:,} rows of {tenants:,} tenants, cold": figures}
