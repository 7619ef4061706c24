"""A rotation moves a token and its blind indexes together, and fills indexes that are missing."""

import json
import os
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from pytest_django import DjangoAssertNumQueries, Settings

from encryption import ranges
from encryption.conf import get_keyring
from encryption.models import RotationRun
from encryption.registry import encrypted_columns
from encryption.rotation import Options, Rotation
from encryption.status import column_status
from tests.encryption.conftest import OTHER_KEY
from tests.encryption.database import damaged, store, stored
from tests.encryption.matching import expect_indexes
from tests.fieldapp.factories import TenantFactory
from tests.fieldapp.models import Indexed, IndexedChild, IndexedParent, Once, Short, Tenant

pytestmark = pytest.mark.django_db

NAMES = ("secret_index", "early", "key_index")


@pytest.fixture
def rows(tenant: Tenant, other_tenant: Tenant) -> list[Indexed]:
    made = [
        Indexed(tenant=one, secret=secret, data=data, host="h")
        for one in (tenant, other_tenant)
        for secret, data in (
            ("a", {"auth": {"key": "k"}}),
            ("B", {"auth": {}}),
            ("", None),
            (None, [1]),
        )
    ]
    Indexed.objects.bulk_create(made)
    return made


@pytest.fixture
def old_key() -> str:
    return os.environ["MASTER_ENCRYPTION_KEY"]


@pytest.fixture
def new_key(rows: list[Indexed], settings: Settings, old_key: str) -> str:
    """The rows are under what is the old key by now."""
    settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY, "MASTER_KEY_FALLBACKS": [old_key]}
    return get_keyring().primary.key_id


def rotate(label: str = "fieldapp.Indexed", **options: Any) -> dict[str, Any]:
    reports = {}
    for column in encrypted_columns(label):
        reports[column.field.name] = Rotation(column, "default", Options(**options)).run()
    return reports


def status(name: str = "fieldapp.Indexed.secret") -> Any:
    (column,) = encrypted_columns(name)
    return column_status(column, "default")


def test_both_are_moved(rows: list[Indexed], new_key: str, settings: Settings) -> None:
    assert (status().stale, status("fieldapp.Indexed.data").stale) == (6, 6)
    reports = rotate(batch_size=3)
    assert [report.rotated for report in reports.values()] == [6, 6]
    settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY}
    expect_indexes(Indexed)
    counted = status()
    assert (counted.stale, counted.keys) == (0, {new_key: 6})
    assert counted.indexes == {"early": {new_key: 6}, "secret_index": {new_key: 6}}
    assert status("fieldapp.Indexed.data").indexes == {"key_index": {new_key: 6}}
    assert Indexed.objects.get(tenant=rows[0].tenant, secret="B").pk == rows[1].pk


def test_a_second_run_writes_nothing(rows: list[Indexed], new_key: str) -> None:
    rotate()
    before = list(Indexed.objects.order_by("pk").values_list("secret_index", "early", "key_index"))
    assert [report.examined for report in rotate().values()] == [0, 0]
    after = list(Indexed.objects.order_by("pk").values_list("secret_index", "early", "key_index"))
    assert after == before


def test_an_index_that_is_missing_is_filled(rows: list[Indexed], old_key: str) -> None:
    """As after the field was added to a table with rows."""
    for row in rows:
        store(row, "early", None)
    store(rows[0], "key_index", None)
    tokens = [stored(row, "secret") for row in rows]
    counted = status()
    assert counted.stale == 6
    assert counted.indexes["early"] == {"none": 6}
    assert status("fieldapp.Indexed.data").stale == 1
    reports = rotate()
    assert [report.rotated for report in reports.values()] == [6, 1]
    assert reports["secret"].from_keys == {}
    assert [stored(row, "secret") for row in rows] == tokens
    assert status().stale == status("fieldapp.Indexed.data").stale == 0
    expect_indexes(Indexed)


def test_a_token_that_was_rotated_without_its_index(rows: list[Indexed], new_key: str) -> None:
    before = {row.pk: [stored(row, name) for name in NAMES] for row in rows}
    rotate()
    for row in rows[:3]:
        for name, value in zip(NAMES, before[row.pk], strict=True):
            store(row, name, value)
    assert status().stale == 3
    rotate()
    assert status().stale == 0
    expect_indexes(Indexed)


def test_v1_tokens_have_indexes_too(
    rows: list[Indexed], settings: Settings, old_key: str, new_key: str
) -> None:
    settings.ENCRYPTION = {"MASTER_KEY": old_key, "WRITE_FORMAT": "v1"}
    for row in Indexed.objects.all():
        row.secret = f"{row.secret} v1"
        row.save()
    expect_indexes(Indexed)
    keys = {"MASTER_KEY": OTHER_KEY, "MASTER_KEY_FALLBACKS": [old_key]}
    settings.ENCRYPTION = {**keys, "WRITE_FORMAT": "v1"}
    rotate()
    settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY, "WRITE_FORMAT": "v1"}
    expect_indexes(Indexed)
    assert status().stale == 0
    settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY}
    rotate()
    expect_indexes(Indexed)


def test_a_dry_run_writes_nothing(rows: list[Indexed], new_key: str) -> None:
    before = [stored(row, name) for row in rows for name in NAMES]
    reports = rotate(dry_run=True)
    assert reports["secret"].rotated == 6
    assert [stored(row, name) for row in rows for name in NAMES] == before


