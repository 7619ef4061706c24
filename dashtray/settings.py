"""Settings of the Dashtray site, all of them from environment variables.

During development `.env` stands in for the variables that are not set (see `dashtray.environment`).
`encryption` reads its master keys from the environment itself, so there is no `ENCRYPTION` here.
"""

from importlib.metadata import version
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured
from environs import Env, validate

from dashtray import environment

environment.load()
env = Env()

BASE_DIR = environment.CHECKOUT
DEBUG = env.bool("DEBUG", False)

SECRET_KEY = env.str("SECRET_KEY", "")
if not SECRET_KEY:
    raise ImproperlyConfigured(
        "SECRET_KEY is not set. `python -m dashtray.environment` writes a .env with fresh secrets "
        "for development; in production set the environment variable to at least 50 random "
        "characters."
    )
SECRET_KEY_FALLBACKS: list[str] = env.list("SECRET_KEY_FALLBACKS", [])

# Applications

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_filters",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "drf_standardized_errors",
    "encryption",
    "projects",
    "connections",
    "apikeys",
    "dashtray",
]

MIDDLEWARE = [
    "dashtray.headers.HeadersMiddleware",
    "dashtray.health.ProbeMiddleware",
    "dashtray.logs.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "projects.login.LockOutMiddleware",
    "projects.acting.ActorMiddleware",
]

ROOT_URLCONF = "dashtray.urls"
WSGI_APPLICATION = "dashtray.wsgi.application"
ASGI_APPLICATION = "dashtray.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# Database

try:
    DATABASES = {
        "default": dj_database_url.parse(
            env.str("DATABASE_URL", f"sqlite:///{BASE_DIR / 'db.sqlite3'}"),
            # The development server answers each request in a thread of its own, which would
            # keep its connection open after it ended.
            conn_max_age=env.int("DATABASE_CONN_MAX_AGE", 0 if DEBUG else 60),
            conn_health_checks=True,
        )
    }
except ValueError:
    # The message of the original error can hold a part of the password.
    raise ImproperlyConfigured(
        "DATABASE_URL is not a database URL such as postgres://USER:PASSWORD@HOST:5432/NAME. "
        "Characters like '@', ':', '/' and '%' in the password are written percent-encoded."
    ) from None

if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        # Readers go on while one process writes, and a second writer waits for its turn at BEGIN:
        # a transaction that takes the write lock later fails at once, whatever the timeout.
        "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;",
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        **DATABASES["default"].get("OPTIONS", {}),
    }

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Counts of requests and of attempts to log in. Without a server each process counts for itself.

CACHE_URL = env.str("CACHE_URL", "")
if CACHE_URL:
    if not CACHE_URL.startswith(("redis://", "rediss://", "unix://")):
        raise ImproperlyConfigured("CACHE_URL is a Redis address such as redis://HOST:6379/1.")
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": CACHE_URL,
            "KEY_PREFIX": "dashtray",
            "OPTIONS": {"socket_connect_timeout": 2, "socket_timeout": 2},
        }
    }

# Users

AUTHENTICATION_BACKENDS = [
    "projects.login.ThrottledBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    *(
        {"NAME": f"django.contrib.auth.password_validation.{name}"}
        for name in (
            "UserAttributeSimilarityValidator",
            "CommonPasswordValidator",
            "NumericPasswordValidator",
        )
    ),
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"

# A session ends this many seconds after the log-in, and with the browser.
SESSION_COOKIE_AGE = env.int("SESSION_COOKIE_AGE", 12 * 60 * 60)
SESSION_EXPIRE_AT_BROWSER_CLOSE = True

# The web

ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", [])
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", [])

SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", not DEBUG)
SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", 0 if DEBUG else 365 * 24 * 60 * 60)
SECURE_HSTS_INCLUDE_SUBDOMAINS = env.bool("SECURE_HSTS_INCLUDE_SUBDOMAINS", not DEBUG)
SECURE_HSTS_PRELOAD = env.bool("SECURE_HSTS_PRELOAD", not DEBUG)
if env.bool("TRUST_X_FORWARDED_PROTO", False):
    # Only behind a proxy that sets this header on every request: a client could send it too.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not DEBUG
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

# Nothing is uploaded: the largest request is a form or a document with a few secrets of 64 KiB.
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024
DATA_UPLOAD_MAX_NUMBER_FIELDS = 1_000
DATA_UPLOAD_MAX_NUMBER_FILES = 10

STATIC_URL = "static/"
STATIC_ROOT = env.str("STATIC_ROOT", str(BASE_DIR / "staticfiles"))
WHITENOISE_AUTOREFRESH = DEBUG
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}

# Language and time

LANGUAGE_CODE = "en"
USE_I18N = True
TIME_ZONE = "UTC"
USE_TZ = True

# REST

