"""The site under its production settings, in a process of its own: they are read at import."""

import os
import secrets
import subprocess
import sys

from dashtray.environment import CHECKOUT

PRODUCTION = {
    "ALLOWED_HOSTS": "dashtray.example",
    "DATABASE_URL": "sqlite://:memory:",
    "ENV_FILE": "",
    "MASTER_ENCRYPTION_KEY": secrets.token_hex(32),
    "SECRET_KEY": secrets.token_urlsafe(48),
}


def manage(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run manage.py with nothing in the environment but what is given; a warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", str(CHECKOUT / "manage.py"), *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        check=False,
        text=True,
    )


def run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python code on the site."""
    return manage("shell", "--no-imports", "--command", code, **environ)
