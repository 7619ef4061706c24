"""The rows that are probed: one process, one package, one SQLite database."""

import base64
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connection, models

from benchmarks.comparison.packages import OURS, PEERS, Package

APP = "benchmarks.comparison"
PACKAGES = {package.name: package for package in [OURS, *PEERS]}
#: Django's key; a package that asks for none of its own uses it.
SECRET_KEY = "a key for comparisons, which protects nothing and is known to all"
UNREADABLE = "unreadable"


def database_of(package: Package, name: str) -> dict[str, str]:
    """The settings of a database: a file, none, or one of the server that the environment names."""
    if package.vendor == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": name}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": f"compare_{Path(name).name.strip(':')}",
        "HOST": os.environ.get("PGHOST", "127.0.0.1"),
        "PORT": os.environ.get("PGPORT", "5432"),
        "USER": os.environ.get("PGUSER", "postgres"),
        "PASSWORD": os.environ.get("PGPASSWORD", ""),
    }


def configure(name: str, keys: list[str], folder: Path, database: str, secret_key: str) -> Package:
    """Start Django with the package's settings for these keys, of which the first writes."""
    package = PACKAGES[name]
    settings.configure(
        SECRET_KEY=secret_key,
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            *([package.app] if package.app else []),
            APP,
        ],
        DATABASES={"default": database_of(package, database)},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
        **package.settings(keys, folder),
    )
    django.setup()
    return package


class Subject:
    """The models with the fields of one package, and raw access to their columns."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self.fields = package.fields()
        self.tenant = self.model("Tenant", name=models.TextField())
        columns: dict[str, Any] = {
            "tenant": models.ForeignKey(self.tenant, models.CASCADE),
            "plain": models.TextField(default=""),
            "secret": self.fields["text"](null=True, blank=True),
            "other": self.fields["text"](null=True, blank=True),
        }
        if "json" in self.fields:
            columns["document"] = self.fields["json"](null=True, blank=True)
        self.row = self.model("Row", **columns)

    def model(self, title: str, **columns: Any) -> Any:
        key = models.UUIDField(primary_key=True, default=uuid4, editable=False)
        meta = type("Meta", (), {"app_label": "comparison"})
        columns = {"id": key, **columns, **self.package.columns(title)}
        return type(title, (models.Model,), {**columns, "Meta": meta, "__module__": APP})

    def make_tables(self) -> None:
        if connection.vendor == "postgresql":
            call_command("migrate", self.package.app, verbosity=0)
        with connection.schema_editor() as editor:
            editor.create_model(self.tenant)
            editor.create_model(self.row)

    def new(self, **values: Any) -> Any:
        """A stored row with a tenant of its own, if none is given."""
        tenant = values.pop("tenant", None) or self.tenant.objects.create(name="one")
        return self.row.objects.create(tenant=tenant, **values)

    def again(self, row: Any) -> Any:
        return self.row.objects.get(pk=row.pk)

    def read(self, row: Any, name: str = "secret") -> Any:
        """The value as a fresh read gives it; ``UNREADABLE`` if that raises."""
        with suppress(Exception):
            return getattr(self.again(row), name)
        return UNREADABLE

    def raw(self, row: Any, name: str = "secret") -> Any:
        """What stands in the column; text or bytes."""
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {name} FROM comparison_row WHERE id = %s", [row.pk.hex])
            found = cursor.fetchone()[0]
        return bytes(found) if isinstance(found, memoryview) else found

    def put(self, row: Any, token: Any, name: str = "secret") -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE comparison_row SET {name} = %s WHERE id = %s", [token, row.pk.hex]
            )

    def shows(self, text: str, stored: Any) -> bool:
        """Whether a text stands in what is stored: as it is, as bytes, or in base64."""
        held = stored if isinstance(stored, bytes) else str(stored).encode()
        return text.encode() in held or base64.b64encode(text.encode()).rstrip(b"=") in held


def damaged(token: Any) -> Any:
    """A token with one character (or byte) of its second half changed."""
    at = len(token) * 3 // 4
    if isinstance(token, bytes):
        return token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]
    return token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
