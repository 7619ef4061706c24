import json
import shutil
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection as database

from apikeys.models import AIKey, ApiKey
from connections.models import Connection, CredentialEvent
from encryption import sha256_hex
from projects.models import LegacyId, Project
from projects.roles import Role

pytestmark = pytest.mark.django_db

EXPORT = Path(__file__).parent.parent / "data" / "convex_export"
TRUTH = json.loads((EXPORT / "truth.json").read_text())


@pytest.fixture(autouse=True)
def old_master_key(settings):
    settings.ENCRYPTION = {"MASTER_KEY_FALLBACKS": [TRUTH["master"]]}


def run(folder=EXPORT, *options):
    out, err = StringIO(), StringIO()
    try:
        call_command("import_convex_export", str(folder), *options, stdout=out, stderr=err)
    except CommandError as error:
        return str(error), out.getvalue(), err.getvalue()
    return None, out.getvalue(), err.getvalue()


def local(table, legacy_id):
    return LegacyId.objects.get(table=table, legacy_id=legacy_id).local_id


def check_truth():
    for legacy_id, credentials in TRUTH["credentials"].items():
        connection = Connection.objects.get(pk=local("connections", legacy_id))
        assert connection.credentials == credentials
    for legacy_id, api_key in TRUTH["aiKeys"].items():
        assert AIKey.objects.get(user=local("users", legacy_id)).api_key == api_key
    for legacy_id, api_key in TRUTH["apiKeys"].items():
        key = ApiKey.objects.get(pk=local("apiKeys", legacy_id))
        assert key.key_hash == sha256_hex(api_key)
    counts = [model.objects.count() for model in (User, Project, Connection, ApiKey, AIKey)]
    assert counts == [4, 5, 12, 3, 2]


def test_the_sample_imports_and_each_credential_reads_back():
    error, out, err = run()
    assert (error, err) == (None, "")
    assert "connections: 12 imported, 0 were here already" in out
    assert "API_KEYS_ACCEPT_IMPORTED=true" in out
    check_truth()
    with database.cursor() as cursor:
        cursor.execute("SELECT credentials FROM connections_connection")
        tokens = [row[0] for row in cursor.fetchall()]
        cursor.execute("SELECT api_key FROM apikeys_aikey")
        tokens += [row[0] for row in cursor.fetchall()]
    assert all(token.startswith("v2:") for token in tokens)


def test_a_second_run_changes_nothing():
    run()
    before = list(Connection.objects.order_by("pk").values())
    error, out, _ = run()
    assert error is None
    assert "connections: 0 imported, 12 were here already" in out
    assert list(Connection.objects.order_by("pk").values()) == before
    check_truth()


def test_a_second_run_leaves_what_was_changed_here():
    run()
    connection = Connection.objects.first()
    connection.name = "Renamed"
    connection.change_credentials({"apiKey": "new"})
    connection.save()
    User.objects.filter(email="user1@example.test").update(email="other@example.test")
    run()
    assert Connection.objects.get(pk=connection.pk).name == "Renamed"
    assert User.objects.count() == 4


def test_a_dry_run_writes_nothing():
    error, out, _ = run(EXPORT, "--dry-run")
    assert error is None
    assert "connections: 12 would be imported" in out
    for model in (User, Project, Connection, ApiKey, AIKey, LegacyId, CredentialEvent):
        assert not model.objects.exists()


def test_what_an_object_was_is_kept():
    run()
    connection = Connection.objects.get(pk=local("connections", "zxzz70dnsg0zfapzg5hc88amn50jn02y"))
    created = datetime.fromtimestamp(1735689600.1, UTC)
    assert (connection.service, connection.status, connection.health_score) == (
        "stripe",
        "active",
        100,
    )
    assert connection.created_at == created
    assert connection.updated_at == datetime.fromtimestamp(1735689600.2, UTC)
    assert str(connection.project_id) == local("projects", "dey908n5qs2ansmc5tjwdnm6kzvd0dtg")
    assert connection.credential_fields() == {"api_key": {"set": True}}
    assert connection.usable_credentials() == {"api_key": connection.credentials["apiKey"]}
    assert connection.project.created_at == datetime.fromtimestamp(1735689600.01, UTC)
    assert connection.project.role_of(connection.project.owner) == Role.OWNER
    key = ApiKey.objects.get(pk=local("apiKeys", "2fty0gnf7crnkfd8mdea7mc09q6debdg"))
    assert (key.name, key.key_prefix) == ("key 0", "pp_live_")
    assert key.created_at == datetime.fromtimestamp(1735689600.3, UTC)
    assert set(key.scopes) == {"projects:read", "connections:read", "metrics:read"}
    user = User.objects.get(email="user0@example.test")
    assert (user.first_name, user.last_name) == ("User", "0")
    assert not user.has_usable_password()


def test_configuration_is_copied_out_of_the_credentials():
    run()
    for connection in Connection.objects.filter(service="github"):
        assert connection.config == {"owner": "acme", "repositories": ["a", "b"]}
        assert connection.usable_credentials() == {"token": connection.credentials["token"]}


def test_an_unknown_service_is_kept_as_it_is():
    run()
    connection = Connection.objects.filter(service="googleAnalytics").first()
    assert connection.integration is None
    assert connection.credentials["clientSecret"] == 'é🔐"\\'


def test_a_user_of_the_same_address_is_the_same_person():
    known = User.objects.create_user("known", email="User0@example.test", password="x")
    run()
    assert local("users", "k4nh3pb5sz31f0t0jpqnwta14v0be6r0") == str(known.pk)
    assert User.objects.count() == 4
    known.refresh_from_db()
    assert known.check_password("x")


