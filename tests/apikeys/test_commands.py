import io
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper
from django.utils import timezone

from apikeys import tokens
from apikeys.management.commands.create_api_key import Command as CreateCommand
from apikeys.models import ApiKey, ApiKeyEvent
from encryption import sha256_hex

from .factories import OPERATOR, ApiKeyFactory, issued

pytestmark = pytest.mark.django_db


def run(*args: Any, stdin: str = "", **options: Any) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO(stdin))
        call_command(*map(str, args), stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


# -- create ---------------------------------------------------------------------------------------


def test_the_key_alone_is_on_stdout(project) -> None:
    out, err = run("create_api_key", project.pk, "--name", "Cron", "--scope", "metrics:read")
    key = ApiKey.objects.get()
    assert out == out.strip() + "\n"
    assert tokens.is_valid(out.strip())
    assert key.key_hash == sha256_hex(out.strip())
    assert str(key.pk) in err
    assert out.strip()[21:] not in err
    assert (key.name, key.scopes, key.expires_at) == ("Cron", ["metrics:read"], None)
    assert ApiKeyEvent.objects.get().actor == "command"


def test_restrictions_are_taken(project) -> None:
    before = timezone.now()
    out, _err = run(
        *("create_api_key", project.pk, "--name", "Cron", "--kind", "test"),
        *("--scope", "metrics:read", "--scope", "connections:read"),
        *("--network", "203.0.113.0/24", "--network", "2001:db8::/32"),
        *("--expires-in-days", "7"),
    )
    key = ApiKey.objects.get()
    assert out.startswith("pp_test_")
    assert key.scopes == ["connections:read", "metrics:read"]
    assert key.allowed_networks == ["203.0.113.0/24", "2001:db8::/32"]
    assert before <= key.expires_at - timedelta(days=7) <= timezone.now()


def test_the_maximum_lifetime_holds(project, settings) -> None:
    settings.API_KEYS_MAXIMUM_LIFETIME = timedelta(days=30)
    arguments = ("create_api_key", project.pk, "--name", "Cron", "--scope", "metrics:read")
    with pytest.raises(CommandError, match="at most 30 days"):
        run(*arguments, "--expires-in-days", "31")
    assert not ApiKey.objects.exists()
    run(*arguments)
    assert ApiKey.objects.get().expires_at is not None


KEY = tokens.generate().plaintext


@pytest.mark.parametrize(
    "change",
    [
        {"--name": ""},
        {"--name": KEY},
        {"--scope": "*"},
        {"--scope": "hunter2-hunter2"},
        {"--network": "203.0.113.1/24"},
        {"--network": "hunter2-hunter2"},
        {"--expires-at": "2099-01-01T00:00:00"},
        {"--expires-at": "2020-01-01T00:00:00Z"},
        {"--expires-at": "2099-13-01T00:00:00Z"},
        {"--expires-at": "hunter2-hunter2"},
        {"--expires-in-days": "0"},
        {"--expires-in-days": "-1"},
        {"--expires-in-days": "99999999999"},
        {"--expires-in-days": "hunter2-hunter2"},
        {"project": "hunter2-hunter2"},
        {"project": "00000000-0000-0000-0000-000000000000"},
        {"project": KEY},
    ],
)
def test_what_is_not_valid_is_an_error_and_not_repeated(project, change) -> None:
    wanted = {"project": str(project.pk), "--name": "Cron", "--scope": "metrics:read"} | change
    arguments = [wanted.pop("project")]
    for option, value in wanted.items():
        arguments += [option, value]
    with pytest.raises(CommandError) as caught:
        run("create_api_key", *arguments)
    assert "hunter2" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert not ApiKey.objects.exists()


def test_the_key_is_in_no_record_but_the_output(project, caplog, capfd) -> None:
    out, _err = run("create_api_key", project.pk, "--name", "Cron", "--scope", "metrics:read")
    secret = out.strip()[21:]
    assert secret not in caplog.text
    assert secret not in "".join(capfd.readouterr())
    assert secret not in str(list(ApiKeyEvent.objects.values()) + list(ApiKey.objects.values()))


def test_a_key_that_could_not_be_printed_is_revoked(project) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    command = CreateCommand(stdout=OutputWrapper(Closed()), stderr=io.StringIO())
    with pytest.raises(CommandError, match="revoked"):
        call_command(command, str(project.pk), "--name", "Cron", "--scope", "metrics:read")
    assert ApiKey.objects.get().status == "revoked"


# -- revoke ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        lambda key: str(key.pk),
        lambda key: key.key_prefix,
        lambda key: key.key_prefix.rstrip("_"),
        lambda key: f"{key.key_prefix}...",
    ],
    ids=["id", "prefix", "short prefix", "as it is shown"],
)
def test_a_key_is_revoked_by_its_names(key, name) -> None:
    other = ApiKeyFactory()
    out, _err = run("revoke_api_key", name(key))
    key.refresh_from_db()
    other.refresh_from_db()
    assert (key.status, other.status) == ("revoked", "active")
    assert out == f"{key.pk} {key.key_prefix}... revoked\n"
    event = ApiKeyEvent.objects.filter(kind="revoked").get()
    assert (event.actor, event.api_key_id) == ("command", key.pk)


