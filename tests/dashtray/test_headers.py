"""What every reply tells browsers."""

import json
from pathlib import Path

import pytest
from django.test import Client
from pytest_django import Settings

from dashtray.headers import HEADERS
from tests.dashtray.production import PRODUCTION, run


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/admin/login/",
        "/nowhere/",
        "/api/v1/projects/",
        "/health/live/",
        "/static/admin/css/base.css",
    ],
)
def test_every_reply_has_them(client: Client, db: None, path: str) -> None:
    answer = client.get(path)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "unsafe" not in answer.headers["Content-Security-Policy"]


def test_the_page_about_an_error_in_development_is_styled(
    client: Client, settings: Settings, db: None
) -> None:
    settings.DEBUG = True
    assert "Content-Security-Policy" not in client.get("/nowhere/").headers
    assert "Content-Security-Policy" in client.get("/admin/login/").headers


def test_in_production(tmp_path: Path) -> None:
    code = (
        "import json\n"
        "from django.test import Client\n"
        "client = Client(headers={'host': 'dashtray.example'})\n"
        "plain = client.get('/')\n"
        "page = client.get('/', secure=True)\n"
        "print(json.dumps([plain.status_code, dict(plain.headers), dict(page.headers)]))\n"
    )
    done = run(code, **PRODUCTION, STATIC_ROOT=str(tmp_path))
    status, plain, page = json.loads(done.stdout)
    assert status == 301
    assert plain["Location"] == "https://dashtray.example/"
    assert page["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains; preload"
    assert page["Referrer-Policy"] == "same-origin"
    assert page["X-Frame-Options"] == "DENY"
    assert page["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "Server" not in page
