"""The vectors and the master keys that the tests of the core share."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from encryption.core.derivation import MasterKey

PRIMARY = "92763834fe1288c9c1dcbdd3f8f9d1dbb949590adaffbad810d933422ed0e16b"
FALLBACK = "correct horse battery staple and then some more"
STRANGER = "e368354127cacdff2e675ca1b96ab0d5784483ba85d55ffa5c1d090d4ed82a99"


def master(secret: str = PRIMARY) -> MasterKey:
    """The master key of this secret; its slow root is derived once for all tests."""
    return _master(secret)


@cache
def _master(secret: str) -> MasterKey:
    return MasterKey(secret)


@dataclass(frozen=True)
class V1Vector:
    """One entry of v1.json; made with WebCrypto, as the original product does it."""

    master: str
    salt: str
    iv: str
    plaintext: str
    derived_key: str
    stored: str
    tampered: str
    truncated: str
    wrong_salt: str


@dataclass(frozen=True)
class V2Vector:
    """One entry of v2.json; made by another implementation of the format."""

    master: str
    salt: str
    context: str
    bound_to: list[str | None]
    iv: str
    plaintext: str
    key_id: str
    tenant_key: str
    commitment: str
    aad: str
    token: str


def _load(name: str) -> dict[str, Any]:
    path = Path(__file__).parents[2] / "data" / name
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


V1_VECTORS = [V1Vector(**entry) for entry in _load("v1.json")["vectors"]]
V2_VECTORS = [V2Vector(**entry) for entry in _load("v2.json")["vectors"]]
SHA256_VECTORS = [(entry["data"], entry["sha256"]) for entry in _load("v1.json")["hashes"]]
