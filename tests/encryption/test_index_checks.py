"""Each system check of blind indexes, by its id: what is refused, and what is not."""

from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import connection, models
from django.db.models.functions import Lower
from django.test.utils import isolate_apps

from encryption.fields import BlindIndexField, EncryptedJSONField, EncryptedTextField
from encryption.indexchecks import check_indexes, check_missing_indexes
from encryption.managers import EncryptedManager
from tests.encryption.database import store
from tests.fieldapp.models import Indexed, Short, Tenant


def ids(index: Any, meta: dict[str, Any] | None = None, **columns: Any) -> list[str]:
    """The ids of what is wrong with a model that has this index, a text and a JSON value."""
    with isolate_apps("tests.fieldapp") as isolated:
        options = {"app_label": "fieldapp", **(meta or {})}
        named: dict[str, Any] = {"__module__": __name__, "Meta": type("Meta", (), options)}
        named |= {
            "tenant": models.IntegerField(),
            "secret": EncryptedTextField(salt_field="tenant"),
            "data": EncryptedJSONField(salt_field="tenant"),
            "objects": EncryptedManager(),
        }
        type("Tried", (models.Model,), {**named, "index": index, **columns})
        return [str(message.id) for message in check_indexes(list(isolated.get_app_configs()))]


def local(value: Any) -> Any:
    return value


REFUSED: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "no such field": ("E050", lambda: BlindIndexField("nothing"), {}),
    "plain field": ("E050", lambda: BlindIndexField("tenant"), {}),
    "itself": ("E050", lambda: BlindIndexField("index"), {}),
    "scope": ("E051", lambda: BlindIndexField("secret", scope="world"), {}),
    "path of a text": ("E052", lambda: BlindIndexField("secret", path="a"), {}),
    "empty path": ("E052", lambda: BlindIndexField("data", path=""), {}),
    "path with an empty key": ("E052", lambda: BlindIndexField("data", path="a____b"), {}),
    "no bits": ("E053", lambda: BlindIndexField("secret", bits=0), {}),
    "few bits": ("E053", lambda: BlindIndexField("secret", bits=3), {}),
    "many bits": ("E053", lambda: BlindIndexField("secret", bits=257), {}),
    "half a bit": ("E053", lambda: BlindIndexField("secret", bits=8.5), {}),
    "unknown normalize": ("E054", lambda: BlindIndexField("secret", normalize="upper"), {}),
    "no function": ("E054", lambda: BlindIndexField("secret", normalize="os.sep"), {}),
    "lambda": ("E054", lambda: BlindIndexField("secret", normalize=lambda value: value), {}),
    "truncated and unique": ("E055", lambda: BlindIndexField("secret", bits=16, unique=True), {}),
    "truncated in a constraint": (
        "E055",
        lambda: BlindIndexField("secret", bits=16),
        {"constraints": [models.UniqueConstraint(fields=["tenant", "index"], name="one")]},
    ),
    "truncated in unique_together": (
        "E055",
        lambda: BlindIndexField("secret", bits=16),
        {"unique_together": [("tenant", "index")]},
    ),
    "in an expression": (
        "E056",
        lambda: BlindIndexField("secret"),
        {"constraints": [models.UniqueConstraint(Lower("index"), name="one")]},
    ),
    "primary key": ("E057", lambda: BlindIndexField("secret", primary_key=True), {}),
    "default": ("E057", lambda: BlindIndexField("secret", default="x"), {}),
    "choices": ("E057", lambda: BlindIndexField("secret", choices=[("a", "A")]), {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused(name: str) -> None:
    expected, make, meta = REFUSED[name]
    assert ids(make(), meta) == [f"encryption.{expected}"]


def test_a_default_manager_cannot_sort_out() -> None:
    index = BlindIndexField("secret", bits=16)
    assert ids(index, objects=models.Manager()) == ["encryption.W058"]


@pytest.mark.parametrize(
    "constraint",
    [
        models.UniqueConstraint(fields=["half", "index"], name="one"),
        models.UniqueConstraint(fields=["index"], condition=models.Q(half__gt=1), name="one"),
    ],
    ids=["beside it", "in its condition"],
)
def test_a_column_that_the_database_computes(constraint: models.UniqueConstraint) -> None:
    half = models.GeneratedField(
        expression=models.F("tenant") / 2, output_field=models.IntegerField(), db_persist=True
    )
    index = BlindIndexField("secret")
    assert ids(index, {"constraints": [constraint]}, half=half) == ["encryption.E056"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: BlindIndexField("secret"),
        lambda: BlindIndexField("secret", unique=True, scope="global"),
        lambda: BlindIndexField("data", path="a__0__b"),
        lambda: BlindIndexField("data"),
        lambda: BlindIndexField("secret", bits=4),
        lambda: BlindIndexField("secret", bits=256, unique=True),
        lambda: BlindIndexField("secret", normalize="casefold"),
        lambda: BlindIndexField("secret", normalize="encryption.normalizers.strip"),
        lambda: BlindIndexField("secret", normalize=local),
    ],
    ids=range(9),
)
def test_what_works_is_not(make: Any) -> None:
    assert ids(make()) == []


def test_the_parents_secret_cannot_be_indexed_by_the_child() -> None:
    with isolate_apps("tests.fieldapp") as isolated:
        named = {"__module__": __name__, "Meta": type("Meta", (), {"app_label": "fieldapp"})}
        parent: Any = type(
            "Upper",
            (models.Model,),
            {
                **named,
                "tenant": models.IntegerField(),
                "secret": EncryptedTextField(salt_field="tenant"),
            },
        )
        type("Downer", (parent,), {**named, "index": BlindIndexField("secret")})
        found = [str(message.id) for message in check_indexes(list(isolated.get_app_configs()))]
    assert found == ["encryption.E050"]


@pytest.mark.django_db
def test_rows_without_an_index_are_told(tenant: Tenant) -> None:
    row = Indexed.objects.create(tenant=tenant, secret="PLAINTEXT")
    assert check_missing_indexes(None, databases=["default"]) == []
    store(row, "early", None)
    (found,) = check_missing_indexes(None, databases=["default"])
    assert found.id == "encryption.W059"
    assert found.msg == "1 row cannot be found by fieldapp.Indexed.early: it has no index."
    store(row, "early", "b2:00000000:AAAA")
    (found,) = check_missing_indexes(None, databases=["default"])
    assert "under a key of the keyring" in found.msg
    assert check_missing_indexes(None) == []
    assert "encryption.W059" in {message.id for message in run_checks(databases=["default"])}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["secret_index", "secret"])
def test_columns_that_are_not_there_yet_are_left_alone(name: str) -> None:
    """``migrate`` checks the database before it adds them, and has to get that far."""
    row = Indexed.objects.create(tenant=Tenant.objects.create(), secret="PLAINTEXT")
    field = Short._meta.get_field(name)
    with connection.schema_editor() as editor:
        editor.remove_field(Short, field)
    try:
        assert run_checks(databases=["default"], tags=["database"]) == []
        store(row, "early", None)
        found = run_checks(databases=["default"], tags=["database"])
        assert [message.id for message in found] == ["encryption.W059"]
    finally:
        with connection.schema_editor() as editor:
            editor.add_field(Short, field)
