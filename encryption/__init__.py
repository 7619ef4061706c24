"""Encrypted Django fields: one key per tenant, a master key that can be rotated at noon."""

from encryption.api import decrypt, encrypt, sha256_hex
from encryption.core.errors import (
    DecryptionError,
    EncryptionError,
    MalformedTokenError,
    MissingSaltError,
    TamperedError,
    UnknownKeyError,
    UnsupportedFormatError,
    WrongKeyError,
)

__all__ = [
    "DecryptionError",
    "EncryptionError",
    "MalformedTokenError",
    "MissingSaltError",
    "TamperedError",
    "UnknownKeyError",
    "UnsupportedFormatError",
    "WrongKeyError",
    "decrypt",
    "encrypt",
    "sha256_hex",
]
