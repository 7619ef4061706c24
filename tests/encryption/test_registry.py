"""Which columns are found, and in which databases."""

from pathlib import Path

import pytest
from django.db import connection, connections, models
from django.utils.connection import ConnectionDoesNotExist

from encryption.registry import EncryptedColumn, databases_of, encrypted_columns, is_read_only
from tests.fieldapp.models import Note


def test_each_column_is_found_once_where_its_table_is() -> None:
    labels = [column.label for column in encrypted_columns() if "fieldapp" in column.label]
    assert len(labels) == len(set(labels))
    assert {
        "fieldapp.Note.secret",
        "fieldapp.Note.data",
        "fieldapp.BrandedOne.secret",  # of an abstract model
        "fieldapp.BrandedTwo.secret",
        "fieldapp.Parent.secret",
        "fieldapp.Child.inner",
        "fieldapp.SecretChild.inner",
    } <= set(labels)
    # Neither the proxy of Note nor what Child inherits, which is in the parent's table.
    assert not [label for label in labels if "Proxy" in label or label == "fieldapp.Child.secret"]


def test_unmanaged_and_automatic_models_are_looked_at() -> None:
    seen = {column.model for column in encrypted_columns()}
    assert all(isinstance(model, type) and issubclass(model, models.Model) for model in seen)


@pytest.mark.parametrize("name", ["fieldapp.Note", "FIELDAPP.note"])
def test_all_of_a_model(name: str) -> None:
    assert [one.label for one in encrypted_columns(name)] == [
        "fieldapp.Note.secret",
        "fieldapp.Note.data",
    ]


@pytest.mark.parametrize("name", ["fieldapp", "fieldapp.Tenant", "fieldapp.Note.note", ""])
def test_what_is_not_encrypted_is_refused(name: str) -> None:
    with pytest.raises(LookupError, match=r"fieldapp\.Note\.secret"):
        encrypted_columns(name)


def column() -> EncryptedColumn:
    return encrypted_columns("fieldapp.Note.secret")[0]


def test_every_database_that_holds_the_table(other_database: str) -> None:
    assert list(databases_of(column())) == ["default", other_database]
    assert list(databases_of(column(), other_database)) == [other_database]
    # This one has not that table.
    (elsewhere,) = encrypted_columns("fieldapp.Parent.secret")
    assert list(databases_of(elsewhere)) == ["default"]


def test_no_such_database(db: None) -> None:
    with pytest.raises(ConnectionDoesNotExist):
        list(databases_of(column(), "nowhere"))


def test_routers_are_asked(other_database: str, settings: "object") -> None:
    class Elsewhere:
        def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool | None:
            return db != other_database

    settings.DATABASE_ROUTERS = [Elsewhere()]  # type: ignore[attr-defined]
    assert list(databases_of(column())) == ["default"]


def test_mirrors_are_left_out(other_database: str) -> None:
    own = connections[other_database].settings_dict
    own["TEST"] = {**own["TEST"], "MIRROR": "default"}
    assert list(databases_of(column())) == ["default"]


def test_a_database_in_read_only_mode_is_left_out(other_database: str) -> None:
    replica = connections[other_database]
    assert not is_read_only(replica)
    with replica.cursor() as cursor:
        cursor.execute("PRAGMA query_only = ON")
    assert is_read_only(replica)
    assert list(databases_of(column())) == ["default"]
    with replica.cursor() as cursor:
        cursor.execute("PRAGMA query_only = OFF")


def test_a_file_that_is_opened_for_reading_is_left_out(other_database: str, tmp_path: Path) -> None:
    replica = connections[other_database]
    assert not is_read_only(replica)
    replica.settings_dict["NAME"] = f"file:{tmp_path}/other.sqlite3?mode=ro"
    assert is_read_only(replica)


def test_a_server_in_read_only_mode(transactional_db: None) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("asks PostgreSQL")
    assert not is_read_only(connection)
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    try:
        assert is_read_only(connection)
        assert list(databases_of(column())) == []
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = off")


def test_rows_of_the_model_are_what_is_meant() -> None:
    assert column().model is Note
    assert column().name == "secret"
