"""The migration of docs/moving-over.md is run as it is written."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "moving-over.md").read_text(encoding="utf-8")

SETTINGS = """
SECRET_KEY = "a throw-away"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "encryption", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""

# A TextField stands in for the other package's field: it gives plaintext when it is read.
MODELS = """
from django.db import models
from encryption.fields import EncryptedTextField

class Account(models.Model):
    team = models.ForeignKey("auth.Group", on_delete=models.CASCADE)
    old_token = models.TextField()
"""

WRITE = """
from django.contrib.auth.models import Group
from shop.models import Account
for name in ("one", "other"):
    Account.objects.create(team=Group.objects.create(name=name), old_token=f"token of {name}")
"""

READ = """
from shop.models import Account
rows = Account.objects.values_list("token", flat=True)
assert all(secret.token.startswith("v2:") for secret in rows)
assert [a.token for a in Account.objects.order_by("pk")] == ["token of one", "token of other"]
"""


def run(project: Path, *arguments: str) -> None:
    clean = {name: value for name, value in os.environ.items() if "KEY" not in name}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", *arguments],
        cwd=project,
        env=clean
        | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{project}",
            "DJANGO_SETTINGS_MODULE": "settings",
            "MASTER_ENCRYPTION_KEY": "0" * 64,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_values_of_another_field_are_copied(tmp_path: Path) -> None:
    (migration,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (field,) = re.findall(r"`(token = .*)`", PAGE)
    (tmp_path / "settings.py").write_text(SETTINGS)
    migrations = tmp_path / "shop" / "migrations"
    migrations.mkdir(parents=True)
    for package in (migrations.parent, migrations):
        (package / "__init__.py").touch()
    models = tmp_path / "shop" / "models.py"

    models.write_text(MODELS)
    run(tmp_path, "makemigrations", "shop", "--name", "first")
    run(tmp_path, "migrate")
    run(tmp_path, "shell", "-c", WRITE)

    models.write_text(f"{MODELS}    {field}\n")
    run(tmp_path, "makemigrations", "shop", "--name", "token")
    (migrations / "0003_copy.py").write_text(textwrap.dedent(migration))
    run(tmp_path, "migrate")
    run(tmp_path, "shell", "-c", READ)
