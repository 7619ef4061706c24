"""The settings in processes of their own: they are read from the environment once, at import."""

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
    return subprocess.run(
        [sys.executable, "-W", "error", str(CHECKOUT / "manage.py"), *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        check=False,
        text=True,
    )


def test_deployment_checks_are_clean() -> None:
    result = manage("check", "--deploy", "--fail-level", "DEBUG", **PRODUCTION)
    assert result.stderr == ""
    assert result.stdout == "System check identified no issues (0 silenced).\n"


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
