"""Many values from any key of a keyring to its primary key, as a rotation needs it.

What a keyring does with one value, for a page of them: what the values of one tenant have in
common is looked up once, and random bytes are asked for once. Whatever is not as it should be is
left to the keyring, which says what is wrong.
"""

from collections.abc import Sequence
from os import urandom
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from encryption.core import tokens
from encryption.core.base64url import decode, encode
from encryption.core.counts import COUNTS
from encryption.core.derivation import TenantKey
from encryption.core.errors import EncryptionError
from encryption.core.keyring import Keyring
from encryption.core.tokens import IV_BYTES, TAG_BYTES, V2_HEAD_LENGTH

#: Of so many tenants the keys are kept.
_MOST_TENANTS: Final = 10_000
#: So many values are resealed at once; what they take stays in the processor's cache.
_BLOCK: Final = 100

#: Bytes behind the head of a token at least: the commitment's last, the iv, and the tag.
_SHORTEST: Final = 1 + IV_BYTES + TAG_BYTES

#: A text, and its token under the primary key.
Resealed = tuple[str, str]


class UnverifiedError(EncryptionError):
    """What was encrypted decrypts to something else: this process or machine cannot be trusted."""


class _LeftError(Exception):
    """This value is not for the resealer but for the keyring."""


class Resealer:
    """Decrypts tokens of one context under any key, and encrypts under the primary key.

    Args:
        keyring: one that writes v2.
        context: as for :meth:`Keyring.encrypt`.
    """

    def __init__(self, keyring: Keyring, context: str) -> None:
        self._keyring = keyring
        self._context = context
        #: By how a tenant's v2 tokens begin (the key id and all but a byte of the commitment) and
        #: the salt: their key, and the new one.
        self._pairs: dict[tuple[str, str], tuple[TenantKey, TenantKey]] = {}
        #: By the salt: what opened a v1 token of the tenant last, and the new key.
        self._v1_pairs: dict[str, tuple[AESGCM, TenantKey]] = {}
        # Each key that a v1 token is tried with costs a PBKDF2 for each tenant. What waits for a
        # rotation is under a fallback, so the primary key is the last one to try.
        self._v1_keys = (*keyring.keys[1:], keyring.primary)

    def reseal(
        self, values: Sequence[str], salts: Sequence[str], bound: Sequence[bytes]
    ) -> list[Resealed | None]:
        """Return for each token its text, and the token of the same text under the primary key.

        The new token was taken apart and decrypted with the primary key alone. ``None`` stands
        for whatever is under the primary key already, is no token, or cannot be decrypted; the
        keyring says what is wrong.

        Args:
            values: the tokens; one may be empty.
            salts: the salt of each; one may be empty.
            bound: what each is bound to, as it is authenticated.

        Raises:
            UnverifiedError: a new token does not decrypt to the same bytes.
        """
        found: list[Resealed | None] = []
        for start in range(0, len(values), _BLOCK):
            block = slice(start, start + _BLOCK)
            found += self._block(values[block], salts[block], bound[block])
        return found

    def _block(
        self, values: Sequence[str], salts: Sequence[str], bound: Sequence[bytes]
    ) -> Sequence[Resealed | None]:
        """Reseal all at once; or one by one, if one is not as it should be."""
        try:
            return self._all(values, salts, bound)
        except UnverifiedError:
            raise
        except (EncryptionError, InvalidTag, UnicodeDecodeError, _LeftError):
            if len(values) == 1:
                return (None,)
        rows = zip(values, salts, bound, strict=True)
        return [self._block([value], [salt], [part])[0] for value, salt, part in rows]

    def _all(
        self, values: Sequence[str], salts: Sequence[str], bound: Sequence[bytes]
    ) -> list[Resealed]:
        # Here and below each step is taken for all values before the next step. All steps for one
        # value after the other take a tenth longer: the processor has no room for all their code.
        if values[0].startswith("v2:"):
            pairs = self._pairs
            keys = [
                pairs.get((token[:V2_HEAD_LENGTH], salt)) or self._pair(token, salt)
                for token, salt in zip(values, salts, strict=True)
            ]
            old, new = [pair[0] for pair in keys], [pair[1] for pair in keys]
            data = _open(values, old, self._aads(old, bound))
        else:
            opened = list(map(self._open_v1, values, salts))
            data, new = [pair[0] for pair in opened], [pair[1] for pair in opened]
        texts = [one.decode() for one in data]
        aads = self._aads(new, bound)
        resealed = [
            key.prefix + encode(key.commitment + iv + key.encrypt(iv, one, aad))
            for key, iv, one, aad in zip(new, _ivs(len(data)), data, aads, strict=True)
        ]
        try:
            verified = _open(resealed, new, aads) == data
        except (EncryptionError, InvalidTag, _LeftError):
            verified = False
        if not verified:
            del data, texts  # a traceback page shows the locals of this frame
            raise UnverifiedError("What was encrypted reads back as another value.")
        COUNTS.decryptions += 2 * len(data)
        COUNTS.encryptions += len(data)
        return list(zip(texts, resealed, strict=True))

    def _aads(self, keys: Sequence[TenantKey], bound: Sequence[bytes]) -> list[bytes]:
        context = self._context
        return [key.aad_heads[context] + part for key, part in zip(keys, bound, strict=True)]

    def _pair(self, token: str, salt: str) -> tuple[TenantKey, TenantKey]:
        """The tenant's keys: the one that a v2 token names, and the one under the primary key."""
        _, *others = self._keyring.keys
        prefix = token[: tokens.V2_PREFIX_LENGTH]
        named = [key for key in others if tokens.v2_prefix(key.key_id) == prefix]
        if not named or not salt:
            raise _LeftError
        pair = (
            self._keyring._tenant_key(named[0], salt),
            self._keyring._tenant_key(self._keyring.primary, salt),
        )
        if len(self._pairs) >= _MOST_TENANTS:
            self._pairs.clear()
        if token.startswith(pair[0].head):
            self._pairs[token[:V2_HEAD_LENGTH], salt] = pair
        return pair

    # -- v1 -----------------------------------------------------------------------------------

    def derive_v1(self, token: str, salt: str) -> None:
        """Derive the keys that a v1 token and its tenant need; threads may do so at once."""
        try:
            self._open_v1(token, salt)
        except (EncryptionError, _LeftError):
            pass  # told when its turn comes

    def has_v1(self, salt: str) -> bool:
        """Say whether the keys of this tenant's v1 tokens are there."""
        return salt in self._v1_pairs

    def _open_v1(self, token: str, salt: str) -> tuple[bytes, TenantKey]:
        """Decrypt a v1 token; return the bytes, and the tenant's key under the primary key."""
        if not salt or tokens.V1 not in self._keyring.read_formats:
            raise _LeftError
        iv, sealed = tokens.parse_v1(token)
        pair = self._v1_pairs.get(salt)
        if pair is not None:
            try:
                return pair[0].decrypt(iv, sealed, None), pair[1]
            except InvalidTag:
                pass
        for master in self._v1_keys:
            cipher = self._keyring._v1_cipher(master, salt)
            try:
                data = cipher.decrypt(iv, sealed, None)
            except InvalidTag:
                continue
            # Other tenants' tokens are mostly under the same key.
            self._v1_keys = (master, *[key for key in self._v1_keys if key is not master])
            if len(self._v1_pairs) >= _MOST_TENANTS:
                self._v1_pairs.clear()
            new = self._keyring._tenant_key(self._keyring.primary, salt)
            self._v1_pairs[salt] = cipher, new
            return data, new
        raise _LeftError


def _open(values: Sequence[str], keys: Sequence[TenantKey], aads: Sequence[bytes]) -> list[bytes]:
    """Decrypt v2 tokens, each with its key."""
    payloads = [decode(token[V2_HEAD_LENGTH:]) for token in values]
    for token, payload, key in zip(values, payloads, keys, strict=True):
        if len(payload) < _SHORTEST or payload[0] != key.last_byte:
            raise _LeftError
        if not token.startswith(key.head):
            raise _LeftError
    return [
        key.decrypt(payload[1:13], payload[13:], aad)
        for key, payload, aad in zip(keys, payloads, aads, strict=True)
    ]


def _ivs(count: int) -> list[bytes]:
    """12 random bytes for each of so many values; one call to the system costs as much as many."""
    random = urandom(IV_BYTES * count)
    return [random[start : start + IV_BYTES] for start in range(0, len(random), IV_BYTES)]
