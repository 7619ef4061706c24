"""Text <-> the parts of a token.

v1, the format of the original product (no version, no key id, no associated data)::

    base64( iv[12] | ciphertext[n] | tag[16] )           standard alphabet, with padding

v2, the default::

    "v2:" key_id[8 hex] ":" base64url( commitment[16] | iv[12] | ciphertext[n] | tag[16] )
                                                         URL alphabet, without padding

A token is v2 exactly when it matches ``^v2:[0-9a-f]{8}:``. The colon is outside of both base64
alphabets, so no text is both, and no parser ever falls through to the other.

Decoding is strict: the text has to be exactly what re-encoding its bytes gives. One value has one
text, so a re-cased, re-padded or otherwise "equivalent" token is refused as malformed.

The lengths are those of AES-GCM (NIST SP 800-38D): a 96-bit iv (section 8.2.1), a 128-bit tag.
"""

import re
from binascii import Error as Base64Error, a2b_base64, b2a_base64
from collections.abc import Sequence
from typing import Final

from encryption.core.base64url import CANONICAL_ENDS, PADS, decode, encode
from encryption.core.errors import MalformedTokenError, UnsupportedFormatError

IV_BYTES: Final = 12
TAG_BYTES: Final = 16
COMMITMENT_BYTES: Final = 16

V1: Final = "v1"
V2: Final = "v2"
FORMATS: Final = (V2, V1)

#: How many characters come before the payload: "v2:" + 8 + ":". Also what SQL compares.
V2_PREFIX_LENGTH: Final = 12

#: Behind it, 20 letters of the commitment's first 15 bytes: how all tokens of a tenant begin.
V2_HEAD_LENGTH: Final = V2_PREFIX_LENGTH + 20

_V1_MINIMUM: Final = IV_BYTES + TAG_BYTES
_V2_MINIMUM: Final = COMMITMENT_BYTES + IV_BYTES + TAG_BYTES
#: The letters of the shortest token: 44 bytes are 59 letters of base64.
V2_SHORTEST: Final = V2_PREFIX_LENGTH + 59

_is_v2 = re.compile(r"v2:[0-9a-f]{8}:").match
_has_version = re.compile(r"v([0-9]{1,9}):").match

# "+" and "/" are no letters of base64url, and "=" does not stand in it either, so decoding turns
# them into "!", which the strict decoder refuses.
_FROM_URL: Final = bytes.maketrans(b"-_+/=", b"+/!!!")
_PADS: Final = tuple(pad.encode("ascii") for pad in PADS)

_NOT_BASE64: Final = (
    "The text is not a token: it is not the base64 that encoding its bytes gives. It was cut, "
    "re-cased, padded or otherwise changed, or it never was encrypted. Restore it from a backup "
    "or write a new value; for a column that still holds old plaintext see allow_plaintext."
)


def format_of(token: str) -> str:
    """Say which parser a token is for: ``"v2"`` or ``"v1"``.

    Only the beginning is looked at, so a token that is told to be v1 may still be malformed.

    Raises:
        MalformedTokenError: it begins like a v2 token but is none.
        UnsupportedFormatError: it names a version that this release does not know.
    """
    if _is_v2(token):
        return V2
    version = _has_version(token)
    if version is None:
        return V1
    if version[1] == "2":
        raise MalformedTokenError(
            "The text begins with 'v2:' but no key id of 8 lowercase hex digits follows, so it is "
            "not a token. It was cut or changed; restore it from a backup or write a new value."
        )
    raise UnsupportedFormatError(
        f"The token begins with 'v{version[1]}:', a version that this release does not know (it "
        "knows v2, and v1 without a version). If a newer release wrote it, upgrade to that one."
    )


def key_id_of(token: str) -> str | None:
    """Return the key id that a v2 token names, without decoding it; ``None`` for any other text."""
    return token[3:11] if _is_v2(token) else None


def _ascii(text: str) -> bytes:
    if text.isascii():
        return text.encode("ascii")
    # Without an exception of encode() in the context: that would hold the whole text, which in
    # a column that still has plaintext is a secret.
    del text
    raise MalformedTokenError(_NOT_BASE64)


