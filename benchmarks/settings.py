"""Dashtray's settings with two databases: SQLite in memory, and PostgreSQL over loopback."""

import os

#: As a URL of libpq has them; PGPASSWORD and the rest of libpq's environment hold too.
POSTGRESQL = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": "bench_dashtray",
    "USER": os.environ.get("PGUSER", "postgres"),
    "HOST": os.environ.get("PGHOST", "127.0.0.1"),
    "PORT": os.environ.get("PGPORT", "5432"),
}

for _variable in (
    "MASTER_ENCRYPTION_KEY_FILE",
    "MASTER_ENCRYPTION_KEY_FALLBACKS",
    "OLD_MASTER_KEY",
):
    os.environ.pop(_variable, None)
os.environ |= {
    "ENV_FILE": "",
    "DEBUG": "false",
    "ALLOWED_HOSTS": "testserver",
    "DATABASE_URL": "sqlite://:memory:",
    "SECRET_KEY": "a key for measurements, which protects nothing and is known to all",
    "MASTER_ENCRYPTION_KEY": "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0",
}

from benchmarks import peers  # noqa: E402
from dashtray.settings import *  # noqa: E402, F403
from dashtray.settings import INSTALLED_APPS, REST_FRAMEWORK  # noqa: E402

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
    "postgresql": POSTGRESQL,
}
if not peers.install():
    INSTALLED_APPS = [*INSTALLED_APPS, "rest_framework_api_key"]
INSTALLED_APPS = [*INSTALLED_APPS, "benchmarks"]
REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"] = {"anon": None, "user": None}
globals().update(peers.settings())
