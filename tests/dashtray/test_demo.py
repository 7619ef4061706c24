from io import StringIO

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import override_settings

from apikeys.models import AIKey
from connections.models import Connection
from projects.models import Membership, Project
from projects.roles import Role

PASSWORD = "rambutan-in-the-rain"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_PASSWORD", PASSWORD)


def demo() -> str:
    output = StringIO()
    with override_settings(DEBUG=True):
        call_command("demo", stdout=output)
    return output.getvalue()


def test_it_tells_the_log_in_and_the_log_in_works() -> None:
    assert "admin" in (output := demo())
    assert PASSWORD in output
    admin = authenticate(username="admin", password=PASSWORD)
    assert isinstance(admin, User)
    assert admin.is_superuser
    support = authenticate(username="support", password=PASSWORD)
    assert isinstance(support, User)
    assert support.is_staff
    assert not support.is_superuser


def test_it_makes_projects_with_members_and_connections_that_can_be_used() -> None:
    demo()
    assert Project.objects.count() == 2
    assert Membership.objects.filter(user__username="support", role=Role.VIEWER).count() == 2
    for one in Connection.objects.all():
        assert one.integration is not None
        assert one.usable_credentials()
    assert AIKey.objects.get().api_key


def test_a_second_run_adds_and_changes_nothing() -> None:
    demo()
    before = [
        list(model.objects.order_by("pk").values()) for model in (User, Project, Connection, AIKey)
    ]
    demo()
    after = [
        list(model.objects.order_by("pk").values()) for model in (User, Project, Connection, AIKey)
    ]
    assert [[str(row) for row in rows] for rows in after] == [
        [str(row) for row in rows] for rows in before
    ]


def test_the_password_of_the_environment_is_the_one_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    demo()
    monkeypatch.setenv("DEMO_PASSWORD", "another-" + PASSWORD)
    demo()
    assert authenticate(username="admin", password=PASSWORD) is None
    assert authenticate(username="admin", password="another-" + PASSWORD) is not None


def test_the_database_holds_its_secrets_as_tokens() -> None:
    demo()
    with connection.cursor() as cursor:
        cursor.execute("SELECT credentials FROM connections_connection")
        tokens = [row[0] for row in cursor.fetchall()]
        cursor.execute("SELECT api_key FROM apikeys_aikey")
        tokens += [row[0] for row in cursor.fetchall()]
    assert len(tokens) == 4
    assert all(token.startswith("v2:") for token in tokens)


def test_it_refuses_where_debug_is_off() -> None:
    with pytest.raises(CommandError, match="DEBUG"):
        call_command("demo")
    assert not User.objects.exists()


def test_it_refuses_without_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEMO_PASSWORD")
    with pytest.raises(CommandError, match=r"python -m dashtray\.environment"):
        demo()
    assert not User.objects.exists()
