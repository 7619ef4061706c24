"""Blind indexes: a keyed digest of a value, equal for equal values, that tells nothing else.

::

    index  = "b2:" key_id[8 hex] ":" base64url( digest )      URL alphabet, without padding
    digest = HMAC-SHA256(key, message), the first ``bits`` of it; what fills the last byte is zero
    key    = HKDF-Expand-SHA256(root, "dashtray/v2/index" 0x00
                 part(scope) part(context) part(path) part(salt), 32 bytes)

    absent = "b2:" key_id[8 hex] ":." base64url( random[16] )

``root`` and ``key_id`` are those of ``derivation.py``, ``part`` is that of ``tokens.py``; a part
that there is not (the path of a whole value, the salt in the scope "global") is ``part(None)``.
So two fields, two paths and, in the scope "tenant", two tenants have different keys, and equal
values of theirs different digests. HMAC is RFC 2104, HKDF-Expand RFC 5869 section 2.3.

An *absent* index says that the row was looked at and holds no value to find (a path that its JSON
lacks). It is random, so that a unique constraint takes no two of them for equal, and "." is no
letter of base64url, so it equals no digest.
"""

import hmac
import re
from os import urandom
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from encryption.core import base64url
from encryption.core.derivation import MasterKey
from encryption.core.errors import MissingSaltError
from encryption.core.keycache import KeyCache
from encryption.core.tokens import part

#: The bits of a whole digest, and the fewest that are worth an index.
MOST_BITS: Final = 256
FEWEST_BITS: Final = 4

#: How long the longest index is: 12 characters before the digest, and 43 of it.
LENGTH: Final = 55

TENANT: Final = "tenant"
GLOBAL: Final = "global"

_INFO: Final = b"dashtray/v2/index\x00"
_SHA256: Final = SHA256()
_is_index = re.compile(r"b2:[0-9a-f]{8}:(?:\.[A-Za-z0-9_-]{22}|[A-Za-z0-9_-]{1,43})").fullmatch


def is_index(text: str) -> bool:
    """Say whether a text is an index, of a value or absent."""
    return _is_index(text) is not None


def is_absent(index: str) -> bool:
    """Say whether an index says that its row holds no value to find."""
    return index[12:13] == "."


def prefix(key_id: str) -> str:
    """What every index under this key begins with, 12 characters; SQL can compare it."""
    return f"b2:{key_id}:"


def derive_index_key(
    root: bytes, scope: str, context: str, path: str | None, salt: str | None
) -> bytes:
    """Return the 32-byte HMAC key of one field (and in the scope "tenant", of one tenant)."""
    info = _INFO + b"".join(map(part, (scope, context, path, salt)))
    return HKDFExpand(algorithm=_SHA256, length=32, info=info).derive(root)


def absent(key_id: str) -> str:
    """Return a new index that says that there is no value; no two are equal."""
    return f"{prefix(key_id)}.{base64url.encode(urandom(16))}"


def _truncated(digest: bytes, bits: int) -> bytes:
    whole, rest = divmod(bits, 8)
    if not rest:
        return digest[:whole]
    return digest[:whole] + bytes([digest[whole] & (0xFF << (8 - rest)) & 0xFF])


class _Key:
    """What makes the indexes of one field and tenant under one master key; made to be cached."""

    __slots__ = ("mac", "prefix")

    def __init__(self, key: bytes, key_id: str) -> None:
        self.mac = hmac.new(key, digestmod="sha256")
        self.prefix = prefix(key_id)


class Indexer:
    """Makes the indexes of all fields under the master keys of a keyring.

    Args:
        keys: the master keys, the primary first.
        cache_size: how many derived keys are kept.
    """

    def __init__(self, keys: tuple[MasterKey, ...], cache_size: int) -> None:
        self.keys = keys
        self._derived: KeyCache[_Key] = KeyCache(cache_size)

    def __repr__(self) -> str:
        return f"<Indexer of {len(self.keys)}>"

    def index(
        self,
        message: bytes,
        *,
        scope: str,
        context: str,
        path: str | None = None,
        salt: str | None = None,
        bits: int = MOST_BITS,
        master: MasterKey | None = None,
    ) -> str:
        """Return the index of a value.

        Args:
            message: what the value is after it was normalised.
            scope: "tenant" or "global".
            context: what the value is, as its ciphertext is bound to.
            path: of a part of a JSON value.
            salt: the tenant, in the scope "tenant" only.
            bits: how many of the digest to keep.
            master: under which key; the primary by default.

        Raises:
            MissingSaltError: the scope is "tenant" and there is no salt.
            ValueError: the scope is unknown, or "global" and there is a salt.
        """
        try:
            key = self._key(master or self.keys[0], scope, context, path, salt)
            mac = key.mac.copy()
            mac.update(message)
            digest = mac.digest()
            return key.prefix + base64url.encode(
                digest if bits == MOST_BITS else _truncated(digest, bits)
            )
        except BaseException:
            del message  # a traceback page shows the locals of this frame
            raise

    def _key(
        self, master: MasterKey, scope: str, context: str, path: str | None, salt: str | None
    ) -> _Key:
        name = (master, scope, context, path, salt)
        key = self._derived.get(name)
        if key is not None:
            return key
        if scope not in {TENANT, GLOBAL} or (scope == GLOBAL and salt is not None):
            raise ValueError("the scope is 'tenant', with a salt, or 'global', without one")
        if scope == TENANT and not salt:
            raise MissingSaltError("There is no salt, so there is no tenant to index for.")

        def derive(salt: str) -> _Key:
            derived = derive_index_key(master.root, scope, context, path, salt or None)
            return _Key(derived, master.key_id)

        return self._derived.derive(name, derive, salt or "")
