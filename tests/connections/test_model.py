"""What the names of set credentials say, whichever way a connection is written."""

import pytest
from django.core.exceptions import FieldError
from django.db import connection as database, transaction
from django.db.models import F

from connections.models import Connection
from tests.connections.factories import CANARY, ConnectionFactory
from tests.projects.factories import ProjectFactory

pytestmark = pytest.mark.django_db


def is_set(pk):
    return Connection.objects.get(pk=pk).credential_fields()["api_key"]["set"]


def test_bulk_create_notes_which_credentials_are_set():
    project = ProjectFactory()
    made = Connection.objects.bulk_create(
        Connection(project=project, service="stripe", name=str(number), credentials=credentials)
        for number, credentials in enumerate(({"api_key": CANARY}, {}))
    )
    assert [is_set(one.pk) for one in made] == [True, False]


def test_bulk_create_over_a_conflict_notes_it_too():
    connection = ConnectionFactory(credentials={})
    connection.credentials = {"api_key": CANARY}
    if not database.features.supports_update_conflicts_with_target:
        pytest.skip("such an upsert is refused here: nothing says which row it hits")
    Connection.objects.bulk_create(
        [connection],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["project", "credentials"],
    )
    assert is_set(connection.pk)


def test_bulk_update_notes_which_credentials_are_set():
    empty, full = ConnectionFactory(credentials={}), ConnectionFactory()
    empty.credentials, full.credentials = {"api_key": CANARY}, {}
    Connection.objects.bulk_update([empty, full], ["credentials"])
    assert (is_set(empty.pk), is_set(full.pk)) == (True, False)
    assert Connection.objects.get(pk=empty.pk).credentials == {"api_key": CANARY}


def test_bulk_update_of_something_else_decrypts_nothing(monkeypatch):
    connection = Connection.objects.get(pk=ConnectionFactory().pk)
    monkeypatch.setattr("encryption.core.keyring.Keyring.decrypt", None)
    connection.name = "New"
    Connection.objects.bulk_update([connection], ["name"])
    connection.refresh_from_db(fields=["name"])
    assert connection.name == "New"
    assert is_set(connection.pk)


def test_bulk_update_leaves_what_cannot_be_read(monkeypatch):
    """Names are what they were where only the project's other columns are written."""
    connection = ConnectionFactory()
    Connection.objects.bulk_update([connection], ["failures", "name"])
    assert is_set(connection.pk)


def test_update_cannot_write_credentials_past_the_names():
    connection = ConnectionFactory()
    for value in ({"api_key": CANARY}, F("config")):
        with pytest.raises(FieldError, match="credentials"), transaction.atomic():
            Connection.objects.filter(pk=connection.pk).update(credentials=value)
    assert is_set(connection.pk)


@pytest.mark.parametrize("way", ["update_or_create", "get_or_create"])
def test_the_ways_that_save_note_it(way):
    project = ProjectFactory()
    defaults = {"credentials": {"api_key": CANARY}}
    made, _ = getattr(Connection.objects, way)(
        project=project, service="stripe", name="x", defaults=defaults
    )
    assert is_set(made.pk)
    if way == "update_or_create":
        Connection.objects.update_or_create(pk=made.pk, defaults={"credentials": {}})
        assert not is_set(made.pk)
