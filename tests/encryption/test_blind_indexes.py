"""The blind index of an encrypted field: right after every write, or the write is refused."""

import copy
import json
import os
import pickle
from collections import Counter
from typing import Any

import pytest
from django.core import serializers
from django.core.exceptions import FieldError
from django.db import connection, models
from django.db.models import F, Value
from pytest_django import DjangoAssertNumQueries, Settings

from encryption import DecryptionError, MalformedTokenError
from encryption.core import blindindex
from encryption.indexes import BlindIndexField
from tests.encryption.conftest import OTHER_KEY
from tests.encryption.database import damaged, everything, refused, store, stored, tables
from tests.encryption.matching import expect_indexes, index_of
from tests.fieldapp.factories import TenantFactory
from tests.fieldapp.models import (
    Indexed,
    IndexedChild,
    IndexedFirst,
    IndexedParent,
    IndexedPlainly,
    Short,
    Tenant,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def row(tenant: Tenant) -> Indexed:
    return Indexed.objects.create(
        tenant=tenant, host="a", secret="The Value", data={"auth": {"key": "k"}}
    )


def load(row: models.Model) -> Any:
    return type(row)._base_manager.get(pk=row.pk)


# -- what it is ---------------------------------------------------------------------------------


def test_an_index_is_a_keyed_digest(row: Indexed) -> None:
    assert blindindex.is_index(stored(row, "secret_index"))
    assert len(stored(row, "secret_index")) == blindindex.LENGTH
    assert row.secret_index == stored(row, "secret_index") == load(row).secret_index
    assert "The Value" not in everything(Indexed)
    expect_indexes(Indexed)


def test_fields_paths_and_tenants_differ(tenant: Tenant, other_tenant: Tenant) -> None:
    rows = [
        Indexed.objects.create(tenant=one, secret="v", data={"auth": {"key": "v"}})
        for one in (tenant, tenant, other_tenant)
    ]
    assert rows[0].secret_index == rows[1].secret_index != rows[2].secret_index
    assert rows[0].key_index == rows[1].key_index != rows[2].key_index
    assert rows[0].early == rows[1].early == rows[2].early
    assert len({rows[0].early, rows[0].secret_index, rows[0].key_index}) == 3


def test_normalisation(tenant: Tenant) -> None:
    alike = ["STRASSE", "straße", "Strasse"]
    early = {Indexed.objects.create(tenant=tenant, secret=one).early for one in alike}
    assert len(early) == 1
    composed, decomposed = "\u00e9", "e\u0301"
    made = [Indexed.objects.create(tenant=tenant, secret=one) for one in (composed, decomposed)]
    assert made[0].early == made[1].early
    assert made[0].secret_index != made[1].secret_index
    shorts = [Short.objects.create(tenant=tenant, secret=one) for one in ("x", " x\n")]
    assert shorts[0].secret_index == shorts[1].secret_index
    assert len(shorts[0].secret_index) == 12 + 2


def test_empty_values(tenant: Tenant) -> None:
    empty = Indexed.objects.create(tenant=tenant, secret=None, data=None)
    assert (stored(empty, "secret_index"), stored(empty, "key_index")) == (None, None)
    blank = Indexed.objects.create(tenant=tenant, secret="", data={})
    assert not blindindex.is_absent(stored(blank, "secret_index"))
    assert blindindex.is_absent(stored(blank, "key_index"))
    expect_indexes(Indexed)


@pytest.mark.parametrize(
    "data", [{}, [], "text", 0, False, {"auth": None}, {"auth": {"key": None}}, {"auth": ["key"]}]
)
def test_a_path_that_is_not_there(tenant: Tenant, data: Any) -> None:
    row = Indexed.objects.create(tenant=tenant, data=data)
    assert blindindex.is_absent(stored(row, "key_index"))
    held = load(row)
    held.save()
    assert stored(row, "key_index") == row.key_index


def test_values_of_all_json_types_differ(tenant: Tenant) -> None:
    values = ["1", 1, 1.5, True, "true", [1], {"a": 1}, "", [], {}, '{"a":1}', False, 0]
    rows = [Indexed.objects.create(tenant=tenant, data={"auth": {"key": one}}) for one in values]
    assert len({row.key_index for row in rows}) == len(values)
    expect_indexes(Indexed)


# -- writing ------------------------------------------------------------------------------------


def test_every_save_writes_it(row: Indexed, other_tenant: Tenant) -> None:
    for change in (
        {"secret": "other"},
        {"secret": None},
        {"secret": "again", "data": {"auth": {"key": "new"}}},
        {"tenant": other_tenant},
        {"host": "b"},
        {"tenant": row.tenant, "secret": "moved and changed"},
    ):
        held = load(row)
        for name, value in change.items():
            setattr(held, name, value)
        held.save()
        expect_indexes(Indexed)
        # And the same in a partial save.
        held = load(row)
        for name, value in change.items():
            setattr(held, name, value)
        held.save(update_fields=list(change))
        expect_indexes(Indexed)


def test_partial_saves_take_it_along(row: Indexed, other_tenant: Tenant) -> None:
    held = load(row)
    held.secret = "other"
    held.save(update_fields=["secret"])
    assert stored(row, "secret_index") == index_of(held, "secret_index") == held.secret_index
    held.tenant = other_tenant
    held.save(update_fields=["tenant"])
    assert stored(row, "secret_index") == held.secret_index
    expect_indexes(Indexed)
    unread = load(row)
    unread.tenant = row.tenant
    unread.save(update_fields=["tenant"])
    expect_indexes(Indexed)
    unread.name = "n"
    unread.save(update_fields=["name"])
    expect_indexes(Indexed)


def test_json_changed_in_place(row: Indexed) -> None:
    held = load(row)
    held.data["auth"]["key"] = "changed"
    held.save()
    assert stored(row, "key_index") != row.key_index
    held.data["auth"] = {}
    held.save(update_fields=["data"])
    assert blindindex.is_absent(stored(row, "key_index"))
    expect_indexes(Indexed)


def test_an_unread_value_keeps_its_index_and_is_not_decrypted(
    row: Indexed, crypto: Counter[str]
) -> None:
    before = [stored(row, name) for name in ("secret", "secret_index", "early", "key_index")]
    held = load(row)
    held.name = "changed"
    held.save()
    held.save(update_fields=["name"])
    held.save(update_fields=["secret", "data"])
    pickle.loads(pickle.dumps(held)).save()
    copy.deepcopy(held).save()
    after = [stored(row, name) for name in ("secret", "secret_index", "early", "key_index")]
    assert after == before
    assert crypto["decrypt"] == crypto["encrypt"] == 0


def test_a_save_costs_no_further_query(
    row: Indexed, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    held = load(row)
    with django_assert_num_queries(1):
        held.save()
    with django_assert_num_queries(1):
        held.save(update_fields=["secret"])
    held.secret = "new"
    with django_assert_num_queries(1):
        held.save(update_fields=["secret"])
    with django_assert_num_queries(1):
        only = Indexed.objects.only("secret").get(pk=row.pk)
        assert only.secret == "new"
        assert only.secret_index
    only.secret = "newer"
    with django_assert_num_queries(1):
        only.save()
    expect_indexes(Indexed)


def test_loading_a_part(row: Indexed, other_tenant: Tenant) -> None:
    for rows in (
        Indexed.objects.only("name"),
        Indexed.objects.only("secret"),
        Indexed.objects.only("secret_index"),
        Indexed.objects.only("secret_index", "tenant"),
        Indexed.objects.defer("secret"),
        Indexed.objects.defer("secret_index"),
        Indexed.objects.defer("secret", "secret_index"),
        Indexed.objects.raw(f"SELECT id, secret, tenant_id FROM {Indexed._meta.db_table}"),
        Indexed.objects.raw(f"SELECT id, secret_index FROM {Indexed._meta.db_table}"),
    ):
        for change in ({}, {"secret": f"new {rows}"}, {"tenant": other_tenant}, {"host": "z"}):
            (held,) = rows
            for name, value in change.items():
                setattr(held, name, value)
            held.save()
            expect_indexes(Indexed)
            assert held.secret_index == stored(row, "secret_index")


def test_it_is_never_written_alone(row: Indexed) -> None:
    held = load(row)
    held.secret = "not saved"
    held.save(update_fields=["secret_index", "name"])
    assert load(row).secret == "The Value"
    expect_indexes(Indexed)


def test_a_stale_instance_writes_both(row: Indexed) -> None:
    stale = Indexed.objects.defer("secret_index").get(pk=row.pk)
    other = load(row)
    other.secret = "somebody else's"
    other.save()
    stale.name = "late"
    stale.save()
    expect_indexes(Indexed)
    stale = load(row)
    other.secret = "somebody else's again"
    other.save()
    stale.save(update_fields=["secret"])
    expect_indexes(Indexed)


def test_refreshing(row: Indexed) -> None:
    for fields in (None, ["secret"], ["secret_index"], ["secret", "secret_index"], ["tenant"]):
        held = load(row)
        other = load(row)
        other.secret = f"new {fields}"
        other.save()
        held.refresh_from_db(fields=fields)
        held.save(update_fields=["name"])
        if fields is None or "secret" in fields:
            assert held.secret == other.secret
            assert held.secret_index == other.secret_index
        held.save()
        expect_indexes(Indexed)


def test_bulk_create(tenant: Tenant, other_tenant: Tenant) -> None:
    rows = [
        Indexed(tenant=one, secret=secret, data={"auth": {"key": secret}})
        for one in (tenant, other_tenant)
        for secret in ("a", "b", None)
    ]
    Indexed.objects.bulk_create(rows)
    expect_indexes(Indexed)
    plain = [IndexedPlainly(tenant=tenant, secret=secret) for secret in ("a", "b")]
    IndexedPlainly.objects.bulk_create(plain)
    IndexedPlainly._base_manager.bulk_create([IndexedPlainly(tenant=tenant, secret="c")])
    expect_indexes(IndexedPlainly)


def test_bulk_update(tenant: Tenant, other_tenant: Tenant) -> None:
    rows = [Indexed.objects.create(tenant=tenant, secret=secret) for secret in ("a", "b", None)]
    loaded = [load(row) for row in rows]
    for fields, change in (
        (["secret"], {"secret": "new"}),
        (["tenant"], {"tenant": other_tenant}),
        (["host"], {"host": "h"}),
        (["name"], {"name": "n", "secret": "not saved"}),
        (["secret", "tenant"], {"tenant": tenant, "secret": None}),
        (["secret", "secret_index"], {"secret": "x"}),
        (["data"], {"data": {"auth": {"key": 1}}}),
    ):
        for place, row in enumerate(loaded):
            for name, value in change.items():
                setattr(row, name, f"{value} {place}" if isinstance(value, str) else value)
        Indexed.objects.bulk_update(loaded, fields)
        expect_indexes(Indexed)
    for row in loaded:
        assert row.secret_index == stored(row, "secret_index")
        row.save()
    expect_indexes(Indexed)


def test_bulk_update_of_only_one_that_moves(tenant: Tenant, other_tenant: Tenant) -> None:
    rows = [Indexed.objects.create(tenant=tenant, secret=secret) for secret in ("a", "b")]
    rows[0].tenant = other_tenant
    Indexed.objects.bulk_update([load(rows[1]), rows[0]], ["tenant"])
    expect_indexes(Indexed)


def test_upserts(row: Indexed, tenant: Tenant) -> None:
    if not connection.features.supports_update_conflicts_with_target:
        pytest.skip("a secret that is bound to its id cannot be taken over without a target")
    options: dict[str, Any] = {"update_conflicts": True, "unique_fields": ["id"]}
    new = Indexed(id=row.pk, tenant=tenant, host="a", secret="taken over")
    fields = ["secret", "tenant", "host", "data"]
    Indexed.objects.bulk_create([new], update_fields=fields, **options)
    assert load(row).secret == "taken over"
    expect_indexes(Indexed)
    with refused(FieldError, "Nothing was written"):
        models.QuerySet(Indexed).bulk_create([new], update_fields=fields, **options)
    with refused(FieldError, "Nothing was written"):
        Indexed.objects.bulk_create([new], update_fields=["secret_index"], **options)
    expect_indexes(Indexed)


def test_update_or_create(tenant: Tenant, other_tenant: Tenant) -> None:
    for secret in ("one", "two", None, "three"):
        Indexed.objects.update_or_create(name="n", defaults={"tenant": tenant, "secret": secret})
        expect_indexes(Indexed)
    Indexed.objects.update_or_create(name="n", defaults={"tenant": other_tenant})
    expect_indexes(Indexed)


def test_clearing_with_update(row: Indexed) -> None:
    Indexed.objects.update(secret=None)
    assert (stored(row, "secret"), stored(row, "secret_index"), stored(row, "early")) == (None,) * 3
    with refused(FieldError, "Nothing was written"):
        models.QuerySet(Indexed).update(data=None)
    models.QuerySet(Indexed).update(data=None, key_index=None)
    expect_indexes(Indexed)


@pytest.mark.parametrize("value", ["x", None, F("early"), Value("x"), "b2:0123abcd:AAAA"])
def test_update_of_the_index_is_refused(row: Indexed, value: Any) -> None:
    for rows in (Indexed.objects.all(), models.QuerySet(Indexed)):
        with refused(FieldError, "Nothing was written") as caught:
            rows.update(secret_index=value)
        assert "secret" in str(caught.value)
    with refused(FieldError):
        Indexed.objects.update(secret_index=load(row).early)
    expect_indexes(Indexed)


def test_bulk_update_of_the_index_is_refused(row: Indexed) -> None:
    for manager in (IndexedPlainly.objects, models.QuerySet(IndexedPlainly)):
        plain = IndexedPlainly.objects.create(tenant=row.tenant, secret="v")
        with refused(FieldError, "Nothing was written"):
            manager.bulk_update([plain], ["secret_index"])
        with refused(FieldError, "Nothing was written"):
            manager.bulk_update([plain], ["secret"])
    held = load(row)
    held.secret = "not saved"
    with refused(FieldError, "Nothing was written"):
        Indexed.objects.bulk_update([held], ["secret_index", "name"])
    expect_indexes(Indexed)
    expect_indexes(IndexedPlainly)


def test_assignment_is_refused(row: Indexed) -> None:
    for value in ("x", b"x", 1, str(row.secret_index), F("early")):
        with pytest.raises(FieldError, match="Assign that"):
            row.secret_index = value
    with pytest.raises(FieldError, match="Assign that"):
        Indexed(tenant=row.tenant, secret="v", secret_index="v")
    row.secret_index = None
    row.save()
    row.secret_index = row.early  # somebody else's index changes nothing either
    row.save()
    expect_indexes(Indexed)


def test_saved_as_a_new_row(row: Indexed, other_tenant: Tenant) -> None:
    for change in ({}, {"secret": "another"}, {"tenant": other_tenant}):
        held = load(row)
        held.pk = Indexed().pk
        held._state.adding = True
        for name, value in change.items():
            setattr(held, name, value)
        held.save()
    assert Indexed.objects.count() == 4
    expect_indexes(Indexed)


def test_a_failed_save_leaves_a_usable_instance(row: Indexed) -> None:
    held = load(row)
    held.secret = "lone \ud800"
    with refused(ValueError):
        held.save()
    held.secret = "whole"
    held.save()
    expect_indexes(Indexed)


def test_an_unreadable_value_keeps_its_index(row: Indexed) -> None:
    token = stored(row, "secret")
    store(row, "secret", damaged(token))
    held, before = load(row), stored(row, "secret_index")
    held.name = "renamed"
    held.save()
    held.save(update_fields=["secret", "name"])
    assert stored(row, "secret_index") == before
    held.tenant = TenantFactory()
    with refused(DecryptionError):
        held.save()
    held.secret = "mended"
    held.save()
    expect_indexes(Indexed)


def test_a_save_fills_in_what_was_not_there(row: Indexed) -> None:
    for name in ("secret_index", "early", "key_index"):
        store(row, name, None)
    load(row).save()
    expect_indexes(Indexed)


def test_rows_under_an_older_key_keep_both(row: Indexed, settings: Settings) -> None:
    primary = os.environ["MASTER_ENCRYPTION_KEY"]
    settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY, "MASTER_KEY_FALLBACKS": [primary]}
    held = load(row)
    held.name = "renamed"
    held.save()
    assert stored(row, "secret_index") == row.secret_index
    held.secret = "new"
    held.save()
    assert stored(row, "secret_index")[:11] != row.secret_index[:11]
    assert stored(row, "secret_index")[3:11] == stored(row, "secret")[3:11]


# -- copies and fixtures ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "xml", "jsonl", "python"])
def test_fixtures_keep_it_as_it_was_dumped(row: Indexed, form: str) -> None:
    dumped = serializers.serialize(form, [load(row)])
    before = [stored(row, name) for name in ("secret", "secret_index", "early", "key_index")]
    row.delete()
    for one in serializers.deserialize(form, dumped):
        one.save()
    row = Indexed.objects.get()
    assert [
        stored(row, name) for name in ("secret", "secret_index", "early", "key_index")
    ] == before
    row.save()
    row.secret = "new"
    row.save()
    expect_indexes(Indexed)


def test_a_fixture_without_it_or_with_another_text(row: Indexed) -> None:
    (fixture,) = json.loads(serializers.serialize("json", [row]))
    for value, error in (("Value", (MalformedTokenError, FieldError, Exception)), (None, None)):
        fixture["fields"]["secret_index"] = value
        (one,) = serializers.deserialize("json", json.dumps([fixture])) if error is None else [None]
        if error is None:
            one.save()
            assert stored(row, "secret_index") is None
        else:
            with refused(error) as caught:
                for each in serializers.deserialize("json", json.dumps([fixture])):
                    each.save()
            assert stored(row, "secret_index") == row.secret_index
            assert "Value" not in str(caught.value)


# -- models -------------------------------------------------------------------------------------


def test_multi_table_inheritance(tenant: Tenant, other_tenant: Tenant) -> None:
    child = IndexedChild.objects.create(tenant=tenant, secret="p", inner="c")
    expect_indexes(IndexedChild, IndexedParent)
    for fields in (None, ["tenant"], ["secret"], ["inner"], ["tenant", "inner"]):
        held = load(child)
        held.tenant = tenant if held.tenant_id == other_tenant.pk else other_tenant
        held.secret, held.inner = f"p {fields}", f"c {fields}"
        held.save(update_fields=fields)
        expect_indexes(IndexedChild, IndexedParent)
    parent = IndexedParent.objects.get(pk=child.pk)
    parent.secret = "by the parent"
    parent.save()
    expect_indexes(IndexedChild, IndexedParent)


def test_deconstruction() -> None:
    field = BlindIndexField(
        "data", path="a", normalize="casefold", scope="global", bits=20, db_index=False
    )
    field.set_attributes_from_name("x")
    _, path, args, kwargs = field.deconstruct()
    assert path == "encryption.fields.BlindIndexField"
    assert not args
    assert kwargs == {
        "source": "data",
        "path": "a",
        "normalize": "casefold",
        "scope": "global",
        "bits": 20,
        "db_index": False,
    }
    assert BlindIndexField("secret", unique=True).deconstruct()[3] == {
        "source": "secret",
        "unique": True,
    }
    assert BlindIndexField("secret").deconstruct()[3] == {"source": "secret"}
    assert BlindIndexField("secret").db_index
    assert not BlindIndexField("secret", unique=True).db_index


# -- an index that stands before a secret which is not loaded -------------------------------------


def test_a_whole_save_of_a_deferred_secret_writes_its_index(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    row = IndexedFirst.objects.create(tenant=tenant, secret="Value")
    for moved in (other_tenant, tenant):
        loaded = IndexedFirst.objects.defer("secret").get()
        loaded.tenant = moved
        loaded.save_base()  # as save() does it to another database than the row came from
        assert IndexedFirst.objects.get(tenant=moved, secret="Value") == row


def test_a_deferred_secret_is_copied_to_another_database_with_its_index(
    tenant: Tenant, other_tenant: Tenant, other_database: str
) -> None:
    for one in (tenant, other_tenant):
        Tenant(pk=one.pk).save(using=other_database, force_insert=True)
    IndexedFirst.objects.create(tenant=tenant, secret="Value")
    with tables(IndexedFirst, using=other_database):
        for moved in (tenant, other_tenant):  # inserted, and then updated
            loaded = IndexedFirst.objects.defer("secret").get()
            loaded.tenant = moved
            loaded.save(using=other_database)
            there = IndexedFirst.objects.using(other_database)
            assert there.get(tenant=moved, secret="Value").pk == loaded.pk
