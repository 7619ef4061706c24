"""What is taken out of texts, and what stays."""

import logging
import os
import subprocess
import sys
from typing import Any

import pytest

from encryption import encrypt
from encryption.core.keyring import Keyring
from encryption.redaction import REDACTED, RedactingFormatter, Redactor
from tests.encryption.core.samples import master

KEY = "pp_live_abcDEF123456_" + "Zz9" * 14 + "a123456"
SECRETS = {
    "v1": "q8Xw1nE5ZzQp+3v/7bTfYkLmNoPqRsTuVwXyZ0123456789A==",
    "hex": "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
    "master": "9a" * 32,
    "api": KEY,
    "test api": KEY.replace("live", "test"),
    "openai": "sk-proj-abc123DEF456ghi789",
    "anthropic": "sk-ant-api03-abcdefghij",
    "stripe": "sk_live_51AbcdefGhijk",
    "stripe webhook": "whsec_abcdefgh12345678",
    "github": "ghp_abcdefghijklmnop",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
}
FRAMES = [
    "{}",
    "a value {} and more",
    "('{}',)",
    '{{"x": "{}"}}',
    "x={}",
    "/path/{}/",
    "?q={}&r=1",
    "line\n{}\nline",
    r"escaped\n{}\n",
    "b'{}'",
    "<{}>",
]


@pytest.mark.parametrize("frame", range(len(FRAMES)))
@pytest.mark.parametrize("kind", SECRETS)
def test_what_looks_like_a_secret_goes(kind: str, frame: int) -> None:
    secret = SECRETS[kind]
    found = Redactor().text(FRAMES[frame].format(secret))
    assert REDACTED in found
    parts = [secret[place : place + 12] for place in range(8, len(secret) - 12)]
    assert not [part for part in parts if part in found]


def test_tokens_go_and_their_key_id_stays() -> None:
    token = encrypt("the text", 1)
    found = Redactor().text(f"row 1: {token!r} cannot be read")
    assert found == f"row 1: '{token[:12]}{REDACTED}' cannot be read"
    assert token[12:] not in Redactor().text(token.replace(":", "%3A"))


def test_the_shortest_token_of_the_original_goes() -> None:
    keyring = Keyring(master(), write_format="v1")
    for _ in range(200):
        token = keyring.encrypt("", "tenant")
        assert len(token) == 40
        assert Redactor().text(f"<{token}>") == f"<{REDACTED}>"


@pytest.mark.parametrize("place", range(0, 37, 4))
@pytest.mark.parametrize(
    "prefix", ["eyJ", "AKIA", "/eyJ", "/ghp", "token", "Secret", "cookie", "APIKEY"]
)
def test_a_token_of_the_original_goes_whole_that_looks_like_another_key(
    prefix: str, place: int
) -> None:
    text = "Zq39bTfYk7LmN0QwZq39bTfYk7LmN0QwZq39bQ=="
    token = (text[:place] + prefix + text[place + len(prefix) :])[:40]
    for frame in ("<{}>", "one {}. Next", "password={}&x=1", "Authorization: Basic {}"):
        left = frame.replace("Basic ", "").format(REDACTED)
        assert Redactor().text(frame.format(token)) == left