def test_without_the_old_key_the_rest_is_imported(settings):
    settings.ENCRYPTION = {}
    error, out, err = run()
    assert error == "14 documents could not be read."
    assert "projects: 5 imported" in out
    assert "apiKeys: 3 imported" in out
    assert len(err.strip().splitlines()) == 14
    settings.ENCRYPTION = {"MASTER_KEY_FALLBACKS": [TRUTH["master"]]}
    assert run()[0] is None
    check_truth()


BROKEN = {
    "users": [
        b"not json",
        b'["a list"]',
        b'{"no": "id"}',
        b'{"_id": "twice", "email": "twice@example.test", "_creationTime": 1}',
        b'{"_id": "late", "email": "late@example.test", "_creationTime": 1e300}',
        b'{"_id": "odd", "email": 5}',
        b'{"_id": "ai", "email": "ai@example.test", "_creationTime": 1, "aiApiKey": "AAAA"}',
    ],
    "projects": [
        b'{"_id": "orphan", "name": "x", "ownerId": "nobody"}',
        b'{"_id": "nameless", "ownerId": "k4nh3pb5sz31f0t0jpqnwta14v0be6r0"}',
    ],
    "connections": [
        b'{"_id": "lost", "projectId": "nothing", "service": "stripe"}',
        b'{"_id": "cut", "projectId": "dey908n5qs2ansmc5tjwdnm6kzvd0dtg", "service": "stripe",'
        b' "encryptedCredentials": "aIdxPtyfcqOXeQM96EsSZsxzThxp"}',
        b"\xff\xfe",
    ],
    "apiKeys": [
        b'{"_id": "short", "projectId": "dey908n5qs2ansmc5tjwdnm6kzvd0dtg", "name": "x",'
        b' "keyHash": "abc", "keyPrefix": "pp_live_"}',
    ],
}


def test_what_cannot_be_read_is_reported_and_the_rest_is_imported(tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(EXPORT, folder)
    for table, lines in BROKEN.items():
        file = folder / table / "documents.jsonl"
        file.write_bytes(b"\n".join([*lines, file.read_bytes()]))
    for name in ("one", "two"):
        User.objects.create_user(name, email="twice@example.test")
    error, _, err = run(folder)
    assert error == "13 documents could not be read."
    for seen in (
        "users line 1: ", "users line 2: ", "users line 3: ", "users twice: ", "users late: ",
        "users odd: ", "users.aiApiKey ai: ", "projects orphan: ", "projects nameless: ",
        "connections lost: ", "connections cut: ", "connections line 3: ", "apiKeys short: ",
    ):  # fmt: skip
        assert seen in err
    User.objects.filter(username__in=["one", "two", "ai@example.test"]).delete()
    check_truth()


def test_no_secret_is_printed(tmp_path, settings):
    secrets = [*TRUTH["aiKeys"].values(), *TRUTH["apiKeys"].values(), TRUTH["master"]]
    secrets += [
        value
        for one in TRUTH["credentials"].values()
        for value in one.values()
        if isinstance(value, str) and len(value) > 8
    ]
    printed = "".join(map(str, run()))
    settings.ENCRYPTION = {}
    LegacyId.objects.all().delete()
    printed += "".join(map(str, run()))
    assert not [secret for secret in secrets if secret in printed]


def test_a_folder_that_is_none(tmp_path):
    error, _, _ = run(tmp_path / "nothing")
    assert "there is no such folder" in error


def test_a_folder_that_is_no_export_is_wrong_usage(tmp_path):
    with pytest.raises(CommandError, match="no export") as caught:
        call_command("import_convex_export", str(EXPORT.parent))
    assert caught.value.returncode == 2
    shutil.copytree(EXPORT / "users", tmp_path / "users")
    error, _, err = run(tmp_path)
    assert error is None
    assert "projects: not in this export" in err
    assert "users: not" not in err


def edited(folder, table, **change):
    """A copy of the sample in which the first document of a table is another one; its id."""
    shutil.copytree(EXPORT, folder)
    file = folder / table / "documents.jsonl"
    first, *rest = file.read_text().splitlines()
    document = json.loads(first) | change
    file.write_text("\n".join([json.dumps(document), *rest]))
    return document["_id"]


@pytest.mark.parametrize("table", ["connections", "projects", "users"])
def test_names_are_one_printable_line(tmp_path, table: str):
    bad = " \x1b[31mRed\n\x00second\u2028line\t "
    changed = edited(tmp_path / "export", table, name=bad)
    assert run(tmp_path / "export")[0] is None
    model = {"connections": Connection, "projects": Project, "users": User}[table]
    row = model.objects.get(pk=local(table, changed))
    shown = row.get_full_name() if table == "users" else row.name
    assert shown == "[31mRed second line"


def test_a_name_that_looks_like_a_secret_is_not_taken_over(tmp_path):
    secret = "sk_live_51Habcdefghijklmnop"
    changed = edited(tmp_path / "export", "connections", name=f"Shop {secret}")
    error, out, err = run(tmp_path / "export")
    assert error is None
    assert f"connections {changed}: its name looks like a secret" in err
    assert secret not in out + err
    connection = Connection.objects.get(pk=local("connections", changed))
    assert connection.name == connection.integration.title


def test_a_name_without_a_printable_character_is_none(tmp_path):
    changed = edited(tmp_path / "export", "projects", name="\n\x00")
    error, _, err = run(tmp_path / "export")
    assert error is not None
    assert f"projects {changed}: its name has no printable character" in err
