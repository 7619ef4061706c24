"""Tokens taken apart a second time, by the text of docs/token-formats.md.

Slow and plain on purpose, and none of it shared with ``encryption.core``.
"""

import base64
import binascii
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Parsed:
    """A token's version, the key id it names (v1: none) and its bytes."""

    version: str
    key_id: str
    payload: bytes


def parse(text: str) -> Parsed | None:
    """Return the parts of a token, or ``None`` if the text is none of a version known here."""
    if match := re.match(r"v2:([0-9a-f]{8}):", text):
        payload = _decoded(text[12:], b"-_", padded=False)
        return Parsed("v2", match[1], payload) if payload and len(payload) >= 44 else None
    payload = _decoded(text, b"+/", padded=True)
    return Parsed("v1", "", payload) if payload and len(payload) >= 28 else None


def _decoded(text: str, last_letters: bytes, *, padded: bool) -> bytes | None:
    padding = "" if padded else "=" * (-len(text) % 4)
    try:
        data = base64.b64decode(text + padding, altchars=last_letters)
    except (binascii.Error, ValueError):  # the latter: not ASCII
        return None
    again = base64.b64encode(data, last_letters).decode()
    return data if text == (again if padded else again.rstrip("=")) else None


def written(parsed: Parsed) -> str:
    """The text of a token: the inverse of :func:`parse`."""
    if parsed.version == "v1":
        return base64.b64encode(parsed.payload).decode()
    return f"v2:{parsed.key_id}:{base64.urlsafe_b64encode(parsed.payload).decode().rstrip('=')}"