@pytest.mark.parametrize("before", ["", "/some/path/to/", "x="])
@pytest.mark.parametrize("length", [8, 40, 43, 200])
def test_every_part_of_a_web_token_goes(length: int, before: str) -> None:
    signature = ("aB3-_" * 40)[:length]
    token = f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0{signature}.{signature}"
    assert Redactor().text(f"{before}{token} x") == f"{before}eyJ{REDACTED} x"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer hunter2 x", f"Authorization: {REDACTED} x"),
        ("Authorization: Basic dTpw", f"Authorization: {REDACTED}"),
        ("{'Authorization': 'Bearer hunter2'}", f"{{'Authorization': '{REDACTED}'}}"),
        ("HTTP_AUTHORIZATION=hunter2", f"HTTP_AUTHORIZATION={REDACTED}"),
        ("authorization: b'Bearer hunter2'", f"authorization: b'{REDACTED}'"),
        ("sent Bearer hunter2hunter2!", f"sent Bearer {REDACTED}!"),
        ("Cookie: sessionid=hunter2", f"Cookie: {REDACTED}"),
        ("'HTTP_COOKIE': 'a=b; sessionid=hunter2'", f"'HTTP_COOKIE': '{REDACTED}'"),
        ('{"password": "hunter2 with spaces"}', f'{{"password": "{REDACTED}"}}'),
        (r"{\"api_key\": \"hunter2\"}", rf"{{\"api_key\": \"{REDACTED}\"}}"),
        ("password=hunter2&x=1", f"password={REDACTED}&x=1"),
        ("MASTER_ENCRYPTION_KEY=hunter2", f"MASTER_ENCRYPTION_KEY={REDACTED}"),
        ("postgres://user:hunter2@db/x", f"postgres://{REDACTED}@db/x"),
        ("postgres://user:hun/ter2@db/x", f"postgres://{REDACTED}@db/x"),
        ("redis://:hunter2@cache:6379/0", f"redis://{REDACTED}@cache:6379/0"),
        ("GET /?key=hunter2 HTTP", f"GET /?key={REDACTED} HTTP"),
    ],
    ids=lambda text: text.replace("/", "_")[:30],
)
def test_what_is_named_as_a_secret_goes(text: str, left: str) -> None:
    assert Redactor().text(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "GET /api/v1/projects/3f0c8a52-6f3c-4f43-9f7b-1d2f0c1b2a3d/connections/?page_size=50",
        'File "/opt/dashtray/.venv/lib/python3.11/site-packages/django/core/handlers/base.py", '
        "line 197, in _get_response",
        "The token is under key 046d8de5, which is not in the keyring (12345678)",
        "encryption.redaction.RedactingFormatter",
        "Task connections.sync_one[3f0c8a52-6f3c-4f43-9f7b-1d2f0c1b2a3d] succeeded in 0.1s",
        "https://example.org/a?b=c",
    ],
    ids=range(6),
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor().text(text) == text


def test_known_secrets_go_whatever_they_look_like() -> None:
    known = Redactor(["a pass phrase", "a pass phrase and more", "short"])
    assert known.text("a pass phrase and more, a pass phrase, short") == (
        f"{REDACTED}, {REDACTED}, short"
    )
    assert "phrase" not in repr(known)


def test_values_of_extra_fields() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise AssertionError("asked")

    given: dict[str, Any] = {
        "count": 3,
        "ratio": float("nan"),
        "none": None,
        "api_key": "x",
        "token": Odd(),
        "nested": {"password": "x", "list": [SECRETS["openai"], Odd()]},
        "odd": Odd(),
    }
    found = Redactor().value(given)
    assert found == {
        "count": 3,
        "ratio": "<float>",
        "none": None,
        "api_key": REDACTED,
        "token": REDACTED,
        "nested": {
            "password": REDACTED,
            "list": [REDACTED.join(["sk-", ""]), "<" + Odd.__qualname__ + ">"],
        },
        "odd": f"<{Odd.__qualname__}>",
    }
    deep: dict[str, Any] = {}
    deep["self"] = deep
    assert "<dict>" in repr(Redactor().value(deep))


@pytest.mark.parametrize(
    "text", ["://", "token=", "a", "aA", "Bearer ", '"token": "', "v2:", "eyJ"]
)
def test_a_long_line_does_not_hang(text: str) -> None:
    """In a process of its own, for a search that goes back and forth holds the interpreter."""
    code = (
        "import sys; from encryption.redaction import Redactor; "
        "text = sys.argv[1]; Redactor().text(text * (200_000 // len(text)))"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    subprocess.run([sys.executable, "-c", code, text], check=True, timeout=60, env=environment)


def test_the_formatter_takes_them_out_of_the_traceback_too() -> None:
    formatter = RedactingFormatter("{levelname} {message}", style="{", known=["a pass phrase"])
    try:
        try:
            raise ValueError(f"inner {KEY}")
        except ValueError as error:
            raise TypeError("outer a pass phrase") from error
    except TypeError as error:
        record = logging.LogRecord(
            "x",
            logging.ERROR,
            "f",
            1,
            "%s and %s",
            (KEY, 1),
            (TypeError, error, error.__traceback__),
        )
    text = formatter.format(record)
    assert text.startswith(f"ERROR pp_live_{REDACTED} and 1\n")
    assert "TypeError: outer" in text
    assert KEY[10:] not in text
    assert "phrase" not in text.replace('"outer a pass phrase"', "")
