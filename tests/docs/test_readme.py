"""The README is run as it is written."""

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import get_commands

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

SETTINGS = """
SECRET_KEY = "a throw-away"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "encryption", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""

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


def run(project: Path, *arguments: str, **environment: str) -> str:
    """Run manage.py of the throw-away project; any warning is an error."""
    clean = {name: value for name, value in os.environ.items() if "KEY" not in name}
    clean |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{project}", "DJANGO_SETTINGS_MODULE": "settings"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", *arguments],
        cwd=project,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "settings.py").write_text(SETTINGS)
    (tmp_path / "shop" / "migrations").mkdir(parents=True)
    for package in ("shop", "shop/migrations"):
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "shop" / "models.py").write_text(example)
    return tmp_path


def test_the_example_and_the_rotation_work_as_written(project: Path) -> None:
    old = run(project, "generate_master_key").strip()
    assert len(old) == 64
    run(project, "makemigrations", "shop", MASTER_ENCRYPTION_KEY=old)
    run(project, "migrate", MASTER_ENCRYPTION_KEY=old)
    run(project, "shell", "-c", USE, MASTER_ENCRYPTION_KEY=old)

    keys = {
        "MASTER_ENCRYPTION_KEY": secrets.token_hex(32),
        "MASTER_ENCRYPTION_KEY_FALLBACKS": old,
    }
    run(project, "rotate_master_key", **keys)
    run(project, "encryption_status", "--fail-if-stale", **keys)
    del keys["MASTER_ENCRYPTION_KEY_FALLBACKS"]
    run(project, "check", "--database", "default", **keys)
    read = "from shop.models import Account; print(Account.objects.get().token)"
    assert "the secret" in run(project, "shell", "-c", read, **keys)


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_commands_and_links_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = get_commands()
    for name in re.findall(r"manage\.py ([a-z_]+)", text):
        assert name in commands
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", text, re.MULTILINE):
        assert "".join(name) in targets
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link
