"""The `.env` file that stands in for real environment variables during development.

`python -m dashtray.environment` writes one with fresh secrets where none exists. It runs before the
settings can be read, since they need what it writes.
"""

import os
import secrets
from pathlib import Path

from dotenv import load_dotenv

CHECKOUT = Path(__file__).resolve().parent.parent


def path() -> Path | None:
    """Where the file is: `ENV_FILE`, or `.env` in the checkout; None if `ENV_FILE` is empty."""
    named = os.environ.get("ENV_FILE")
    if named is None:
        return CHECKOUT / ".env"
    return Path(named) if named else None


def load() -> None:
    """Put the file's variables into `os.environ`; one that is set there already wins."""
    file = path()
    if file is not None:
        # Interpolation would read a generated secret with a "$" in it as a reference.
        load_dotenv(file, interpolate=False)


def create(file: Path) -> bool:
    """Write a development environment with fresh secrets, readable by its owner alone.

    Returns False, and leaves the file as it is, if it exists.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(
            "# Development only. MASTER_ENCRYPTION_KEY is the one way to read what the database\n"
            "# holds encrypted: without it those values are lost.\n"
            "DEBUG=true\n"
            f"SECRET_KEY={secrets.token_urlsafe(48)}\n"
            f"MASTER_ENCRYPTION_KEY={secrets.token_hex(32)}\n"
            f"DEMO_PASSWORD={secrets.token_urlsafe(12)}\n"
        )
    return True


def main() -> None:
    file = path()
    if file is not None and create(file):
        print(f"Wrote {file.name} with fresh secrets for development.")


if __name__ == "__main__":
    main()
