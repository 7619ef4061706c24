"""The keyring against a second implementation of v2, from the text of docs/token-formats.md.

That one shares nothing with `encryption.core` but the cipher: keys by `hashlib` and `hmac`,
associated data by `struct`, the text by `base64`.
"""

import base64
import hashlib
import hmac
import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import assume, example, given, settings, strategies as st

from encryption.core.errors import (
    DecryptionError,
    MalformedTokenError,
    TamperedError,
    WrongKeyError,
)
from encryption.core.keyring import Keyring
from tests.encryption.core.samples import PRIMARY, master

Binding = tuple[str, Sequence[str | None]]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
#: What a careless encoding takes for a length, for nothing, or for the end of a part.
tricky = st.text(st.sampled_from("\x00\x01\x02\x03\xff,:av2"), max_size=4)
salts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
bindings = st.tuples(tricky | texts, st.lists(st.none() | tricky | texts, max_size=4))

RING = Keyring(master())


@cache
def root() -> bytes:
    return hashlib.pbkdf2_hmac("sha256", PRIMARY.encode(), b"dashtray/v2/root", 600_000)


def expand(info: bytes, length: int) -> bytes:
    """HKDF-Expand, RFC 5869 section 2.3."""
    block, output = b"", b""
    for number in range(1, 3):
        block = hmac.digest(root(), block + info + bytes([number]), "sha256")
        output += block
    return output[:length]


def key_id() -> str:
    return expand(b"dashtray/v2/key-id", 4).hex()


def tenant(salt: str) -> tuple[bytes, bytes]:
    both = expand(b"dashtray/v2/tenant\0" + salt.encode(), 48)
    return both[:32], both[32:]


def aad(context: str, bound_to: Sequence[str | None]) -> bytes:
    encoded = b""
    for text in ("v2", key_id(), context, *bound_to):
        if text is None:
            encoded += struct.pack(">I", 0xFFFFFFFF)
        else:
            encoded += struct.pack(">I", len(text.encode())) + text.encode()
    return encoded


def sealed(plaintext: str, salt: str, binding: Binding) -> str:
    key, commitment = tenant(salt)
    iv = os.urandom(12)
    payload = commitment + iv + AESGCM(key).encrypt(iv, plaintext.encode(), aad(*binding))
    return f"v2:{key_id()}:{base64.urlsafe_b64encode(payload).decode().rstrip('=')}"


def opened(token: str, salt: str, binding: Binding) -> str:
    version, named, text = token.split(":")
    assert (version, named) == ("v2", key_id())
    payload = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    key, commitment = tenant(salt)
    assert payload[:16] == commitment
    return AESGCM(key).decrypt(payload[16:28], payload[28:], aad(*binding)).decode()


@given(texts, salts, bindings)
@example("", "1", ("", []))
@example("\0", "\0", ("\0", [None, "", "\0"]))
def test_each_opens_what_the_other_sealed(plaintext: str, salt: str, binding: Binding) -> None:
    assert opened(RING.encrypt(plaintext, salt, *binding), salt, binding) == plaintext
    assert RING.decrypt(sealed(plaintext, salt, binding), salt, *binding) == plaintext


@settings(max_examples=500)
@given(bindings, bindings)
@example(("", []), ("", [""]))
@example(("", [""]), ("", [None]))
@example(("a", ["b"]), ("", ["ab"]))
@example(("a", ["b", None]), ("a", ["b"]))
@example(("\x00\x00\x00\x01a", []), ("", ["a"]))
def test_no_two_bindings_share_their_associated_data(one: Binding, other: Binding) -> None:
    assume((one[0], list(one[1])) != (other[0], list(other[1])))
    assert aad(*one) != aad(*other)
    token = RING.encrypt("a value", "1", *one)
    with pytest.raises(TamperedError):
        RING.decrypt(token, "1", *other)
    with pytest.raises(InvalidTag):
        opened(token, "1", other)


@given(st.lists(salts, min_size=2, max_size=20, unique=True))
@example(["1", "1\0", "\0001", "01", " 1", "1 ", "\u0661"])
@example(["\u00e9", "e\u0301"])  # one letter to the eye: two salts
def test_no_two_salts_share_a_key_or_a_commitment(names: list[str]) -> None:
    derived = [tenant(salt) for salt in names]
    assert len({key for key, _ in derived}) == len({mark for _, mark in derived}) == len(names)
    assert [master().tenant_key(salt).commitment for salt in names] == [mark for _, mark in derived]
    token = RING.encrypt("a value", names[0])
    for salt in names[1:]:
        with pytest.raises(WrongKeyError):
            RING.decrypt(token, salt)


@settings(max_examples=20)
@given(st.lists(salts, min_size=2, max_size=10, unique=True), st.sampled_from([1, 2, 3, 10_000]))
def test_a_key_is_the_same_in_each_state_of_the_cache(names: list[str], size: int) -> None:
    """Cold, evicted, and asked for by threads together, what is derived is what the text says."""
    ring = Keyring(master(), cache_size=size)
    tokens = {salt: sealed(f"of {salt}", salt, ("", [])) for salt in names}

    def read(salt: str) -> str:
        return ring.decrypt(tokens[salt], salt)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, names * 10)) == [f"of {salt}" for salt in names * 10]
        written = pool.map(lambda salt: ring.encrypt(f"of {salt}", salt), names * 2)
        for salt, token in zip(names * 2, written, strict=True):
            assert opened(token, salt, ("", [])) == f"of {salt}"


@given(texts, st.data())
def test_no_changed_bit_of_the_payload_is_accepted(plaintext: str, data: st.DataObject) -> None:
    token = RING.encrypt(plaintext, "1", "context", ["row"])
    payload = bytearray(base64.urlsafe_b64decode(token[12:] + "=" * (-len(token[12:]) % 4)))
    bit = data.draw(st.integers(0, len(payload) * 8 - 1))
    payload[bit // 8] ^= 1 << bit % 8
    changed = token[:12] + base64.urlsafe_b64encode(payload).decode().rstrip("=")
    expected = WrongKeyError if bit < 16 * 8 else TamperedError
    with pytest.raises(expected):
        RING.decrypt(changed, "1", "context", ["row"])


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("plaintext", ["", "x", "two", "é🔐"])
def test_no_changed_bit_of_the_text_is_accepted(version: str, plaintext: str) -> None:
    ring = Keyring(master(), write_format=version)
    token = ring.encrypt(plaintext, "1", "context", ["row"])
    for place, letter in enumerate(token):
        for bit in range(8):
            changed = f"{token[:place]}{chr(ord(letter) ^ 1 << bit)}{token[place + 1 :]}"
            with pytest.raises(DecryptionError):
                ring.decrypt(changed, "1", "context", ["row"])
    for place in range(len(token)):
        with pytest.raises(DecryptionError):
            ring.decrypt(token[:place] + token[place + 1 :], "1", "context", ["row"])
    with pytest.raises(MalformedTokenError):
        ring.decrypt("", "1")
