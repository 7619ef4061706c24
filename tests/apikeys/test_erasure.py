import io
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client

from apikeys.erasure import encrypted_for
from apikeys.models import AIKey, ApiKey, ApiKeyEvent
from connections.models import Connection, CredentialEvent
from encryption import sha256_hex
from encryption.registry import databases_of, encrypted_columns
from projects.models import Project
from projects.roles import Role
from tests.projects.factories import member

from .factories import AIKeyFactory, ApiKeyFactory, ProjectFactory, UserFactory

pytestmark = pytest.mark.django_db

SECRET = "sk-live-this-must-be-gone-0123456789"


def connect(project: Project) -> Connection:
    return Connection.objects.create(
        project=project, service="stripe", name="Payments", credentials={"api_key": SECRET}
    )


def everything() -> dict[str, list[Any]]:
    """All rows of all tables, as they are in the database."""
    with connection.cursor() as cursor:
        tables = {}
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            tables[table] = sorted(map(str, cursor.fetchall()))
    return tables


def tokens_for(field: str, tenant: Any) -> list[str]:
    """Every stored token of a tenant, asked of each encrypted table in SQL."""
    found = []
    for column in encrypted_columns():
        salt = column.model._meta.get_field(column.field.salt_field)
        if salt.name != field or not list(databases_of(column)):
            continue
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {column.field.column} FROM {column.model._meta.db_table} "
                f"WHERE {salt.column} = %s AND {column.field.column} IS NOT NULL",
                [salt.get_db_prep_value(tenant, connection)],
            )
            found += [row[0] for row in cursor.fetchall()]
    return found


def erase(command: str, *args: Any, **options: Any) -> str:
    out = io.StringIO()
    call_command(command, *args, stdout=out, stderr=out, **{"noinput": True, **options})
    return out.getvalue()


@pytest.fixture
def rich(project) -> Project:
    """A project with something of everything."""
    connect(project)
    connect(project)
    member(project, Role.VIEWER)
    ApiKeyFactory(project=project)
    return project


def test_nothing_that_is_encrypted_for_a_project_is_left(rich) -> None:
    other = connect(ProjectFactory())
    number = rich.pk
    tokens = tokens_for("project", number)
    assert len(tokens) == 2
    out = erase("erase_project", str(number))
    assert "connections.Connection.credentials [default]: 2 encrypted values erased" in out
    assert "Nothing encrypted is left." in out
    assert tokens_for("project", number) == []
    rest = str(everything())
    for token in tokens:
        assert token not in rest
    assert not Project.objects.filter(pk=number).exists()
    assert not ApiKey.objects.exists()
    assert Connection.objects.get().credentials == other.credentials


def test_what_is_kept_for_the_record_names_no_secret(rich) -> None:
    key = ApiKey.objects.get()
    token = ApiKeyFactory(project=rich).issued_token
    erase("erase_project", str(rich.pk))
    kept = ApiKeyEvent.objects.filter(project_id=key.project_id)
    assert kept.filter(kind="deleted", actor="command").count() == 2
    rest = str(everything())
    for secret in (SECRET, key.key_hash, token.plaintext, sha256_hex(token.plaintext)):
        assert secret not in rest
    kept = CredentialEvent.objects.filter(project_id=key.project_id)
    assert kept.filter(action="delete", actor="command").count() == 2


def test_nothing_that_is_encrypted_for_a_user_is_left(user) -> None:
    AIKeyFactory(user=user)
    AIKeyFactory(user=user, provider="anthropic")
    other = AIKeyFactory()
    number, tokens = user.pk, tokens_for("user", user.pk)
    assert len(tokens) == 2
    out = erase("erase_user", user.username)
    assert "apikeys.AIKey.api_key [default]: 2 encrypted values erased" in out
    assert tokens_for("user", number) == []
    rest = str(everything())
    for token in tokens:
        assert token not in rest
    assert not get_user_model().objects.filter(pk=number).exists()
    assert AIKey.objects.get().api_key == other.api_key


