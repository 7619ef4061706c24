"""From a master key to the key of one tenant.

v2::

    root   = PBKDF2-HMAC-SHA256(utf8(MASTER_KEY), "dashtray/v2/root", 600,000, 32 bytes)
    key_id = hex( HKDF-Expand-SHA256(root, "dashtray/v2/key-id", 4 bytes) )
    tenant = HKDF-Expand-SHA256(root, "dashtray/v2/tenant" 0x00 utf8(salt), 48 bytes)
             tenant[0:32] the AES-256-GCM key, tenant[32:48] the commitment

v1, the format of the original product::

    key = PBKDF2-HMAC-SHA256(utf8(MASTER_KEY + salt), utf8(salt), 100,000, 32 bytes)

PBKDF2 is RFC 8018 section 5.2, HKDF-Expand RFC 5869 section 2.3. 600,000 is OWASP's figure for
PBKDF2-HMAC-SHA256 (Password Storage Cheat Sheet, 2023); v2 pays it once per process and master
key, some tenths of a second, and each tenant costs microseconds.

The commitment is what AES-GCM alone lacks: a token can be made to decrypt under two keys unless
it says which key it means (Albertini et al., "How to Abuse and Fix Authenticated Encryption
Without Key Commitment", USENIX Security 2022). Here it also tells a wrong key from changed data.
"""

import threading
from typing import Final, NoReturn

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from encryption.core.tokens import associated_data, v2_head, v2_prefix

KEY_BYTES: Final = 32
MINIMUM_KEY_LENGTH: Final = 32
ROOT_ITERATIONS: Final = 600_000
V1_ITERATIONS: Final = 100_000

_ROOT_SALT: Final = b"dashtray/v2/root"
_KEY_ID_INFO: Final = b"dashtray/v2/key-id"
_TENANT_INFO: Final = b"dashtray/v2/tenant\x00"
_SHA256: Final = SHA256()

#: Contexts are few (one per field); a caller that makes up new ones all the time only costs time.
_MOST_CONTEXTS: Final = 1_000


def _pbkdf2(password: bytes, salt: bytes, iterations: int) -> bytes:
    kdf = PBKDF2HMAC(algorithm=_SHA256, length=KEY_BYTES, salt=salt, iterations=iterations)
    return kdf.derive(password)


def keyed(root: bytes) -> HMAC:
    """Return HMAC-SHA256 with the root as its key, of which each derivation uses a copy."""
    return HMAC(root, _SHA256)


