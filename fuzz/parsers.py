"""What the token parsers promise, for any input.

They take exactly the texts that a second parser takes, give the same parts, and building a token
of these gives the same text again. Every other text is a ``DecryptionError``.
"""

import re

from encryption.core import tokens
from encryption.core.errors import DecryptionError
from fuzz import reference


def one_input(source: bytes) -> None:
    """Parse the input as UTF-8 text; bytes that are none become lone surrogates."""
    check(source.decode("utf-8", "surrogateescape"))


def check(text: str) -> None:
    """Raise ``AssertionError`` where the parsers break their promise."""
    expected = reference.parse(text)
    try:
        parsed = _parsed(text)
    except DecryptionError:
        parsed = None
    if parsed != expected:
        raise AssertionError("the parsers take another text, or other parts, than they should")
    if parsed and _rebuilt(parsed) != text:
        raise AssertionError("a parser took a text that is not canonical")
    named = re.match(r"v2:([0-9a-f]{8}):", text)
    if tokens.key_id_of(text) != (named[1] if named else None):
        raise AssertionError("the key id is not the one that the text names")


def _parsed(text: str) -> reference.Parsed:
    if tokens.format_of(text) == tokens.V2:
        return reference.Parsed("v2", tokens.key_id_of(text) or "", tokens.parse_v2(text))
    iv, sealed = tokens.parse_v1(text)
    return reference.Parsed("v1", "", iv + sealed)


def _rebuilt(parsed: reference.Parsed) -> str:
    if parsed.version == "v2":
        return tokens.build_v2(tokens.v2_prefix(parsed.key_id), parsed.payload)
    return tokens.build_v1(parsed.payload[:12], parsed.payload[12:])
