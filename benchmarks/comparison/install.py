"""Packages in folders of their own, beside the environment that runs."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.comparison.packages import Package, Refused

SITES = Path(__file__).parent / "sites"
#: What a package of another Python gets beside itself: the versions of the environment that runs.
SHARED = (
    "Django", "asgiref", "cffi", "cryptography", "djangorestframework", "pycparser", "sqlparse",
)  # fmt: skip
IMPORT = """
import sys, django
from importlib import import_module
from django.conf import settings
settings.configure(INSTALLED_APPS=[])
django.setup()
import_module(sys.argv[1])
"""


def interpreter(python: str) -> str:
    """The running Python, or another version of it: from the PATH, or from pyenv.

    Raises:
        SystemExit: there is none.
    """
    if not python:
        return sys.executable
    candidates = [f"python{python}"]
    if shutil.which("pyenv"):
        found = subprocess.run(
            ["pyenv", "prefix", python], capture_output=True, text=True, check=False
        )
        candidates.append(f"{found.stdout.strip()}/bin/python")
    for candidate in candidates:
        path = shutil.which(candidate)
        if (
            path
            and not subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode
        ):
            return path
    raise SystemExit(f"Python {python} is neither on the PATH nor in pyenv")


def pip(python: str, site: Path, requirements: list[str]) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
    return subprocess.run(
        [*command, "--target", str(site), *requirements],
        capture_output=True,
        text=True,
        check=False,
    )


def install(package: Package) -> Path:
    """The package, and what it needs that Dashtray does not, in a folder of its own.

    Raises:
        SystemExit: with what pip said.
    """
    site = SITES / package.name.replace(" ", "-")
    requirements = list(package.requirements)
    if package.python:
        requirements += [f"{name}=={version(name)}" for name in SHARED]
    stamp, wanted = site / "installed.txt", "\n".join(requirements)
    if not stamp.exists() or stamp.read_text() != wanted:
        site.mkdir(parents=True, exist_ok=True)
        if wanted and (done := pip(interpreter(package.python), site, requirements)).returncode:
            raise SystemExit(done.stderr)
        stamp.write_text(wanted)
    return site


def refusal(package: Refused) -> str:
    """What happens to who wants to use it: the error of pip, or of the import."""
    site = SITES / package.name.replace(" ", "-")
    done = pip(sys.executable, site, list(package.requirements))
    number = re.escape(package.name.split()[1])
    if done.returncode:
        needed = re.search(rf"\b{number} Requires-Python (\S+)", done.stderr)
        return f"cannot be installed: `Requires-Python {needed[1]}`" if needed else done.stderr
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, package.module],
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.returncode:
        return "can be imported"
    error = re.sub(r" \(/.*\)$", "", done.stderr.splitlines()[-1])
    return f"cannot be imported: `{error}`"
