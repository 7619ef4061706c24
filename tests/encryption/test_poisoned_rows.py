"""One unreadable row in every table: it is told and left, and costs the others nothing.

The tables are those of the registry, so a model that is added is tried too.
"""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from django.db import connection, models
from pytest_django import Settings

from encryption.conf import get_keyring
from encryption.models import RotationRun
from encryption.registry import EncryptedColumn, encrypted_columns
from tests.encryption.database import damaged, store, stored
from tests.encryption.matching import expect_indexes
from tests.encryption.test_commands import NEW, OLD, run

pytestmark = pytest.mark.django_db

#: Of each model. Each of its encrypted columns is damaged in another one of them.
ROWS = 4

_numbers = count(1)


def made(model: type[models.Model], **given: Any) -> Any:
    """A row of any model, with a value in each encrypted field and in each that needs one."""
    number = next(_numbers)
    for field in model._meta.concrete_fields:
        if field.name not in given and needs_value(field):
            given[field.name] = value_for(field, number)
    row = model(**given)
    row.save()
    return row


def needs_value(field: "models.Field[Any, Any]") -> bool:
    if hasattr(field, "salt_field"):
        return True
    is_link = field.remote_field is not None and getattr(field.remote_field, "parent_link", False)
    is_timed = getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False)
    is_numbered = isinstance(field, models.AutoField)
    given = field.has_default() or is_link or is_timed or is_numbered
    return not (given or field.null or hasattr(field, "is_blind_index"))


def value_for(field: Any, number: int) -> Any:
    if hasattr(field, "salt_field"):
        text = f"the secret {number} of {field.name}"
        key: dict[str, Any] = {"auth": {"key": text}, "PLAINTEXT": text}
        return key if field.holds_json else text
    if field.is_relation:
        return made(field.related_model)
    if field.choices:
        return field.choices[0][0]
    if isinstance(field, models.CharField | models.TextField):
        return f"{field.name}-{number}"[: field.max_length]
    if isinstance(field, models.UUIDField):
        return uuid.uuid4()
    raise AssertionError(f"say here what to put into a {type(field).__name__}")


@dataclass
class Place:
    """A column, its rows, and which of them is the unreadable one."""

    column: EncryptedColumn
    rows: list[Any]
    bad: Any

    @property
    def written(self) -> list[str]:
        """The names of what a rotation writes."""
        return [self.column.field.name, *(index.name for index in self.column.field.indexes)]

    def held(self, row: Any) -> list[Any]:
        """What stands in the columns that a rotation writes."""
        return [stored(row, name) for name in self.written]


@pytest.fixture
def places(settings: Settings) -> list[Place]:
    """Rows of every model, under what is the old key by now."""
    settings.ENCRYPTION = {"MASTER_KEY": OLD}
    found: list[Place] = []
    rows: dict[type[models.Model], list[Any]] = {}
    for column in encrypted_columns():
        of_model = rows.setdefault(column.model, [])
        if not of_model:
            of_model += [made(column.model) for _ in range(ROWS)]
        taken = [place for place in found if place.column.model is column.model]
        found.append(Place(column, of_model, of_model[len(taken)]))
    settings.ENCRYPTION = {"MASTER_KEY": NEW, "MASTER_KEY_FALLBACKS": [OLD]}
    return found


def tampered(place: Place) -> str:
    return damaged(stored(place.bad, place.column.field.name))


def of_an_unknown_key(place: Place) -> str:
    return "v2:00000000:" + "A" * 80


def of_another_row(place: Place) -> str:
    """The token of a row of another tenant."""
    return str(stored(place.rows[-1], place.column.field.name))


def cut(place: Place) -> str:
    return str(stored(place.bad, place.column.field.name))[:30]


POISONS: dict[str, tuple[Callable[[Place], str], str]] = {
    "tampered": (tampered, "TamperedError"),
    "an unknown key": (of_an_unknown_key, "UnknownKeyError"),
    "another row's": (of_another_row, "WrongKeyError"),
    "cut": (cut, "MalformedTokenError"),
}


