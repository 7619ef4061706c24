"""The keyring: who writes, who reads, and which error says what."""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import assume, example, given, strategies as st

from encryption.core import derivation, tokens
from encryption.core.derivation import MasterKey, derive_root
from encryption.core.errors import (
    DecryptionError,
    MalformedTokenError,
    MissingSaltError,
    TamperedError,
    UnknownKeyError,
    UnsupportedFormatError,
    WrongKeyError,
)
from encryption.core.keyring import DEFAULT_CACHE_SIZE, Keyring
from tests.encryption.core.samples import FALLBACK, PRIMARY, STRANGER, master

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
salts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
bindings = st.lists(st.none() | texts, max_size=3)

#: One ring for all that only reads: its derived keys stay.
RING = Keyring(master(), [master(FALLBACK)])
V1_RING = Keyring(master(), [master(FALLBACK)], write_format="v1")


# -- there and back ---------------------------------------------------------------------------


@given(texts, salts, texts, bindings)
@example("", "1", "", [])
@example("\0", "1", "\0", ["\0", None])
@example("v2:0123abcd:AAAA", "1", "", [])
@example("🔐" * 1000, "1", "", [])
def test_v2_there_and_back(
    plaintext: str, salt: str, context: str, bound_to: list[str | None]
) -> None:
    token = RING.encrypt(plaintext, salt, context, bound_to)
    assert token.startswith(master().prefix)
    assert RING.decrypt(token, salt, context, bound_to) == plaintext
    assert RING.decrypt(token, salt, context, tuple(bound_to)) == plaintext


@given(texts)
@example("")
@example("v2:0123abcd:AAAA")
def test_v1_there_and_back(plaintext: str) -> None:
    token = V1_RING.encrypt(plaintext, "1", "a context", ["bound"])
    assert ":" not in token
    assert V1_RING.decrypt(token, "1") == plaintext
    assert RING.decrypt(token, "1", "another context", []) == plaintext


def test_no_context_and_nothing_bound_by_default() -> None:
    assert RING.decrypt(RING.encrypt("text", "1"), "1", "", []) == "text"
    assert RING.decrypt(RING.encrypt("text", "1", "", ()), "1") == "text"


def test_a_v2_token_has_the_lengths_of_its_parts() -> None:
    token = RING.encrypt("é", "1")
    assert len(tokens.parse_v2(token)) == 16 + 12 + 2 + 16


@pytest.mark.parametrize("ring", [RING, V1_RING], ids=["v2", "v1"])
def test_no_iv_comes_twice(ring: Keyring) -> None:
    written = {ring.encrypt("the same text", "1") for _ in range(2_000)}
    if ring is RING:
        ivs = {tokens.parse_v2(token)[16:28] for token in written}
    else:
        ivs = {tokens.parse_v1(token)[0] for token in written}
    assert len(written) == len(ivs) == 2_000


# -- where a value belongs --------------------------------------------------------------------


@given(st.tuples(texts, bindings), st.tuples(texts, bindings))
@example(("a", []), ("a", [""]))
@example(("a", [None]), ("a", [""]))
@example(("ab", ["c"]), ("a", ["bc"]))
def test_a_token_opens_nowhere_else(
    here: tuple[str, list[str | None]], there: tuple[str, list[str | None]]
) -> None:
    assume(here != there)
    token = RING.encrypt("text", "1", *here)
    with pytest.raises(TamperedError):
        RING.decrypt(token, "1", *there)


@given(salts, salts)
@example("1", "01")
@example("a", "A")
@example("a", "a ")
@example("\u00e9", "e\u0301")
def test_another_tenant_cannot_open_it(salt: str, other: str) -> None:
    assume(salt != other)
    with pytest.raises(WrongKeyError):
        RING.decrypt(RING.encrypt("text", salt), other)


def test_another_tenant_cannot_open_v1() -> None:
    with pytest.raises(TamperedError):
        V1_RING.decrypt(V1_RING.encrypt("text", "1"), "2")


# -- which key --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_the_primary_writes_and_all_keys_read(version: str) -> None:
    old = Keyring(master(FALLBACK), write_format=version)
    new = Keyring(master(), [master(STRANGER), master(FALLBACK)], write_format=version)
    assert new.decrypt(old.encrypt("old", "1"), "1") == "old"
    token = new.encrypt("new", "1")
    assert Keyring(master()).decrypt(token, "1") == "new"
    with pytest.raises(DecryptionError):
        old.decrypt(token, "1")