def _strict_bytes(letters: bytes, minimum: int) -> bytes:
    """Decode unpadded standard base64 strictly.

    Raises:
        MalformedTokenError: not canonical base64, or fewer than ``minimum`` bytes.
    """
    rest = len(letters) % 4
    if rest and letters[-1] not in CANONICAL_ENDS[rest]:
        raise MalformedTokenError(_NOT_BASE64)
    try:
        data = a2b_base64(letters + _PADS[rest], strict_mode=True)
    except Base64Error:
        data = None
    if data is None:
        raise MalformedTokenError(_NOT_BASE64)
    if len(data) < minimum:
        raise MalformedTokenError(
            f"The text decodes to {len(data)} bytes and a token has at least {minimum}: it was "
            "cut. Restore it from a backup or write a new value."
        )
    return data


def parse_v2(token: str, start: int = V2_PREFIX_LENGTH) -> bytes:
    """Return the payload of a v2 token: commitment[16] | iv[12] | ciphertext | tag[16].

    Args:
        start: where decoding begins. Behind a :func:`v2_head` (32) the first 15 bytes are known,
            and what comes is commitment[1] | iv[12] | ciphertext | tag[16].

    Raises:
        MalformedTokenError: not exactly the text of at least 44 bytes.
    """
    data = decode(token[start:])
    if data and len(token) >= V2_SHORTEST:
        return data
    # The slow way, which says what is wrong.
    letters = _ascii(token[V2_PREFIX_LENGTH:]).translate(_FROM_URL)
    return _strict_bytes(letters, _V2_MINIMUM)[(start - V2_PREFIX_LENGTH) * 3 // 4 :]


def build_v2(prefix: str, payload: bytes) -> str:
    """Put a v2 token together.

    Args:
        prefix: what :func:`v2_prefix` gives for the key.
        payload: commitment[16] | iv[12] | ciphertext | tag[16].
    """
    return prefix + encode(payload)


def v2_head(prefix: str, commitment: bytes) -> str:
    """What every token of one tenant begins with: the prefix[12] and 15 bytes of commitment[20].

    These are whole groups of base64, so the letters say exactly these bytes and no bit of others.
    """
    return build_v2(prefix, commitment[:15])


def v2_prefix(key_id: str) -> str:
    """What every token under this key begins with, 12 characters; SQL can compare it."""
    return f"v2:{key_id}:"


def parse_v1(token: str) -> tuple[bytes, bytes]:
    """Take a v1 token apart: iv[12], ciphertext and tag as AES-GCM takes them.

    Raises:
        MalformedTokenError: not exactly the text of at least 28 bytes.
    """
    padded = _ascii(token)
    letters = padded.rstrip(b"=")
    if letters + _PADS[len(letters) % 4] != padded:
        raise MalformedTokenError(_NOT_BASE64)
    data = _strict_bytes(letters, _V1_MINIMUM)
    return data[:IV_BYTES], data[IV_BYTES:]


def build_v1(iv: bytes, sealed: bytes) -> str:
    """Put a v1 token together; the inverse of :func:`parse_v1`."""
    return b2a_base64(iv + sealed, newline=False).decode("ascii")


def part(text: str | None) -> bytes:
    """Encode one part of the associated data so that no two lists of parts give the same bytes.

    ::

        text:  length of utf8(text), 4 bytes big-endian | utf8(text)
        None:  FF FF FF FF, a length that no text has

    Raises:
        ValueError: the text holds a lone surrogate, which UTF-8 cannot say.
    """
    if text is None:
        return b"\xff\xff\xff\xff"
    data = text.encode("utf-8")
    return len(data).to_bytes(4, "big") + data


def associated_data(key_id: str, context: str, bound_to: Sequence[str | None] = ()) -> bytes:
    """What AES-GCM authenticates beside a v2 ciphertext: where the value belongs."""
    return b"".join(map(part, (V2, key_id, context, *bound_to)))
