"""A project in a folder of its own, through which the blocks of a page are walked."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.docs.pages import ROOT, Block

SETTINGS = """
SECRET_KEY = "a throw-away"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "encryption", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
KEY = "0" * 64
_FILE = re.compile(r"# (\S+\.py)\n")
_SHELL = "# python manage.py shell\n"


class Project:
    """A Django project with an application `shop`, in which every warning is an error.

    Args:
        packages: folders of installed packages, found after everything else.
    """

    def __init__(self, folder: Path, packages: Sequence[Path] = (), settings: str = "") -> None:
        self.folder = folder
        self.path = os.pathsep.join(map(str, [ROOT, folder, *packages]))
        self.environment = {"MASTER_ENCRYPTION_KEY": KEY}
        self.write("settings.py", SETTINGS + settings)
        for package in ("shop", "shop/migrations"):
            self.write(f"{package}/__init__.py", "")

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def manage(self, *arguments: str) -> str:
        """Run a management command; what it printed.

        Raises:
            AssertionError: it failed; with what it said.
        """
        clean = {name: value for name, value in os.environ.items() if "KEY" not in name}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "django", *arguments],
            cwd=self.folder,
            env=clean
            | {"PYTHONPATH": self.path, "DJANGO_SETTINGS_MODULE": "settings"}
            | self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
        return done.stdout

    def shell(self, code: str) -> str:
        return self.manage("shell", "-c", code)

    def follow(self, block: Block) -> None:
        """Do what a block says: write the file that its first line names, or run its commands."""
        if block.language == "sh":
            for line in block.text.splitlines():
                python, script, *arguments = shlex.split(line)
                assert (python, script) == ("python", "manage.py"), f"{block}: {line}"
                self.manage(*arguments)
        elif block.text.startswith(_SHELL):
            self.shell(block.text)
        elif found := _FILE.match(block.text):
            self.write(found[1], block.text)
        else:
            raise AssertionError(f"{block}: nothing says what to do with this")
