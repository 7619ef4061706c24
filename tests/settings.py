"""Dashtray's settings for tests: nothing of a developer's `.env`, and no setting of production that
a test would have to work around. `DATABASE_URL` alone chooses the database server."""

import os
from pathlib import Path

for variable in (
    "MASTER_ENCRYPTION_KEY_FILE",
    "MASTER_ENCRYPTION_KEY_FALLBACKS",
    "OLD_MASTER_KEY",
    "CELERY_BROKER_URL",
):
    os.environ.pop(variable, None)
os.environ.setdefault("DATABASE_URL", "sqlite://:memory:")
os.environ |= {
    "ENV_FILE": "",
    "DEBUG": "false",
    "SECRET_KEY": "a key for tests, which protects nothing and is known to all",
    "MASTER_ENCRYPTION_KEY": "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0",
}

from dashtray.settings import *  # noqa: E402, F403
from dashtray.settings import DATABASES, INSTALLED_APPS, REST_FRAMEWORK, STORAGES  # noqa: E402

INSTALLED_APPS = [*INSTALLED_APPS, "tests.fieldapp"]

if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    file = Path(DATABASES["default"]["NAME"])
    if file.name != ":memory:":
        # Django's tests run in memory, whatever the name, unless they are told otherwise.
        DATABASES["default"]["TEST"] = {"NAME": str(file.with_name(f"test_{file.name}"))}
elif DATABASES["default"]["ENGINE"] == "django.db.backends.mysql":
    # The collation of a plain installation, which takes "a" and "A" for equal.
    DATABASES["default"]["TEST"] = {
        "CHARSET": "utf8mb4",
        "COLLATION": "utf8mb4_general_ci",
    }

# The test client speaks plain HTTP.
SECURE_SSL_REDIRECT = False
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = False

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
WHITENOISE_AUTOREFRESH = True
REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"] = {"anon": None, "user": None}
