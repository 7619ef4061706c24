"""The README is run as it is written."""

import re
import secrets
from pathlib import Path

import pytest
from django.core.management import get_commands

from tests.docs.pages import ROOT, blocks
from tests.docs.walk import Project

PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

USE = """
from django.contrib.auth.models import Group
from django.core.exceptions import FieldError
from django.db import connection
from shop.models import Account

one, other = Group.objects.create(name="one"), Group.objects.create(name="other")
Account.objects.create(team=one, token="the secret", settings={"a": [1, None]})
account = Account.objects.get()
assert (account.token, account.settings) == ("the secret", {"a": [1, None]})
account.team = other
account.save()
account = Account.objects.get()
assert (account.token, account.settings) == ("the secret", {"a": [1, None]})
for refused in (
    lambda: Account.objects.update(token="x"),
    lambda: Account.objects.update(team=one),
    lambda: list(Account.objects.filter(token="the secret")),
):
    try:
        refused()
    except FieldError:
        continue
    raise AssertionError("not refused")
with connection.cursor() as cursor:
    cursor.execute("SELECT token, settings FROM shop_account")
    assert all(text.startswith("v2:") for text in cursor.fetchone())
"""


def test_the_example_and_the_rotation_work_as_written(tmp_path: Path) -> None:
    (example,) = blocks(ROOT / "README.md", "python")
    project = Project(tmp_path)
    project.write("shop/models.py", example.text)
    project.environment = {}
    old = project.manage("generate_master_key").strip()
    assert len(old) == 64
    project.environment = {"MASTER_ENCRYPTION_KEY": old}
    project.manage("makemigrations", "shop")
    project.manage("migrate")
    project.shell(USE)

    new = {"MASTER_ENCRYPTION_KEY": secrets.token_hex(32)}
    project.environment = {**new, "MASTER_ENCRYPTION_KEY_FALLBACKS": old}
    project.manage("rotate_master_key")
    project.manage("encryption_status", "--fail-if-stale")
    project.environment = new
    project.manage("check", "--database", "default")
    read = "from shop.models import Account; print(Account.objects.get().token)"
    assert "the secret" in project.shell(read)


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_commands_and_links_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = get_commands()
    for name in re.findall(r"manage\.py ([a-z_]+)", text):
        assert name in commands
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", text, re.MULTILINE):
        assert "".join(name) in targets
    for link in re.findall(r"\]\(([^)#: ]+)( \"[^)]*)?\)", text):
        assert (page.parent / link[0]).exists(), link
