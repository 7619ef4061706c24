"""The format of an API key.

::

    pp_live_3kTMd0kAp2Qz_Jm2c...43 characters...8cV4x1bq9
    |------||----------| |------------------------||----|
    kind     id          secret                    checksum
    8        12          43                        6         = 70 characters

=========  ===================================================================================
kind       ``pp_live_`` or ``pp_test_``
id         12 random base62 characters: they tell keys apart and are shown to people
secret     43 random base62 characters: log2(62 ** 43) = 256.03 bits
checksum   CRC-32 (ISO 3309, as in zlib and RFC 1952) of all characters before it, in base62,
           most significant digit first, padded with ``0`` to 6 (62 ** 6 > 2 ** 32)
=========  ===================================================================================

The base62 digits are ``0-9``, ``A-Z``, ``a-z`` in this order. All characters are letters, digits
and ``_``, so that a double click selects a whole key. The checksum is no protection: it tells a
mistyped key, or a text that merely looks like a key, without a look into the database.

A secret is random, so one SHA-256 is a sound way to store it (NIST SP 800-63B, section 5.1.2.2,
asks for a slow hash of *memorized* secrets only), and it can be looked up under an index.
"""

import re
import secrets
import zlib
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from encryption import sha256_hex

Kind = Literal["live", "test"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH: Final = 12
SECRET_LENGTH: Final = 43
CHECKSUM_LENGTH: Final = 6
PREFIX_LENGTH: Final = len("pp_live_") + ID_LENGTH + len("_")
LENGTH: Final = PREFIX_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH

#: For secret scanners: finds a key in any text. A match whose checksum holds (see ``is_valid``)
#: is a key with all but certainty: random text passes once in 2 ** 32.
SCANNER_PATTERN: Final = r"\bpp_(?:live|test)_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}\b"

#: No longer Authorization value is looked at.
MAXIMUM_BYTES: Final = 512

_SHAPE: Final = re.compile(r"pp_(?:live|test)_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}", re.ASCII)
_ANYWHERE: Final = re.compile(SCANNER_PATTERN, re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    """A new API key: the whole of it, which is shown once and never stored, and what is stored."""

    plaintext: str = field(repr=False)

    @property
    def prefix(self) -> str:
        """All before the secret: names the key to people without giving it away."""
        return self.plaintext[:PREFIX_LENGTH]

    @property
    def hash(self) -> str:
        """SHA-256 of the whole key, as 64 hex digits."""
        return sha256_hex(self.plaintext)

    def __str__(self) -> str:
        return f"{self.prefix}..."


def generate(kind: Kind = "live") -> Token:
    """Make a key from the operating system's random numbers.

    Raises:
        ValueError: the kind is neither "live" nor "test".
    """
    if kind not in KINDS:
        raise ValueError(f"the kind of a key is one of {', '.join(KINDS)}")
    body = f"pp_{kind}_{_random(ID_LENGTH)}_{_random(SECRET_LENGTH)}"
    return Token(body + checksum(body))


def checksum(body: str) -> str:
    """CRC-32 of a key's ASCII characters before its checksum, as 6 base62 digits."""
    number = zlib.crc32(body.encode("ascii"))
    digits = ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


def kind_of(prefix: str) -> Kind | None:
    """Return the kind that a key's prefix tells; ``None`` for a key of another origin."""
    if len(prefix) == PREFIX_LENGTH:
        for kind in KINDS:
            if prefix.startswith(f"pp_{kind}_"):
                return kind
    return None


def has_shape(text: str) -> bool:
    """Whether a text has the form of a key; its checksum may still be wrong."""
    return _SHAPE.fullmatch(text) is not None


def is_valid(text: str) -> bool:
    """Whether a text has the form of a key and its checksum holds."""
    return has_shape(text) and checksum(text[:-CHECKSUM_LENGTH]) == text[-CHECKSUM_LENGTH:]


def is_printable(text: str) -> bool:
    """Whether a text could be a key of any origin: 1 to 512 printable ASCII characters, no spaces.

    A key that was imported from elsewhere has no form of its own.
    """
    return (
        0 < len(text) <= MAXIMUM_BYTES and text.isascii() and text.isprintable() and " " not in text
    )


def contains_key(text: str) -> bool:
    """Whether a key with a right checksum stands anywhere in a text."""
    return any(is_valid(match[0]) for match in _ANYWHERE.finditer(text))


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