REST_FRAMEWORK = {
    # The first class decides that a request without credentials gets 401, not 403.
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "apikeys.authentication.ApiKeyAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["projects.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "projects.pagination.NewestFirstPagination",
    "DEFAULT_SCHEMA_CLASS": "drf_standardized_errors.openapi.AutoSchema",
    "DEFAULT_THROTTLE_CLASSES": [
        "rest_framework.throttling.AnonRateThrottle",
        "apikeys.throttling.PersonRateThrottle",
        "apikeys.throttling.ApiKeyRateThrottle",
    ],
    "DEFAULT_THROTTLE_RATES": {
        "anon": env.str("THROTTLE_ANONYMOUS", "60/min"),
        "user": env.str("THROTTLE_USER", "1200/min"),
    },
    "EXCEPTION_HANDLER": "drf_standardized_errors.handler.exception_handler",
    # Without a number, a client escapes the throttle with an X-Forwarded-For of its own.
    "NUM_PROXIES": env.int("NUM_PROXIES", 0),
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
DRF_STANDARDIZED_ERRORS = {
    "EXCEPTION_HANDLER_CLASS": "dashtray.errors.ApiExceptionHandler",
    "EXCEPTION_FORMATTER_CLASS": "dashtray.errors.QuietExceptionFormatter",
    "ERROR_SCHEMAS": dict.fromkeys(
        ("400", "401", "403", "404", "405", "406", "415", "429", "500"),
        "projects.errors.ErrorReplySerializer",
    ),
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Dashtray",
    "DESCRIPTION": "Projects, their connections to other services, and the keys to this API.",
    "VERSION": version("dashtray"),
    "OAS_VERSION": "3.1.0",
    "COMPONENT_SPLIT_REQUEST": True,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "POSTPROCESSING_HOOKS": ["drf_standardized_errors.openapi_hooks.postprocess_schema_enums"],
    "ENUM_NAME_OVERRIDES": {
        "ApiKeyStatusEnum": "apikeys.models.ApiKey.Status",
        "ConnectionStatusEnum": "connections.models.connection.Status.choices",
        **{
            name: f"drf_standardized_errors.openapi_serializers.{name}.choices"
            for name in (
                "ValidationErrorEnum",
                "ClientErrorEnum",
                "ServerErrorEnum",
                *(f"ErrorCode{status}Enum" for status in (401, 403, 404, 405, 406, 415, 429, 500)),
            )
        },
    },
}

# Connections and API keys

CONNECTIONS: dict[str, Any] = {
    # Hosts, or host:port, that connections may reach although they are not public.
    "ALLOWED_HOSTS": env.list("CONNECTIONS_ALLOWED_HOSTS", []),
}
API_KEYS_ACCEPT_IMPORTED = env.bool("API_KEYS_ACCEPT_IMPORTED", False)
API_KEYS_MAXIMUM_LIFETIME = env.timedelta("API_KEYS_MAXIMUM_LIFETIME", None)
API_KEYS_THROTTLE_RATE = env.str("API_KEYS_THROTTLE_RATE", "600/min")

# Background work

CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", "")
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TIMEZONE = TIME_ZONE
CELERY_BEAT_SCHEDULE = {
    # Seconds. Each connection says by itself how often it is due.
    "sync due connections": {"task": "connections.sync_due", "schedule": 60.0},
}

# Operation

# A readiness probe counts the rows of all encrypted columns this often; staff's look always does.
HEALTH_COUNT_SECONDS = env.float("HEALTH_COUNT_SECONDS", 300.0)
METRICS_TOKEN = env.str("METRICS_TOKEN", "")
if METRICS_TOKEN and len(METRICS_TOKEN) < 32:  # noqa: PLR2004
    raise ImproperlyConfigured("METRICS_TOKEN has at least 32 characters: `openssl rand -hex 32`.")

# What is told about a failure

DEFAULT_EXCEPTION_REPORTER = "encryption.reporting.SecretSafeExceptionReporter"
DEFAULT_EXCEPTION_REPORTER_FILTER = "encryption.reporting.SecretSafeExceptionReporterFilter"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {"()": "dashtray.logs.JsonFormatter"},
        "line": {
            "()": "dashtray.logs.LineFormatter",
            "format": "{asctime} {levelname} {name}: {message}",
            "style": "{",
        },
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": env.str(
                "LOG_FORMAT", "line" if DEBUG else "json", validate=validate.OneOf(["json", "line"])
            ),
        }
    },
    "root": {"handlers": ["stderr"], "level": env.str("LOG_LEVEL", "INFO")},
    # Django's own handlers print twice while DEBUG is on, and mail whole requests when it is off.
    "loggers": {
        "django": {"handlers": [], "level": "INFO"},
        "django.server": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        # They write the whole URL of each request to a service, and the headers of its reply.
        "httpx": {"level": "WARNING"},
        "httpcore": {"level": "WARNING"},
        # What it says of a retry, connections.integrations.http says with the host.
        "stamina": {"level": "ERROR"},
    },
}
