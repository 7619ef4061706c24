"""One primary master key writes, every key reads, and a v2 token names the key it is under."""

from collections.abc import Sequence
from os import urandom
from typing import Final, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from encryption.core import tokens
from encryption.core.base64url import decode, encode
from encryption.core.counts import COUNTS
from encryption.core.derivation import MasterKey, TenantKey
from encryption.core.errors import (
    DecryptionError,
    MalformedTokenError,
    MissingSaltError,
    RepeatedKeyError,
    TamperedError,
    UnknownKeyError,
    UnsupportedFormatError,
    WrongKeyError,
)
from encryption.core.keycache import KeyCache
from encryption.core.tokens import V2_HEAD_LENGTH, V2_SHORTEST, parse_v2, part

DEFAULT_CACHE_SIZE: Final = 10_000

#: No salt is ``None``, so the key beside it is never looked at.
_NONE_YET: Final = cast("tuple[str, TenantKey]", (None, None))
_NOT_UTF8: Final = (
    "The token is authentic but what was encrypted is not UTF-8 text, so it was not written by "
    "this package or the original product. Write a new value."
)


class Keyring:
    """The master keys of one configuration, and encryption and decryption under them.

    Args:
        primary: writes; read with first.
        fallbacks: only read with.
        write_format: "v2" or "v1".
        read_formats: the formats that are decrypted; any other is refused.
        cache_size: how many derived tenant keys are kept.

    Raises:
        RepeatedKeyError: a key stands twice in the ring.
        ValueError: a format is unknown.
    """

    def __init__(
        self,
        primary: MasterKey,
        fallbacks: Sequence[MasterKey] = (),
        *,
        write_format: str = tokens.V2,
        read_formats: Sequence[str] = tokens.FORMATS,
        cache_size: int = DEFAULT_CACHE_SIZE,
    ) -> None:
        unknown = {write_format, *read_formats}.difference(tokens.FORMATS)
        if unknown:
            raise ValueError(f"unknown token formats: {', '.join(sorted(unknown))}")
        if write_format not in read_formats:
            raise ValueError(f"format {write_format} is written but not among the formats read")
        self.primary = primary
        self.keys = (primary, *fallbacks)
        for place, key in enumerate(self.keys):
            if any(key.same_as(other) for other in self.keys[:place]):
                raise RepeatedKeyError(
                    "a fallback key equals the primary key"
                    if key.same_as(primary)
                    else "a fallback key stands twice"
                )
        self.write_format = write_format
        self._writes_v1 = write_format == tokens.V1
        self.read_formats = tuple(read_formats)
        self._reads_v2 = tokens.V2 in read_formats
        self._by_prefix: dict[str, MasterKey] = {}
        self.cache_size = cache_size
        self._tenants: KeyCache[TenantKey] = KeyCache(cache_size)
        self._v1_ciphers: KeyCache[AESGCM] = KeyCache(cache_size)
        # Rows of one tenant come in runs, so the last key is looked at before the cache.
        self._recent = _NONE_YET

    def __repr__(self) -> str:
        return f"<Keyring of {len(self.keys)}, writes {self.write_format}>"

    def key_ids(self) -> tuple[str, ...]:
        """The key ids, the primary's first. Derives the root of every key.

        Raises:
            RepeatedKeyError: two different keys have one key id.
        """
        ids = tuple(key.key_id for key in self.keys)
        if len(set(ids)) < len(ids):
            raise RepeatedKeyError("two master keys have one key id; replace one of them")
        return ids

    def alone(self) -> "Keyring":
        """A keyring that reads with the primary key only, and shares the derived keys."""
        ring = Keyring(self.primary, write_format=self.write_format, read_formats=self.read_formats)
        ring._tenants = self._tenants
        ring._v1_ciphers = self._v1_ciphers
        return ring

    def renew_locks(self) -> None:
        """After a fork, see :meth:`KeyCache.renew_lock`; the child keeps the derived keys."""
        self._tenants.renew_lock()
        self._v1_ciphers.renew_lock()

    # -- encryption ---------------------------------------------------------------------------

    def encrypt(
        self, plaintext: str, salt: str, context: str = "", bound_to: Sequence[str | None] = ()
    ) -> str:
        """Encrypt a text for one tenant under the primary key and return its token.

        A v1 token holds neither ``context`` nor ``bound_to``: that format authenticates nothing
        but the value.

        Raises:
            MissingSaltError: ``salt`` is empty.
            ValueError: the text cannot be written as UTF-8 (it holds a lone surrogate).
        """
        COUNTS.encryptions += 1
        try:
            if self._writes_v1:
                return self._encrypt_v1(plaintext, salt)
            last_salt, tenant = self._recent
            if last_salt != salt or tenant.master is not self.primary:
                tenant = self._tenant_key(self.primary, salt)
            aad = tenant.aad_heads[context]
            if bound_to:
                aad += b"".join(map(part, bound_to))
            iv = urandom(12)
            sealed = tenant.encrypt(iv, plaintext.encode(), aad)
            return tenant.prefix + encode(tenant.commitment + iv + sealed)
        except UnicodeEncodeError:
            pass  # it holds the plaintext, so it must not be the context of what is raised
        except BaseException:
            del plaintext  # a traceback page shows the locals of this frame
            raise
        problem = _not_utf8(plaintext)
        del plaintext
        raise ValueError(problem)

    def _encrypt_v1(self, plaintext: str, salt: str) -> str:
        cipher = self._v1_cipher(self.primary, salt)
        iv = urandom(tokens.IV_BYTES)
        try:
            return tokens.build_v1(iv, cipher.encrypt(iv, plaintext.encode(), None))
        except BaseException:
            del plaintext
            raise

    # -- decryption ---------------------------------------------------------------------------

    def decrypt(
        self, token: str, salt: str, context: str = "", bound_to: Sequence[str | None] = ()
    ) -> str:
        """Decrypt the token of one tenant's value.

        Raises:
            UnknownKeyError, WrongKeyError, TamperedError, MalformedTokenError,
            UnsupportedFormatError: see there.
            MissingSaltError: ``salt`` is empty.
        """
        COUNTS.decryptions += 1
        last_salt, tenant = self._recent
        if last_salt != salt or not token.startswith(tenant.head):
            named = self._tenant_of(token, salt)
            if named is None:
                return _text(self._open_v1(token, salt))
            tenant = named
        # The head holds all of the commitment but its last byte.
        sealed = decode(token[V2_HEAD_LENGTH:])
        if not sealed or len(token) < V2_SHORTEST:
            sealed = parse_v2(token, V2_HEAD_LENGTH)  # says what is wrong
        if sealed[0] != tenant.last_byte:
            raise _wrong_key(token)
        aad = tenant.aad_heads[context]
        if bound_to:
            aad += b"".join(map(part, bound_to))
        try:
            return tenant.decrypt(sealed[1:13], sealed[13:], aad).decode()
        except InvalidTag:
            raise TamperedError(
                f"The token is under the right key ({token[3:11]}) and salt, but its "
                "authentication failed: the data was changed, or it was moved here from another "
                "column, row or host. After renaming a model or a field set context= to the old "
                'label ("app_label.model_name.field_name"); otherwise restore the value from a '
                "backup or write a new one."
            ) from None
        except UnicodeDecodeError:
            pass  # it holds the plaintext, so it must not be the context of what is raised
        raise MalformedTokenError(_NOT_UTF8)

    def _tenant_of(self, token: str, salt: str) -> TenantKey | None:
        """Find the key of a v2 token and check its commitment; ``None`` for a v1 token."""
        master = self._by_prefix.get(token[: tokens.V2_PREFIX_LENGTH])
        if master is None:
            if tokens.format_of(token) == tokens.V1:
                return None
            master = self._master_of(token)
        tenant = self._tenant_key(master, salt)
        # Not a secret: every token of this tenant shows it. So no constant-time comparison.
        if not token.startswith(tenant.head):
            parse_v2(token)
            raise _wrong_key(token)
        return tenant

    def _master_of(self, token: str) -> MasterKey:
        """Find the key that a v2 token names, deriving the key ids only as far as needed."""
        if not self._reads_v2:
            raise self._refused(tokens.V2)
        prefix = token[: tokens.V2_PREFIX_LENGTH]
        for master in self.keys:
            self._by_prefix.setdefault(tokens.v2_prefix(master.key_id), master)
            if prefix in self._by_prefix:
                return self._by_prefix[prefix]
        known = ", ".join(master.key_id for master in self.keys)
        raise UnknownKeyError(
            f"The token is under key {prefix[3:11]}, which is not in the keyring ({known}): the "
            "master key changed. Put the old key into MASTER_ENCRYPTION_KEY_FALLBACKS (or "
            "OLD_MASTER_KEY) and run rotate_master_key before you remove it."
        )

    def _open_v1(self, token: str, salt: str) -> bytes:
        if tokens.V1 not in self.read_formats:
            raise self._refused(tokens.V1)
        iv, sealed = tokens.parse_v1(token)
        for master in self.keys:
            try:
                return self._v1_cipher(master, salt).decrypt(iv, sealed, None)
            except InvalidTag:
                continue
        raise TamperedError(
            f"No key of the keyring ({len(self.keys)}) opens this v1 token with this salt. A v1 "
            "token names no key, so a changed master key, another tenant's salt and changed data "
            "look the same. If the master key changed, put the old one into "
            "MASTER_ENCRYPTION_KEY_FALLBACKS (or OLD_MASTER_KEY); otherwise restore the value "
            "from a backup or write a new one."
        )

    def _refused(self, version: str) -> DecryptionError:
        return UnsupportedFormatError(
            f"The text is or looks like a {version} token and READ_FORMATS accepts only "
            f"{', '.join(self.read_formats)}. Add {version!r} to ENCRYPTION['READ_FORMATS']."
        )

    # -- keys ---------------------------------------------------------------------------------

    def _tenant_key(self, master: MasterKey, salt: str) -> TenantKey:
        name = (master, salt)
        tenant = self._tenants.get(name)
        if tenant is None:
            COUNTS.cache_misses += 1
            _require(salt)
            tenant = self._tenants.derive(name, master.tenant_key, salt)
        self._recent = (salt, tenant)
        return tenant

    def _v1_cipher(self, master: MasterKey, salt: str) -> AESGCM:
        name = (master, salt)
        cipher = self._v1_ciphers.get(name)
        if cipher is None:
            COUNTS.cache_misses += 1
            _require(salt)
            cipher = self._v1_ciphers.derive(name, master.v1_cipher, salt)
        return cipher


def _require(salt: str) -> None:
    """Refuse a salt that no key can be derived from, before any key is in a frame."""
    try:
        salt.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the salt holds a lone surrogate, which UTF-8 cannot say") from None
    if not salt:
        raise MissingSaltError(
            "The salt is empty, so there is no tenant whose key could be used. Save the project "
            "or user that owns the value first, and set it on the row."
        )


def _wrong_key(token: str) -> WrongKeyError:
    return WrongKeyError(
        f"The token names key {token[3:11]}, which is in the keyring, but was made "
        "under another salt: it belongs to another tenant, or the tenant's id changed. "
        "Give the salt it was written with."
    )


def _not_utf8(plaintext: str) -> str:
    """Say what of an encryption cannot be written as UTF-8, without quoting it."""
    try:
        plaintext.encode()
    except UnicodeEncodeError as error:
        return f"the text holds a lone surrogate at position {error.start}, which UTF-8 cannot say"
    return "the context or a bound value holds a lone surrogate, which UTF-8 cannot say"


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    del data
    raise MalformedTokenError(_NOT_UTF8)
