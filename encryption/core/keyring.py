"""One primary master key writes, every key reads, and a v2 token names the key it is under."""

from collections.abc import Sequence
from os import urandom
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from encryption.core import tokens
from encryption.core.derivation import KEY_BYTES, MasterKey, TenantKey
from encryption.core.errors import (
    DecryptionError,
    MalformedTokenError,
    MissingSaltError,
    TamperedError,
    UnknownKeyError,
    UnsupportedFormatError,
    WrongKeyError,
)
from encryption.core.keycache import KeyCache
from encryption.core.tokens import build_v2, parse_v2, part

DEFAULT_CACHE_SIZE: Final = 10_000

_NO_TENANT: Final = TenantKey(bytes(KEY_BYTES), b"")
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
        ValueError: a key stands twice in the ring, or a format is unknown.
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
                raise ValueError(
                    "a fallback key equals the primary key"
                    if key.same_as(primary)
                    else "a fallback key stands twice"
                )
        self.write_format = write_format
        self.read_formats = tuple(read_formats)
        self._reads_v2 = tokens.V2 in read_formats
        self._by_prefix: dict[str, MasterKey] = {}
        self._tenants: KeyCache[TenantKey] = KeyCache(cache_size)
        self._v1_ciphers: KeyCache[AESGCM] = KeyCache(cache_size)
        self._recent: tuple[str, MasterKey | None, TenantKey] = ("", None, _NO_TENANT)

    def __repr__(self) -> str:
        return f"<Keyring of {len(self.keys)}, writes {self.write_format}>"

    def key_ids(self) -> tuple[str, ...]:
        """The key ids, the primary's first. Derives the root of every key.

        Raises:
            ValueError: two different keys have one key id.
        """
        ids = tuple(key.key_id for key in self.keys)
        if len(set(ids)) < len(ids):
            raise ValueError("two master keys have one key id; replace one of them")
        return ids

    def alone(self) -> "Keyring":
        """A keyring that reads with the primary key only, and shares the derived keys."""
        ring = Keyring(self.primary, write_format=self.write_format, read_formats=self.read_formats)
        ring._tenants = self._tenants
        ring._v1_ciphers = self._v1_ciphers
        return ring

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
        try:
            if self.write_format == tokens.V1:
                return self._encrypt_v1(plaintext, salt)
            primary = self.primary
            recent = self._recent
            if recent[0] == salt and recent[1] is primary:
                tenant = recent[2]
            else:
                tenant = self._tenant_key(primary, salt)
            aad = primary.aad_heads[context]
            if bound_to:
                aad += b"".join(map(part, bound_to))
            iv = urandom(12)
            sealed = tenant.cipher.encrypt(iv, _utf8(plaintext), aad)
            return build_v2(primary.prefix, tenant.commitment + iv + sealed)
        except BaseException:
            del plaintext  # a traceback page shows the locals of this frame
            raise

    def _encrypt_v1(self, plaintext: str, salt: str) -> str:
        cipher = self._v1_cipher(self.primary, salt)
        iv = urandom(tokens.IV_BYTES)
        try:
            return tokens.build_v1(iv, cipher.encrypt(iv, _utf8(plaintext), None))
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
        master = self._by_prefix.get(token[:12])
        if master is None:
            if tokens.format_of(token) == tokens.V1:
                return _text(self._open_v1(token, salt))
            master = self._master_of(token)
        recent = self._recent
        if recent[0] == salt and recent[1] is master:
            tenant = recent[2]
        else:
            tenant = self._tenant_key(master, salt)
        payload = parse_v2(token)
        # Not a secret: every token of this tenant shows it. So no constant-time comparison.
        if payload[:16] != tenant.commitment:
            raise WrongKeyError(
                f"The token names key {master.key_id}, which is in the keyring, but was made "
                "under another salt: it belongs to another tenant, or the tenant's id changed. "
                "Give the salt it was written with."
            )
        aad = master.aad_heads[context]
        if bound_to:
            aad += b"".join(map(part, bound_to))
        try:
            return tenant.cipher.decrypt(payload[16:28], payload[28:], aad).decode("utf-8")
        except InvalidTag:
            raise TamperedError(
                f"The token is under the right key ({master.key_id}) and salt, but its "
                "authentication failed: the data was changed, or it was moved here from another "
                "column, row or host. After renaming a model or a field set context= to the old "
                'label ("app_label.model_name.field_name"); otherwise restore the value from a '
                "backup or write a new one."
            ) from None
        except UnicodeDecodeError:
            pass  # it holds the plaintext, so it must not be the context of what is raised
        raise MalformedTokenError(_NOT_UTF8)

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
            _require(salt)
            tenant = self._tenants.derive(name, master.tenant_key, salt)
        # Rows of one tenant come in runs, so the last key is looked at before the cache.
        self._recent = (salt, master, tenant)
        return tenant

    def _v1_cipher(self, master: MasterKey, salt: str) -> AESGCM:
        name = (master, salt)
        cipher = self._v1_ciphers.get(name)
        if cipher is None:
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


def _utf8(plaintext: str) -> bytes:
    try:
        return plaintext.encode("utf-8")
    except UnicodeEncodeError as error:
        position = error.start
    # Raised out here, where no context carries the plaintext along. "del" for the same reason:
    # a traceback page shows the locals of this frame.
    del plaintext
    raise ValueError(
        f"the text holds a lone surrogate at position {position}, which UTF-8 cannot say"
    )


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    del data
    raise MalformedTokenError(_NOT_UTF8)