def test_a_key_that_is_not_in_the_ring_is_named() -> None:
    token = Keyring(master(STRANGER)).encrypt("text", "1")
    with pytest.raises(UnknownKeyError) as caught:
        RING.decrypt(token, "1")
    assert f"under key {master(STRANGER).key_id}," in str(caught.value)
    assert f"({master().key_id}, {master(FALLBACK).key_id})" in str(caught.value)
    with pytest.raises(UnknownKeyError):
        RING.decrypt(token, "1")


def test_v1_of_a_key_that_is_not_in_the_ring() -> None:
    token = Keyring(master(STRANGER), write_format="v1").encrypt("text", "1")
    with pytest.raises(TamperedError, match=r"No key of the keyring \(2\) opens"):
        RING.decrypt(token, "1")


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The master keys whose root was derived, other than the shared ones."""
    for secret in (PRIMARY, FALLBACK, STRANGER):
        _ = master(secret).root  # derived now, or else by the first test that asks for it
    made: list[bytes] = []

    def counted(secret: bytes) -> bytes:
        made.append(secret)
        return derive_root(secret)

    monkeypatch.setattr(derivation, "derive_root", counted)
    return made


def test_roots_are_derived_only_as_far_as_needed(derivations: list[bytes]) -> None:
    primary, fallback, older = PRIMARY.encode(), FALLBACK.encode(), STRANGER.encode()
    ring = Keyring(*_new(PRIMARY, FALLBACK, STRANGER))
    assert derivations == []
    ring.decrypt(RING.encrypt("text", "1"), "1")
    assert derivations == [primary]
    ring.decrypt(Keyring(master(FALLBACK)).encrypt("text", "1"), "1")
    assert derivations == [primary, fallback]
    ring.decrypt(Keyring(master(STRANGER)).encrypt("text", "1"), "1")
    ring.decrypt(RING.encrypt("text", "2"), "2")
    assert derivations == [primary, fallback, older]


def _new(primary: str, *fallbacks: str) -> tuple[MasterKey, list[MasterKey]]:
    return MasterKey(primary), [MasterKey(secret) for secret in fallbacks]


def test_v1_derives_no_root(derivations: list[bytes]) -> None:
    ring = Keyring(*_new(PRIMARY, FALLBACK), write_format="v1")
    ring.decrypt(ring.encrypt("text", "1"), "1")
    assert derivations == []


@pytest.mark.parametrize(("name", "version"), [("tenant_key", "v2"), ("v1_cipher", "v1")])
def test_a_tenant_key_is_derived_once_and_kept_up_to_the_size(
    monkeypatch: pytest.MonkeyPatch, name: str, version: str
) -> None:
    made = []
    original: Callable[[MasterKey, str], Any] = getattr(MasterKey, name)

    def counted(key: MasterKey, salt: str) -> Any:
        made.append(salt)
        return original(key, salt)

    monkeypatch.setattr(MasterKey, name, counted)
    ring = Keyring(master(), write_format=version, cache_size=2)
    for salt in ("1", "2", "1", "2"):
        token = ring.encrypt("text", salt)
        assert ring.decrypt(token, salt) == "text"
    assert made == ["1", "2"]
    ring.encrypt("text", "3")
    ring.encrypt("text", "1")
    assert made == ["1", "2", "3", "1"]


def test_keys_of_two_masters_and_one_tenant_are_kept_apart() -> None:
    old = Keyring(master(FALLBACK), [master()])
    for ring in (RING, old, RING, old):
        assert RING.decrypt(ring.encrypt("text", "1"), "1") == "text"


# -- the ring itself --------------------------------------------------------------------------


def test_a_ring_has_defaults() -> None:
    ring = Keyring(master())
    assert ring.keys == (master(),)
    assert ring.primary is master()
    assert ring.write_format == "v2"
    assert ring.read_formats == ("v2", "v1")
    assert DEFAULT_CACHE_SIZE == 10_000


def test_a_ring_can_be_asked_for_its_key_ids() -> None:
    assert RING.key_ids() == (master().key_id, master(FALLBACK).key_id)


def test_a_ring_tells_nothing_but_its_size() -> None:
    assert repr(RING) == "<Keyring of 2, writes v2>"
    assert repr(Keyring(master(), write_format="v1")) == "<Keyring of 1, writes v1>"


@pytest.mark.parametrize(
    ("secrets", "message"),
    [
        ([PRIMARY, PRIMARY], "a fallback key equals the primary key"),
        ([PRIMARY, FALLBACK, PRIMARY], "a fallback key equals the primary key"),
        ([PRIMARY, FALLBACK, STRANGER, FALLBACK], "a fallback key stands twice"),
    ],
)
def test_a_key_that_stands_twice_is_refused(secrets: list[str], message: str) -> None:
    primary, *fallbacks = map(MasterKey, secrets)
    with pytest.raises(ValueError, match=f"^{message}$"):
        Keyring(primary, fallbacks)


def test_two_keys_with_one_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derivation, "derive_root", lambda secret: bytes(32))
    ring = Keyring(*_new(PRIMARY, FALLBACK))
    with pytest.raises(ValueError, match=r"^two master keys have one key id; replace one of them$"):
        ring.key_ids()


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ({"write_format": "v3"}, "^unknown token formats: v3$"),
        ({"read_formats": ["v2", "v9", "v3"]}, "^unknown token formats: v3, v9$"),
        ({"write_format": ""}, "^unknown token formats: $"),
        ({"read_formats": ["v1"]}, "^format v2 is written but not among the formats read$"),
        (
            {"write_format": "v1", "read_formats": ["v2"]},
            "^format v1 is written but not among the formats read$",
        ),
    ],
)
def test_wrong_formats_are_refused(formats: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Keyring(master(), **formats)


@pytest.mark.parametrize("size", [0, -1])
def test_a_ring_keeps_at_least_one_tenant_key(size: int) -> None:
    with pytest.raises(ValueError, match="at least 1 key"):
        Keyring(master(), cache_size=size)


# -- formats that are read --------------------------------------------------------------------


def test_v1_is_refused_where_it_is_no_longer_read() -> None:
    ring = Keyring(master(), read_formats=["v2"])
    with pytest.raises(
        UnsupportedFormatError, match=r"v1 token and READ_FORMATS accepts only v2\."
    ):
        ring.decrypt(V1_RING.encrypt("text", "1"), "1")
    assert ring.decrypt(RING.encrypt("text", "1"), "1") == "text"


def test_v2_is_refused_where_it_is_not_read() -> None:
    ring = Keyring(master(), write_format="v1", read_formats=["v1"])
    with pytest.raises(
        UnsupportedFormatError, match=r"v2 token and READ_FORMATS accepts only v1\."
    ):
        ring.decrypt(RING.encrypt("text", "1"), "1")
    assert ring.decrypt(V1_RING.encrypt("text", "1"), "1") == "text"


def test_a_version_of_the_future_is_named() -> None:
    with pytest.raises(UnsupportedFormatError, match="'v3:'"):
        RING.decrypt("v3:" + RING.encrypt("text", "1")[3:], "1")


# -- misuse -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ring", [RING, V1_RING], ids=["v2", "v1"])
def test_without_a_salt_nothing_is_written_or_read(ring: Keyring) -> None:
    token = ring.encrypt("text", "1")
    with pytest.raises(MissingSaltError):
        ring.encrypt("text", "")
    with pytest.raises(MissingSaltError):
        ring.decrypt(token, "")


@pytest.mark.parametrize("ring", [RING, V1_RING], ids=["v2", "v1"])
def test_a_lone_surrogate_is_refused(ring: Keyring) -> None:
    with pytest.raises(ValueError, match=r"^the text holds a lone surrogate at position 2, "):
        ring.encrypt("ab\ud800", "1")
    with pytest.raises(ValueError, match=r"^the salt holds a lone surrogate, "):
        ring.encrypt("text", "\udfff")
    with pytest.raises(ValueError, match=r"^the salt holds a lone surrogate, "):
        ring.decrypt(ring.encrypt("text", "1"), "\udfff")


def test_a_lone_surrogate_in_the_binding_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        RING.encrypt("text", "1", "\ud800")
    with pytest.raises(ValueError, match="surrogate"):
        RING.encrypt("text", "1", "", ["\ud800"])


def test_authentic_bytes_that_are_no_text_are_refused() -> None:
    """Whoever holds the key may have written anything; no guess is made of it."""
    tenant = master().tenant_key("1")
    aad = tokens.associated_data(master().key_id, "")
    sealed = tenant.encrypt(bytes(12), b"\xff\xfe", aad)
    v2 = tokens.build_v2(master().prefix, tenant.commitment + bytes(12) + sealed)
    v1_cipher: AESGCM = master().v1_cipher("1")
    v1 = tokens.build_v1(bytes(12), v1_cipher.encrypt(bytes(12), b"\xff\xfe", None))
    for token in (v1, v2):
        with pytest.raises(MalformedTokenError, match=r"authentic but .* not UTF-8"):
            RING.decrypt(token, "1")


# -- texts that are no tokens -----------------------------------------------------------------

STRANGE_LETTERS = "Aa09+/-_=:v \t\r\n\0\u00e9\u0430\u212a\uff10\ud800"


def edits(token: str) -> dict[str, str]:
    """All texts that are one edit away from a token, and what the edit was."""
    found = {token[:place]: f"cut at {place}" for place in range(len(token))}
    for place in range(len(token) + 1):
        head, letter, tail = token[:place], token[place : place + 1], token[place + 1 :]
        found[head + tail] = f"left out {place}"
        found[head + letter.swapcase() + tail] = f"re-cased {place}"
        for strange in STRANGE_LETTERS:
            found[head + strange + tail] = f"replaced {place} by {strange!r}"
            found[head + strange + letter + tail] = f"put {strange!r} before {place}"
    for text in (token.lower(), token.upper(), token * 2, token + "==", f'"{token}"', token[::-1]):
        found[text] = "whole"
    found.pop(token, None)
    return found


@pytest.mark.parametrize("plaintext", ["", "a", "ab", "abc"])
@pytest.mark.parametrize("ring", [RING, V1_RING], ids=["v2", "v1"])
def test_every_edit_of_a_token_is_refused(ring: Keyring, plaintext: str) -> None:
    token = ring.encrypt(plaintext, "1", "a.b.c")
    for text, edit in edits(token).items():
        try:
            ring.decrypt(text, "1", "a.b.c")
        except DecryptionError:
            continue
        pytest.fail(f"accepted: {edit}")


likely = st.one_of(
    st.text(),
    st.text(st.sampled_from("Aa09+/-_=:v")),
    st.builds(lambda end: master().prefix + end, st.text(st.sampled_from("Aa09+/-_="))),
    st.builds(lambda end: master().prefix + end, st.text()),
    st.builds(lambda data: tokens.build_v1(data[:12], data[12:]), st.binary(max_size=60)),
    st.builds(lambda data: tokens.build_v2(master().prefix, data), st.binary(max_size=80)),
    st.builds(
        lambda data: tokens.build_v2(master().prefix, master().tenant_key("1").commitment + data),
        st.binary(max_size=60),
    ),
)


@given(likely)
@example("")
@example("v2:")
@example("null")
@example("\ud800")
def test_a_text_that_is_no_token_only_ever_raises_a_decryption_error(text: str) -> None:
    with pytest.raises(DecryptionError):
        RING.decrypt(text, "1")


# -- the primary key alone --------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_alone_reads_with_the_primary_key_only(version: str) -> None:
    ring = Keyring(master(), [master(FALLBACK)], write_format=version)
    old = Keyring(master(FALLBACK), write_format=version).encrypt("old", "1")
    assert ring.decrypt(old, "1") == "old"
    alone = ring.alone()
    with pytest.raises((UnknownKeyError, TamperedError)):
        alone.decrypt(old, "1")
    assert alone.decrypt(ring.encrypt("new", "1"), "1") == "new"
    assert alone.write_format == version
    assert tokens.format_of(alone.encrypt("x", "1")) == version


def test_alone_reads_the_same_formats() -> None:
    ring = Keyring(master(), write_format="v1", read_formats=["v1"])
    assert ring.alone().read_formats == ("v1",)
    with pytest.raises(UnsupportedFormatError):
        ring.alone().decrypt(RING.encrypt("x", "1"), "1")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_alone_derives_nothing_anew(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    ring = Keyring(master(), write_format=version)
    token = ring.encrypt("x", "a tenant")
    for name in ("tenant_key", "v1_cipher"):
        monkeypatch.setattr(MasterKey, name, lambda key, salt: pytest.fail("derived again"))
    assert ring.alone().decrypt(token, "a tenant") == "x"
