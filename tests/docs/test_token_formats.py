"""docs/token-formats.md, computed again from its text with the standard library alone."""

import base64
import hashlib
import hmac
import json
import re
from typing import Any

from tests.docs.pages import ROOT, section

PAGE = "token-formats.md"
FIGURES = {
    "v2": re.compile(r'"(\S+)", ([\d,]+) iterations, (\d+) bytes'),
    "v1": re.compile(r"utf8\(salt\), ([\d,]+) iterations, (\d+) bytes"),
}


def expand(root: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand with SHA-256, RFC 5869, section 2.3."""
    made, block, count = b"", b"", 1
    while len(made) < length:
        block = hmac.digest(root, block + info + bytes([count]), "sha256")
        made, count = made + block, count + 1
    return made[:length]


def vectors() -> list[dict[str, Any]]:
    text = (ROOT / "tests" / "data" / "v2.json").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(text)["vectors"]
    return found


def test_the_text_gives_the_vectors() -> None:
    example, derivation = (block.text for block in section(PAGE, "v2, the default"))
    (original,) = (block.text for block in section(PAGE, "v1, the format of the original product"))
    label, iterations, length = FIGURES["v2"].findall(derivation)[0]
    for case in {case["master"]: case for case in vectors()}.values():
        root = hashlib.pbkdf2_hmac(
            "sha256",
            case["master"].encode(),
            label.encode(),
            int(iterations.replace(",", "")),
            int(length),
        )
        assert expand(root, b"dashtray/v2/key-id", 4).hex() == case["token"][3:11]
        tenant = expand(root, b"dashtray/v2/tenant\0" + case["salt"].encode(), 48)
        body = case["token"][12:]
        raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        assert raw[:16] == tenant[32:]
    for info in ('"dashtray/v2/key-id", 4 bytes', '"dashtray/v2/tenant" 0x00 utf8(salt), 48 bytes'):
        assert info in derivation
    assert FIGURES["v1"].findall(original) == [("100,000", "32")]
    assert example.split()[0] in {case["token"] for case in vectors()}
