"""The guides are run as they are written, and name every check."""

import re
from pathlib import Path

import pytest

import encryption
from tests.docs.pages import ROOT, blocks
from tests.docs.walk import Project

DOCS = ROOT / "docs"

PREPARE = """
from django.contrib.auth.models import Group
from django.core.management import call_command
from shop.models import Account
call_command("migrate", verbosity=0)
one, other = Group.objects.create(name="one"), Group.objects.create(name="other")
"""


@pytest.mark.parametrize("page", ["orm-paths.md", "blind-indexes.md"])
def test_the_examples_hold(tmp_path: Path, page: str) -> None:
    model, *examples = (block.text for block in blocks(page, "python"))
    assert len(examples) > 3
    project = Project(tmp_path)
    project.write("shop/models.py", model)
    project.manage("makemigrations", "shop")
    project.shell("\n".join([PREPARE, *examples]))


def test_every_check_and_error_is_explained() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    source = "\n".join(
        file.read_text(encoding="utf-8") for file in (ROOT / "encryption").rglob("*.py")
    )
    ids = set(re.findall(r"encryption\.[EW]\d{3}", source))
    # Those that are built from a number: `_error(..., 13)`.
    checks = "\n".join(
        (ROOT / "encryption" / name).read_text(encoding="utf-8")
        for name in ("checks.py", "indexchecks.py", "admin.py")
    )
    ids |= {f"encryption.E{number:0>3}" for number in re.findall(r"\b([1-5]\d),?\n? *\)", checks)}
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