def _hkdf_expand(prf: HMAC, info: bytes, length: int) -> bytes:
    """HKDF-Expand as RFC 5869 section 2.3 has it; a library's would key the HMAC anew each time,
    and a cold cache derives a key for each row."""
    output = block = b""
    for counter in range(1, -(-length // 32) + 1):
        one = prf.copy()
        one.update(block + info + bytes((counter,)))
        block = one.finalize()
        output += block
    return output[:length]


def derive_root(master_key: bytes) -> bytes:
    """Return the 32-byte root of a master key (600,000 iterations: some tenths of a second)."""
    return _pbkdf2(master_key, _ROOT_SALT, ROOT_ITERATIONS)


def derive_key_id(root: bytes) -> str:
    """Return the 8 hex digits that name a master key without telling it."""
    return _hkdf_expand(keyed(root), _KEY_ID_INFO, 4).hex()


def derive_tenant(prf: HMAC, salt: bytes) -> tuple[bytes, bytes]:
    """Return a tenant's v2 AES-256 key (32 bytes) and its commitment (16 bytes).

    Args:
        prf: of the master key's root, see :func:`keyed`.
    """
    both = _hkdf_expand(prf, _TENANT_INFO + salt, KEY_BYTES + 16)
    return both[:KEY_BYTES], both[KEY_BYTES:]


def derive_v1(master_key: bytes, salt: bytes) -> bytes:
    """Return a tenant's v1 AES-256 key, 32 bytes (100,000 iterations: 15 to 30 ms)."""
    return _pbkdf2(master_key + salt, salt, V1_ITERATIONS)


class TenantKey:
    """What encrypts one tenant's v2 values under one master key; made to be cached.

    It carries all that a value of the tenant needs, since this is paid for each value: AES-GCM's
    two methods, and what it shares with its master key.
    """

    __slots__ = (
        "aad_heads",
        "commitment",
        "decrypt",
        "encrypt",
        "head",
        "last_byte",
        "master",
        "prefix",
    )

    def __init__(self, key: bytes, commitment: bytes, master: "MasterKey") -> None:
        cipher = AESGCM(key)
        self.encrypt = cipher.encrypt
        self.decrypt = cipher.decrypt
        self.commitment = commitment
        self.master = master
        #: How the tenant's tokens begin, and the byte of the commitment that it has not all of.
        self.head = v2_head(master.prefix, commitment)
        self.last_byte = commitment[-1]
        self.prefix = master.prefix
        self.aad_heads = master.aad_heads


class _AadHeads(dict[str, bytes]):
    """The part of the associated data that all values of one context share, by context."""

    def __init__(self, key: "MasterKey") -> None:
        super().__init__()
        self._key = key

    def __missing__(self, context: str) -> bytes:
        head = associated_data(self._key.key_id, context)
        if len(self) >= _MOST_CONTEXTS:
            self.clear()
        self[context] = head
        return head


class MasterKey:
    """One master key, its root derived when first needed and then kept.

    Neither its repr nor its pickle (which is refused) gives the key away.

    Raises:
        ValueError: shorter than 32 characters, or not encodable as UTF-8.
    """

    __slots__ = ("_key_id", "_lock", "_prf", "_root", "_secret", "aad_heads", "prefix")

    def __init__(self, secret: str) -> None:
        length = len(secret)
        try:
            encoded = secret.encode("utf-8")
        except UnicodeEncodeError:
            encoded = b""
        del secret  # a traceback page shows the locals of this frame
        if length < MINIMUM_KEY_LENGTH:
            encoded = b""
            raise ValueError(
                f"a master key has at least {MINIMUM_KEY_LENGTH} characters and this one has "
                f"{length}"
            )
        if not encoded:
            raise ValueError("a master key is UTF-8 text and this one is not")
        self._secret = encoded
        self._root: bytes | None = None
        self._prf: HMAC | None = None
        self._key_id = ""
        self._lock = threading.Lock()
        self.aad_heads = _AadHeads(self)
        #: "v2:<key id>:", once the root is derived; empty before.
        self.prefix = ""

    def __repr__(self) -> str:
        return f"<MasterKey {self._key_id or 'not derived yet'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a master key is never pickled")

    def same_as(self, other: "MasterKey") -> bool:
        """Say whether the two hold the same secret (no derivation needed)."""
        return self._secret == other._secret

    @property
    def root(self) -> bytes:
        """The 32-byte root; the first read derives it, and threads that ask together wait."""
        if self._root is None:
            with self._lock:
                if self._root is None:
                    root = derive_root(self._secret)
                    self._key_id = derive_key_id(root)
                    self.prefix = v2_prefix(self._key_id)
                    self._root = root
        return self._root

    @property
    def key_id(self) -> str:
        """The 8 hex digits that v2 tokens name this key by."""
        if not self._key_id or self._root is None:
            self.root  # noqa: B018  # derives, once
        return self._key_id

    def tenant_key(self, salt: str) -> TenantKey:
        """Derive (not cached) what encrypts this tenant's v2 values."""
        prf = self._prf
        if prf is None:
            prf = self._prf = keyed(self.root)
        return TenantKey(*derive_tenant(prf, salt.encode("utf-8")), self)

    def v1_cipher(self, salt: str) -> AESGCM:
        """Derive (not cached) the cipher of this tenant's v1 values."""
        return AESGCM(derive_v1(self._secret, salt.encode("utf-8")))

    def renew_lock(self) -> None:
        """After a fork: the lock may have been held by a thread that the child does not have."""
        self._lock = threading.Lock()
