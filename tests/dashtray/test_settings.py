"""The settings in processes of their own: they are read from the environment once, at import."""

import subprocess
import sys

import pytest

from tests.dashtray.production import PRODUCTION, manage

DEPLOYED = {
    **PRODUCTION,
    "CACHE_URL": "redis://127.0.0.1:6379/5",
    "TRUST_X_FORWARDED_PROTO": "true",
    "NUM_PROXIES": "1",
}


def test_deployment_checks_are_clean() -> None:
    result = manage("check", "--deploy", "--fail-level", "DEBUG", **DEPLOYED)
    assert result.stderr == ""
    assert result.stdout == "System check identified no issues (0 silenced).\n"


@pytest.mark.parametrize(("variable", "number"), [("CACHE_URL", "W001"), ("NUM_PROXIES", "W002")])
def test_what_a_deployment_may_lack_is_told(variable: str, number: str) -> None:
    lacking = {name: value for name, value in DEPLOYED.items() if name != variable}
    result = manage("check", "--deploy", "--fail-level", "WARNING", **lacking)
    assert result.returncode == 1
    assert f"(dashtray.{number})" in result.stderr


def test_a_wrong_cache_is_not_echoed() -> None:
    result = manage("check", **{**PRODUCTION, "CACHE_URL": "memcached://user:the-password@host"})
    assert result.returncode != 0
    assert "CACHE_URL is a Redis address" in result.stderr
    assert "the-password" not in result.stdout + result.stderr


def test_a_missing_secret_key_names_the_way_out() -> None:
    result = manage("check", **{**PRODUCTION, "SECRET_KEY": ""})
    assert result.returncode != 0
    assert "python -m dashtray.environment" in result.stderr


def test_a_broken_database_url_is_not_echoed() -> None:
    url = "postgres://dashtray:half/other-half@db.example:port/dashtray"
    result = manage("check", **{**PRODUCTION, "DATABASE_URL": url})
    assert result.returncode != 0
    assert "percent-encoded" in result.stderr
    assert "half" not in result.stdout + result.stderr


def test_sqlite_waits_for_its_turn_to_write() -> None:
    code = (
        "from django.db import connection, transaction\n"
        "with connection.cursor() as cursor:\n"
        "    print(cursor.execute('PRAGMA busy_timeout').fetchone())\n"
        "with transaction.atomic():\n"
        "    print(connection.transaction_mode)\n"
    )
    result = manage("shell", "--no-imports", "--command", code, **PRODUCTION)
    assert result.stdout == "(20000,)\nIMMEDIATE\n", result.stderr


def test_a_web_process_sends_its_tasks_to_the_broker_of_the_settings() -> None:
    code = "from celery import current_app; print(current_app.conf.broker_url)"
    broker = "redis://127.0.0.1:6379/7"
    result = manage("shell", "--no-imports", "-c", code, CELERY_BROKER_URL=broker, **PRODUCTION)
    assert result.stdout == f"{broker}\n", result.stderr


def test_celery_is_not_loaded_without_a_broker() -> None:
    code = "import sys; print('celery' in sys.modules)"
    result = manage("shell", "--no-imports", "-c", code, **PRODUCTION)
    assert result.stdout == "False\n", result.stderr


@pytest.mark.parametrize(("interface", "seconds"), [("wsgi", "60"), ("asgi", "0")])
def test_under_asgi_no_connection_outlives_its_request(interface: str, seconds: str) -> None:
    code = (
        f"import dashtray.{interface}\n"
        "from django.conf import settings\n"
        "print(settings.DATABASES['default']['CONN_MAX_AGE'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=PRODUCTION | {"DATABASE_URL": "postgres://localhost/x"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.stdout.strip() == seconds, done.stderr