def test_somebody_saves_meanwhile(
    rows: list[Indexed], new_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Rotation._write
    saved = []

    def write(self: Rotation, changes: Any) -> Any:
        if not saved:
            row = Indexed.objects.get(pk=rows[0].pk)
            row.secret = "meanwhile"
            row.save()
            saved.append(row)
        return original(self, changes)

    monkeypatch.setattr(Rotation, "_write", write)
    rotate()
    assert Indexed.objects.get(pk=rows[0].pk).secret == "meanwhile"
    expect_indexes(Indexed)
    assert status().stale == 0


def test_an_unreadable_row_is_told_and_left(rows: list[Indexed], new_key: str) -> None:
    token, index = stored(rows[0], "secret"), stored(rows[0], "secret_index")
    store(rows[0], "secret", damaged(token))
    report = rotate()["secret"]
    assert (report.failed, report.rotated) == (1, 5)
    assert stored(rows[0], "secret_index") == index


def test_duplicates_that_were_there_before_are_told(tenant: Tenant) -> None:
    rows = [Once.objects.create(tenant=tenant, secret=f"PLAINTEXT {n}") for n in range(5)]
    for row, twin in ((rows[1], rows[3]), (rows[2], rows[4])):
        store(row, "secret_index", None)
        store(row, "secret", stored(twin, "secret"))
    assert status("fieldapp.Once.secret").stale == 2
    report = rotate("fieldapp.Once")["secret"]
    assert report.failed == 2
    assert {failure.pk for failure in report.failures} == {str(rows[1].pk), str(rows[2].pk)}
    assert all("another row" in failure.reason for failure in report.failures)
    assert "PLAINTEXT" not in repr(report)
    expect_indexes(Once, filled=False)


def test_inherited_columns_and_truncated_ones(
    tenant: Tenant, settings: Settings, old_key: str
) -> None:
    IndexedChild.objects.create(tenant=tenant, secret="p", inner="c")
    Short.objects.create(tenant=tenant, secret="s")
    settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY, "MASTER_KEY_FALLBACKS": [old_key]}
    for label in ("fieldapp.IndexedParent", "fieldapp.IndexedChild", "fieldapp.Short"):
        rotate(label)
    settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY}
    expect_indexes(IndexedChild, IndexedParent, Short)


def test_the_commands_tell_of_them(rows: list[Indexed], new_key: str) -> None:
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("encryption_status", model="fieldapp.Indexed", fail_if_stale=True, stdout=out)
    assert "  index secret_index: 6 under" in out.getvalue()
    call_command("rotate_master_key", model="fieldapp.Indexed", stdout=StringIO())
    out = StringIO()
    call_command(
        "encryption_status", model="fieldapp.Indexed", fail_if_stale=True, json=True, stdout=out
    )
    told = json.loads(out.getvalue())
    assert told["columns"][0]["indexes"] == {
        "early": {new_key: 6},
        "secret_index": {new_key: 6},
    }


def test_a_run_that_only_fills_indexes_says_so(rows: list[Indexed]) -> None:
    for row in rows:
        store(row, "early", None)
    label = "fieldapp.Indexed.secret [default]"
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("rotate_master_key", model="fieldapp.Indexed", dry_run=True, stdout=out)
    assert f"{label}: 0 would be rotated, 6 would get blind indexes, 0 changed" in out.getvalue()
    out = StringIO()
    call_command("rotate_master_key", model="fieldapp.Indexed", stdout=out)
    assert f"{label}: 0 rotated, 6 got blind indexes, 0 changed" in out.getvalue()
    assert "fieldapp.Indexed.data [default]: 0 rotated, 0 changed" in out.getvalue()
    columns = RotationRun.objects.get(dry_run=False).columns
    assert [(one["rotated"], one["only_indexes"]) for one in columns] == [(6, 6), (0, 0)]


def test_a_run_in_parts_sums_up_the_rows_that_got_only_indexes(rows: list[Indexed]) -> None:
    for row in rows:
        store(row, "early", None)
    key_id = get_keyring().primary.key_id
    run = RotationRun.objects.create(to_key_id=key_id, status=RotationRun.Status.RUNNING)
    counts = {"column": "fieldapp.Indexed.secret", "database": "default", "examined": 3}
    counts |= {"rotated": 3, "changed_meanwhile": 0, "failed": 0}
    for columns in ([counts | {"only_indexes": 3}], [counts]):  # one of an older release
        RotationRun.objects.create(
            to_key_id=key_id, status=RotationRun.Status.DONE, part_of=run, columns=columns
        )
    (summed,) = ranges.collect(run.pk).columns
    assert (summed["rotated"], summed["only_indexes"]) == (6, 3)


def test_rows_that_lack_an_index_are_left_and_not_under_an_old_key(
    rows: list[Indexed],
) -> None:
    store(rows[0], "early", None)
    store(rows[0], "secret", stored(rows[0], "secret")[:-1])
    out, err = StringIO(), StringIO()
    with pytest.raises(SystemExit):
        call_command("rotate_master_key", model="fieldapp.Indexed", stdout=out, stderr=err)
    key_id = get_keyring().primary.key_id
    assert f"1 row is left to rotate to key {key_id}." in out.getvalue()


def test_a_status_is_one_query(
    rows: list[Indexed], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(1):
        status()


def test_a_page_is_written_in_one_statement(rows: list[Indexed], new_key: str) -> None:
    tenant = TenantFactory()
    Indexed.objects.bulk_create([Indexed(tenant=tenant, secret=f"s{n}") for n in range(50)])
    with connection.execute_wrapper(count := Statements()):
        rotate()
    updates = [sql for sql in count.seen if sql.startswith("UPDATE")]
    assert all("secret_index" in sql for sql in updates if "early" in sql)
    if connection.vendor == "postgresql":
        assert len(updates) == 2


class Statements:
    """The statements that were executed."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        self.seen.append(sql)
        return execute(sql, params, many, context)
