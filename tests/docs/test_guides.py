"""The guides are run as they are written, and name every check."""

import os
import re
import subprocess
import sys
from pathlib import Path

import encryption

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

SETTINGS = """
SECRET_KEY = "a throw-away"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "encryption", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""

PREPARE = """
import django
django.setup()
from django.contrib.auth.models import Group
from django.core.management import call_command
from shop.models import Account
call_command("migrate", run_syncdb=True, verbosity=0)
one, other = Group.objects.create(name="one"), Group.objects.create(name="other")
"""


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_examples_of_orm_paths_hold(tmp_path: Path) -> None:
    model, *examples = blocks("orm-paths.md", "python")
    assert len(examples) > 5
    (tmp_path / "settings.py").write_text(SETTINGS)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "models.py").write_text(model)
    (tmp_path / "examples.py").write_text("\n".join([PREPARE, *examples]))
    clean = {name: value for name, value in os.environ.items() if "KEY" not in name}
    done = subprocess.run(
        [sys.executable, "-W", "error", "examples.py"],
        cwd=tmp_path,
        env=clean
        | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
            "DJANGO_SETTINGS_MODULE": "settings",
            "MASTER_ENCRYPTION_KEY": "0" * 64,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_check_and_error_is_explained() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    source = "\n".join(
        file.read_text(encoding="utf-8") for file in (ROOT / "encryption").rglob("*.py")
    )
    ids = set(re.findall(r"encryption\.[EW]\d{3}", source))
    # Those that are built from a number: `_error(..., 13)`.
    checks = "\n".join(
        (ROOT / "encryption" / name).read_text(encoding="utf-8")
        for name in ("checks.py", "admin.py")
    )
    ids |= {f"encryption.E{number:0>3}" for number in re.findall(r"\b([1-4]\d),?\n? *\)", checks)}
    assert len(ids) > 15
    assert set(re.findall(r"`(encryption\.[EW]\d{3})`", text)) == ids
    for name in encryption.__all__:
        if name.endswith("Error") and name != "EncryptionError":
            assert f"`{name}`" in text or f"`encryption.{name}`" in text


def test_every_variable_of_the_settings_is_listed() -> None:
    text = (DOCS / "settings.md").read_text(encoding="utf-8")
    source = (ROOT / "dashtray" / "settings.py").read_text(encoding="utf-8")
    read = set(re.findall(r"env\.\w+\(\s*\"([A-Z_]+)\"", source))
    assert len(read) > 15
    assert {name for name in read if f"`{name}`" not in text} == set()