def test_revoking_again_changes_nothing(key) -> None:
    run("revoke_api_key", key.pk)
    before = ApiKey.objects.values().get()
    out, _err = run("revoke_api_key", key.pk)
    assert "was revoked before" in out
    assert ApiKey.objects.values().get() == before


@pytest.mark.parametrize("right", [True, False])
def test_a_whole_key_on_the_command_line_is_refused_and_not_repeated(key, right: bool) -> None:
    text = key.issued_token.plaintext if right else f"{key.issued_token.plaintext[:-6]}000000"
    with pytest.raises(CommandError) as caught:
        run("revoke_api_key", text)
    assert text[21:] not in str(caught.value)
    assert "--stdin" in str(caught.value)
    key.refresh_from_db()
    assert key.status == "active"


def test_whole_keys_are_piped_in(project) -> None:
    (one, first), (two, second) = issued(project=project), issued(project=project)
    piped = f"{first.plaintext}\n  {second.plaintext}\n"
    out, err = run("revoke_api_key", "--stdin", stdin=piped)
    assert {ApiKey.objects.get(pk=key.pk).status for key in (one, two)} == {"revoked"}
    for token in (first, second):
        assert token.plaintext[21:] not in out + err


def test_an_imported_key_is_piped_in(key) -> None:
    ApiKey.objects.update(key_hash=sha256_hex("their-own"), key_prefix="their")
    run("revoke_api_key", "--stdin", stdin="their-own")
    assert ApiKey.objects.get().status == "revoked"


def test_the_others_are_revoked_even_if_one_is_unknown(key) -> None:
    unknown = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(CommandError, match="Not all"):
        run("revoke_api_key", unknown, key.pk)
    key.refresh_from_db()
    assert key.status == "revoked"


def test_a_prefix_of_another_case_is_another_key(key) -> None:
    with pytest.raises(CommandError):
        run("revoke_api_key", key.key_prefix[:8] + key.key_prefix[8:].swapcase())
    key.refresh_from_db()
    assert key.status == "active"


def test_a_prefix_that_several_share_is_refused(project) -> None:
    keys = [ApiKeyFactory(project=project) for _ in range(2)]
    ApiKey.objects.update(key_prefix="their")
    with pytest.raises(CommandError, match="by their id"):
        run("revoke_api_key", "their")
    assert {ApiKey.objects.get(pk=key.pk).status for key in keys} == {"active"}


@pytest.mark.parametrize("arguments", [(), ("name", "--stdin")])
def test_keys_are_named_or_piped_in(arguments) -> None:
    with pytest.raises(CommandError, match="--stdin"):
        run("revoke_api_key", *arguments)


# -- list -----------------------------------------------------------------------------------------


def test_the_list_tells_neither_keys_nor_hashes(project) -> None:
    key, token = issued(project=project, name="Cron")
    for options in ((), ("--json",), ("--all",)):
        out, _err = run("list_api_keys", *options)
        assert token.prefix in out
        assert "Cron" in out
        assert token.plaintext[21:] not in out
        assert key.key_hash not in out


def test_the_list_has_the_active_ones_unless_all_are_asked_for(project) -> None:
    active, revoked, expired, deleted = (ApiKeyFactory(project=project) for _ in range(4))
    revoked.revoke(by=OPERATOR)
    deleted.remove(by=OPERATOR)
    ApiKey.objects.filter(pk=expired.pk).update(expires_at=timezone.now())
    rows = [json.loads(line) for line in run("list_api_keys", "--json")[0].splitlines()]
    assert [row["id"] for row in rows] == [str(active.pk)]
    rows = [json.loads(line) for line in run("list_api_keys", "--json", "--all")[0].splitlines()]
    assert {row["id"]: row["status"] for row in rows} == {
        str(active.pk): "active",
        str(revoked.pk): "revoked",
        str(expired.pk): "expired",
        str(deleted.pk): "deleted",
    }


def test_the_list_of_one_project(project) -> None:
    mine, other = ApiKeyFactory(project=project), ApiKeyFactory()
    out, _err = run("list_api_keys", "--project", project.pk)
    assert str(mine.pk) in out
    assert str(other.pk) not in out


def test_the_table_has_a_line_for_each_key(project) -> None:
    key = ApiKeyFactory(project=project, name="Cron")
    head, line = run("list_api_keys")[0].splitlines()
    assert line.split("\t")[:2] == [str(key.pk), key.key_prefix]
    assert line.split("\t")[-1] == "Cron"
    assert len(head.split("\t")) == len(line.split("\t"))


# -- as processes ---------------------------------------------------------------------------------


def test_the_shell_sees_usage_errors_without_what_was_typed() -> None:
    result = subprocess.run(
        [sys.executable, "manage.py", "revoke_api_key", KEY],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert KEY[21:] not in result.stdout + result.stderr
    assert "--stdin" in result.stderr