def everything_else(places: list[Place]) -> dict[Any, list[Any]]:
    """The columns that a rotation has no business with, of all rows of these tables."""
    found = {}
    for model in {place.column.model for place in places}:
        secret = {name for place in places if place.column.model is model for name in place.written}
        names = [
            field.attname for field in model._meta.local_concrete_fields if field.name not in secret
        ]
        rows = model._base_manager.order_by("pk")
        found[model] = list(rows.values_list("pk", *names))
    return found


def expect_all_but(places: list[Place], bad: dict[str, list[Any]]) -> None:
    """Every value is under the new key, but the unreadable ones, which are what they were."""
    key_id = get_keyring().primary.key_id
    for place in places:
        for row in place.rows:
            held = place.held(row)
            if row is place.bad and place.column.label in bad:
                assert held == bad[place.column.label]
            else:
                assert {text[3:11] for text in held} == {key_id}, place.column.label


@pytest.mark.parametrize("poison", POISONS)
def test_it_is_told_and_left_and_all_others_are_rotated(
    places: list[Place], settings: Settings, poison: str
) -> None:
    make, reason = POISONS[poison]
    good = {place.column.label: place.held(place.bad) for place in places}
    others = everything_else(places)
    for place in places:
        store(place.bad, place.column.field.name, make(place))
    bad = {place.column.label: place.held(place.bad) for place in places}
    for label, (token, *_indexes) in bad.items():
        assert token != good[label][0]

    code, out, err = run("rotate_master_key", "--batch-size", "2")
    assert code == 1, err
    assert f"{len(places)} rows are left to rotate" in out
    told = [line.split(": ")[:2] for line in err.splitlines()]
    expected = [[f"  {place.column.label} pk={place.bad.pk}", reason] for place in places]
    assert sorted(told) == sorted(expected)
    expect_all_but(places, bad)
    assert everything_else(places) == others
    assert "the secret" not in out + err

    # Again: the same, and nothing is written.
    code, out, err = run("rotate_master_key", "--json")
    assert code == 1
    report = json.loads(out)
    assert {(one["label"], one["pk"]) for one in report["failures"]} == {
        (place.column.label, str(place.bad.pk)) for place in places
    }
    assert all(one["reason"].startswith(f"{reason}: ") for one in report["failures"])
    assert (report["status"], report["failed"]) == ("incomplete", len(places))
    assert sum(counts["rotated"] for counts in report["columns"]) == 0
    assert RotationRun.objects.get(pk=report["run"]).status == "incomplete"
    expect_all_but(places, bad)
    assert run("encryption_status", "--fail-if-stale")[0] == 1

    # Mended: all are rotated, and the old key is not needed any more.
    for place in places:
        store(place.bad, place.column.field.name, good[place.column.label][0])
    code, out, err = run("rotate_master_key")
    assert (code, err) == (0, "")
    settings.ENCRYPTION = {"MASTER_KEY": NEW}
    expect_all_but(places, {})
    assert everything_else(places) == others
    expect_indexes(*{place.column.model for place in places if place.column.field.indexes})
    for place in places:
        for row in place.rows:
            name = place.column.field.name
            now = place.column.model._base_manager.get(pk=row.pk)
            assert getattr(now, name) == getattr(row, name)
    assert run("encryption_status", "--fail-if-stale")[0] == 0


def test_a_row_without_an_index_is_told_too(places: list[Place]) -> None:
    """As after the index was added: nobody can compute it of an unreadable value."""
    indexed = [place for place in places if place.column.field.indexes]
    assert len(indexed) >= 10
    for place in indexed:
        store(place.bad, place.column.field.name, tampered(place))
        for index in place.column.field.indexes:
            for row in place.rows:
                store(row, index.name, None)
    bad = {place.column.label: place.held(place.bad) for place in indexed}
    code, out, err = run("rotate_master_key")
    assert code == 1
    assert f"{len(indexed)} rows are left to rotate" in out
    assert len(err.splitlines()) == len(indexed)
    expect_all_but(places, bad)


def test_every_column_of_every_table_is_tried(places: list[Place]) -> None:
    labels = {place.column.label for place in places}
    assert {"connections.Connection.credentials", "apikeys.AIKey.api_key"} < labels
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
    assert {place.column.model._meta.db_table for place in places} < set(tables)
