"""A copy of the checkout, in which a documented command may write."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from tests.docs.pages import ROOT

#: What the tests, and the make that runs them, are told. (Variables of make reach a make below.)
_OURS = {"DATABASE_URL", "DJANGO_SETTINGS_MODULE", "MFLAGS", "PYTHON", "VENV"}


def copy(folder: Path, ignored: Sequence[str] = ()) -> None:
    """Copy what is tracked, but for patterns of files and names of folders."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if any(fnmatch(name, line) or name.startswith(f"{line}/") for line in ignored):
            continue
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, file)


class Checkout:
    """The copy, with the environment that runs as its `.venv`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        copy(folder)
        environment = folder / ".venv"
        environment.mkdir()
        for entry in Path(sys.prefix).iterdir():
            if entry.name != ".installed":
                (environment / entry.name).symlink_to(entry)
        # make has nothing to install.
        (environment / ".installed").touch()
        for name in ("pyproject.toml", "constraints.txt"):
            os.utime(folder / name, (0, 0))

    def files(self) -> dict[str, bytes]:
        """The copied files as they are now."""
        return {
            str(file.relative_to(self.folder)): file.read_bytes()
            for file in self.folder.rglob("*")
            if file.is_file() and not {".venv", "__pycache__"} & set(file.parts)
        }

    def run(self, line: str, first: Path | None = None) -> str:
        """Run a line as a shell does, with no settings of the tests; what it printed.

        Args:
            first: a folder whose programs are found first; those of the environment otherwise.

        Raises:
            AssertionError: it failed; with what it said.
        """
        clean = {
            name: value
            for name, value in os.environ.items()
            if "KEY" not in name and not name.startswith(("MAKE", "PYTEST")) and name not in _OURS
        }
        path = f"{first or self.folder / '.venv' / 'bin'}{os.pathsep}{clean['PATH']}"
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=clean | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout
