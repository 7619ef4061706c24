"""The original product's scheme, as it does it: one PBKDF2 per operation, and by hand.

It was written for WebCrypto: `original.mjs` is that, for Node.
"""

import json
import shutil
import subprocess
from base64 import b64decode, b64encode
from functools import lru_cache
from os import urandom
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

_MASTER_KEY = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"


def cipher(salt: str) -> AESGCM:
    kdf = PBKDF2HMAC(algorithm=SHA256(), length=32, salt=salt.encode(), iterations=100_000)
    return AESGCM(kdf.derive((_MASTER_KEY + salt).encode()))


cached_cipher = lru_cache(maxsize=10_000)(cipher)


def encrypt(text: str, ready: AESGCM) -> str:
    iv = urandom(12)
    return b64encode(iv + ready.encrypt(iv, text.encode(), None)).decode()


def decrypt(token: str, ready: AESGCM) -> str:
    data = b64decode(token)
    return ready.decrypt(data[:12], data[12:], None).decode()


def in_node(characters: int, times: int = 10) -> dict[str, float] | None:
    """Time it in Node: microseconds by "encrypt" and "decrypt"; ``None`` where there is no Node."""
    node = shutil.which("node")
    if node is None:
        return None
    program = Path(__file__).with_suffix(".mjs")
    command = [node, str(program), str(characters), str(times)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found