@pytest.mark.parametrize("command", ["erase_user", "erase_project"])
def test_a_dry_run_lists_and_changes_nothing(rich, command: str) -> None:
    AIKeyFactory(user=rich.owner)
    before = everything()
    if command == "erase_user":
        out = erase(command, rich.owner.username, dry_run=True, with_projects=True)
        assert "apikeys.AIKey.api_key [default]: 1 encrypted value would be erased" in out
    else:
        out = erase(command, str(rich.pk), dry_run=True)
    assert "connections.Connection.credentials [default]: 2 encrypted values would be" in out
    assert "projects.Membership: 2 rows would be erased" in out
    assert "Nothing encrypted is left" not in out
    assert everything() == before


def test_a_user_who_owns_projects_is_erased_only_with_them(rich) -> None:
    before = everything()
    with pytest.raises(CommandError, match="--with-projects"):
        erase("erase_user", rich.owner.username)
    assert everything() == before
    number = rich.pk
    erase("erase_user", rich.owner.username, with_projects=True)
    assert tokens_for("project", number) == []
    assert not get_user_model().objects.filter(pk=rich.owner_id).exists()


def test_a_member_who_leaves_takes_nothing_of_the_project(rich) -> None:
    member = rich.memberships.exclude(user=rich.owner).get().user
    erase("erase_user", member.username)
    assert rich.memberships.count() == 1
    assert len(tokens_for("project", rich.pk)) == 2


def test_one_whose_secrets_cannot_be_decrypted_is_erased_all_the_same(rich, settings) -> None:
    settings.ENCRYPTION = {"MASTER_KEY": "another key of at least thirty-two characters"}
    erase("erase_project", str(rich.pk))
    assert not Connection.objects.exists()


@pytest.mark.parametrize("answer", ["no", "", "YES"])
def test_without_a_yes_nothing_is_erased(rich, monkeypatch, answer: str) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    with pytest.raises(CommandError, match=r"Nothing was erased\."):
        erase("erase_project", str(rich.pk), noinput=False)
    assert Project.objects.filter(pk=rich.pk).exists()


def test_with_a_yes_it_is(rich, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("builtins.input", lambda prompt: asked.append(prompt) or "yes")
    erase("erase_project", str(rich.pk), noinput=False)
    assert str(rich.pk) in asked[0]
    assert not Project.objects.exists()


def test_nobody_to_answer_is_no_yes(rich, monkeypatch) -> None:
    def end(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    with pytest.raises(CommandError, match=r"Nothing was erased\."):
        erase("erase_user", rich.owner.username, noinput=False)


@pytest.mark.parametrize(
    ("command", "argument"),
    [
        ("erase_user", "nobody"),
        ("erase_project", "00000000-0000-0000-0000-000000000000"),
        ("erase_project", "not-an-id"),
    ],
)
def test_whom_nobody_knows_is_an_error(command: str, argument: str) -> None:
    with pytest.raises(CommandError):
        erase(command, argument)


def test_a_session_of_an_erased_user_is_nobodys(user, project) -> None:
    client = Client()
    client.force_login(user)
    assert client.get("/api/v1/projects/").status_code == 200
    erase("erase_user", user.username)
    assert client.get("/api/v1/projects/").status_code == 401


def test_a_model_that_is_added_later_is_erased_too() -> None:
    """Whatever models there are: each whose tenant is a user or a project is found."""
    user, project = UserFactory(), ProjectFactory()
    found = {
        column.label
        for tenant in (user, project)
        for column, _alias, _rows in encrypted_for(tenant)
    }
    tenants = (get_user_model(), Project)
    expected = {
        column.label
        for column in encrypted_columns()
        if column.model._meta.get_field(column.field.salt_field).related_model in tenants
    }
    assert found == expected
    assert {"apikeys.AIKey.api_key", "connections.Connection.credentials"} <= found
