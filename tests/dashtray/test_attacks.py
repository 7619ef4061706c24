"""What a stranger sends to a deployed site."""

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from django.contrib.auth.models import User
from django.core.exceptions import RequestDataTooBig
from django.test import Client
from pytest_django import Settings

from projects.parsers import StrictJSONParser
from tests.dashtray.server import Server, end_workers, gunicorn


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with gunicorn(tmp_path_factory.mktemp("site")) as site:
        yield site


def send(site: Server, request: bytes) -> str:
    """Send bytes as they are; the reply's first 4 KB."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as wire:
        wire.sendall(request)
        return wire.recv(4096).decode("latin-1")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "dashtray.example.evil",
        "dashtray.example@evil",
        "",
        "dashtray.example, evil",
    ],
)
def test_a_foreign_host_is_refused_and_not_repeated(site: Server, host: str) -> None:
    answer = site.get("/admin/login/", host=host)
    assert answer.status_code == 400
    assert "evil" not in answer.text
    assert "evil" not in str(answer.headers)


def test_a_forwarded_host_is_not_believed(site: Server) -> None:
    answer = site.get("/admin/", **{"x-forwarded-host": "evil.example"})
    assert answer.headers["location"] == "/admin/login/?next=/admin/"
    plain = httpx.get(f"http://127.0.0.1:{site.port}/", headers={"host": "dashtray.example"})
    assert plain.headers["location"] == "https://dashtray.example/"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../dashtray/settings.py",
        "/static/..%2f..%2fetc/passwd",
        "/static/%2e%2e/%2e%2e/etc/passwd",
        "//evil.example/%2f..",
        "/admin/login//evil.example",
        "/.env",
        "/.git/config",
        "/db.sqlite3",
        "/%00",
        "/health/live/%2e%2e/%2e%2e/metrics",
    ],
)
def test_tricks_with_paths_lead_nowhere(site: Server, path: str) -> None:
    request = (
        f"GET {path} HTTP/1.1\r\nHost: dashtray.example\r\nX-Forwarded-Proto: https\r\n"
        "Connection: close\r\n\r\n"
    )
    answer = send(site, request.encode())
    status, _, rest = answer.partition("\r\n")
    assert status.split()[1] in {"302", "400", "404"}
    assert "location: //" not in rest.lower()
    assert "location: https://evil" not in rest.lower()
    assert "root:" not in rest


def test_the_way_back_after_a_log_in_stays_on_the_site(client: Client, db: None) -> None:
    User.objects.create_superuser("ada", password="correct horse battery")
    body = {"username": "ada", "password": "correct horse battery", "next": "//evil.example/"}
    assert client.post("/admin/login/", body).headers["Location"] == "/admin/"


def test_an_error_page_tells_nothing(site: Server) -> None:
    answer = site.get("/fail/")
    assert answer.status_code == 500
    assert len(answer.content) < 500
    for told in ("RuntimeError", "Traceback", "canary", "site_urls", "v2:", "django"):
        assert told.lower() not in answer.text.lower()
    missing = site.get("/nowhere/<script>/")
    assert missing.status_code == 404
    assert "nowhere" not in missing.text


def test_too_large_a_body_is_refused_with_an_api_key_too(settings: Settings, db: None) -> None:
    """Nothing reads the body before the parser then."""
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    stream = io.BytesIO(b'{"name": "x"}'.ljust(1001))
    with pytest.raises(RequestDataTooBig):
        StrictJSONParser().parse(stream)
    assert stream.tell() == 1001
    assert StrictJSONParser().parse(io.BytesIO(b'{"name": "x"}'.ljust(1000))) == {"name": "x"}


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: -1",
        "Transfer-Encoding: chunked, identity",
        "X-Forwarded_Proto: https\r\nContent-Length: 5",
        " Host: evil.example",
    ],
)
def test_requests_with_two_readings_are_not_passed_on(site: Server, head: str) -> None:
    request = f"POST /effort/ HTTP/1.1\r\nHost: dashtray.example\r\n{head}\r\n\r\nab\r\nc"
    status = send(site, request.encode()).split(" ")[1]
    assert status in {"301", "400", "501"}


def test_too_large_a_head_is_refused(site: Server) -> None:
    line = f"GET /{'a' * 5000} HTTP/1.1\r\nHost: dashtray.example\r\n\r\n"
    assert send(site, line.encode()).split(" ")[1] in {"400", "414"}
    many = "".join(f"X-{number}: a\r\n" for number in range(100))
    request = f"GET / HTTP/1.1\r\nHost: dashtray.example\r\n{many}\r\n"
    assert send(site, request.encode()).split(" ")[1] in {"400", "431"}


def test_too_large_a_body_is_refused(client: Client, settings: Settings, db: None) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    client.force_login(User.objects.create_user("ada"))
    for size, status in ((900, 201), (1001, 400)):
        body = '{"name": "x"}'.ljust(size)
        answer = client.post("/api/v1/projects/", body, content_type="application/json")
        assert answer.status_code == status
    assert answer.json()["errors"][0]["code"] == "request_too_large"
    form = {"username": "x" * 1001, "password": "x"}
    assert client.post("/admin/login/", form).status_code in {400, 413}


def test_the_keyring_works_in_a_worker_that_was_forked_after_its_use(tmp_path: Path) -> None:
    """The master derives keys while it loads the site, and its children encrypt."""
    (tmp_path / "wsgi_used.py").write_text(
        "from dashtray.wsgi import application\n"
        "from encryption import decrypt, encrypt\n"
        "assert decrypt(encrypt('text', 'tenant'), 'tenant') == 'text'\n"
    )
    options = ("--preload", "--pythonpath", str(tmp_path), "--workers", "2")
    with gunicorn(tmp_path, *options, module="wsgi_used") as site:
        pids = {int(site.get("/effort/").text) for _ in range(30)}
        assert site.pid not in pids
        end_workers(pids)
        later = {int(site.get("/effort/").text) for _ in range(30)}
        assert not later & pids
