"""Text to parts and back: one value has one text, and no other text is taken for it."""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable

import pytest
from hypothesis import assume, example, given, strategies as st

from encryption.core import tokens
from encryption.core.errors import MalformedTokenError, UnsupportedFormatError

PREFIX = "v2:0123abcd:"

#: Texts that are nearly base64 of either alphabet.
nearly_base64 = st.text(st.sampled_from("ABQgwxyz0189+/-_== \n\u212a"), max_size=12)


# -- formats ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "version"),
    [
        (PREFIX, "v2"),
        (PREFIX + "whatever follows", "v2"),
        ("v2:00000000:", "v2"),
        ("v2:99999999:", "v2"),
        ("v2:ffffffff:", "v2"),
        ("", "v1"),
        ("v", "v1"),
        ("v2", "v1"),
        ("v:", "v1"),
        ("V2:0123abcd:", "v1"),
        (" v2:0123abcd:", "v1"),
        ("\nv2:0123abcd:", "v1"),
        ("vv2:0123abcd:", "v1"),
        ("v2x:0123abcd:", "v1"),
        ("v1234567890:", "v1"),
        ("v\u0662:0123abcd:", "v1"),  # an Arabic digit two
        ("yG16Og9h08cnBgg33ARoow5gDI23", "v1"),
    ],
)
def test_format_is_told_by_the_beginning(token: str, version: str) -> None:
    assert tokens.format_of(token) == version


@pytest.mark.parametrize(
    "token",
    [
        "v2:",
        "v2::",
        "v2:0123abc:",
        "v2:0123abcde:",
        "v2:0123ABCD:",
        "v2:0123abcd",
        "v2:0123abc\uff11:",  # a full-width digit one
        "v2:0123abcg:",
        "v2: 123abcd:",
        "v2:0123abcd :",
        "v2:\n0123abcd:",
    ],
)
def test_a_v2_token_needs_a_whole_key_id(token: str) -> None:
    with pytest.raises(MalformedTokenError, match="no key id of 8 lowercase hex digits"):
        tokens.format_of(token)


@pytest.mark.parametrize("version", ["v0", "v3", "v02", "v20", "v22", "v999999999"])
def test_other_versions_are_named(version: str) -> None:
    with pytest.raises(UnsupportedFormatError, match=f"begins with '{version}:'"):
        tokens.format_of(f"{version}:0123abcd:AAAA")


@pytest.mark.parametrize(
    ("token", "key_id"),
    [
        (PREFIX + "x", "0123abcd"),
        ("v2:0123ABCD:x", None),
        ("v3:0123abcd:x", None),
        (" " + PREFIX, None),
        ("", None),
        ("yG16Og9h08cnBgg33ARoow5gDI23", None),
    ],
)
def test_key_id_is_read_without_decoding(token: str, key_id: str | None) -> None:
    assert tokens.key_id_of(token) == key_id


def test_prefix_is_what_sql_compares() -> None:
    assert tokens.v2_prefix("0123abcd") == PREFIX
    assert len(PREFIX) == tokens.V2_PREFIX_LENGTH == 12
    assert tokens.FORMATS == (tokens.V2, tokens.V1) == ("v2", "v1")


# -- there and back ---------------------------------------------------------------------------


@given(st.binary(min_size=44, max_size=200))
def test_v2_there_and_back(payload: bytes) -> None:
    token = tokens.build_v2(PREFIX, payload)
    assert token.startswith(PREFIX)
    assert not set("+/=\n") & set(token)
    assert tokens.format_of(token) == "v2"
    assert tokens.parse_v2(token) == payload


@given(st.binary(min_size=12, max_size=12), st.binary(min_size=16, max_size=200))
def test_v1_there_and_back(iv: bytes, sealed: bytes) -> None:
    token = tokens.build_v1(iv, sealed)
    assert token == b64encode(iv + sealed).decode()
    assert tokens.format_of(token) == "v1"
    assert tokens.parse_v1(token) == (iv, sealed)


@pytest.mark.parametrize(("size", "enough"), [(0, False), (1, False), (27, False), (28, True)])
def test_v1_minimum(size: int, enough: bool) -> None:
    token = b64encode(bytes(size)).decode()
    if enough:
        assert tokens.parse_v1(token) == (bytes(12), bytes(16))
    else:
        with pytest.raises(MalformedTokenError, match=f"decodes to {size} bytes.* at least 28"):
            tokens.parse_v1(token)


@pytest.mark.parametrize(("size", "enough"), [(0, False), (1, False), (43, False), (44, True)])
def test_v2_minimum(size: int, enough: bool) -> None:
    token = tokens.build_v2(PREFIX, bytes(size))
    if enough:
        assert tokens.parse_v2(token) == bytes(44)
    else:
        with pytest.raises(MalformedTokenError, match=f"decodes to {size} bytes.* at least 44"):
            tokens.parse_v2(token)


# -- strictness -------------------------------------------------------------------------------


def decoded_v1(text: str) -> bytes | None:
    """What a token stands for, by the rule itself: exactly the text that its bytes give."""
    try:
        data = b64decode(text.encode("ascii"))
    except (UnicodeEncodeError, Base64Error):
        return None
    return data if b64encode(data).decode() == text else None


def decoded_v2(text: str) -> bytes | None:
    if set(text) & set("+/="):
        return None
    padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
    return decoded_v1(padded)


@given(nearly_base64)
@example("")
@example("=")
@example("A===")
@example("AA=A")
@example("QQ==QQ==")
@example("QR==")
@example("QQ=")
@example("QQ===")
@example("QQE=")
@example("QQF=")
@example("QQEB====")
def test_v1_takes_exactly_canonical_base64(end: str) -> None:
    text = "A" * 40 + end
    expected = decoded_v1(text)
    if expected is None:
        with pytest.raises(MalformedTokenError):
            tokens.parse_v1(text)
    else:
        assert tokens.parse_v1(text) == (expected[:12], expected[12:])


@given(nearly_base64)
@example("")
@example("=")
@example("Q")
@example("QQ")
@example("QR")
@example("QQE")
@example("QQF")
@example("QQ==")
@example("QR==")
@example("QQE=")
@example("QQF=")
@example("QQ+_")
@example("QQ-/")
@example("QQEB====")
def test_v2_takes_exactly_canonical_base64url(end: str) -> None:
    text = "A" * 60 + end
    expected = decoded_v2(text)
    if expected is None:
        with pytest.raises(MalformedTokenError):
            tokens.parse_v2(PREFIX + text)
    else:
        assert tokens.parse_v2(PREFIX + text) == expected


@pytest.mark.parametrize("length", [45, 46, 47])
def test_of_all_last_letters_of_v2_one_text_per_value_is_taken(length: int) -> None:
    payload = bytes(length)
    token = tokens.build_v2(PREFIX, payload)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/="
    taken: dict[bytes, str] = {}
    for letter in letters:
        text = token[:-1] + letter
        try:
            data = tokens.parse_v2(text)
        except MalformedTokenError:
            continue
        assert data not in taken
        taken[data] = text
    assert taken[payload] == token
    assert len(taken) == {0: 64, 1: 4, 2: 16}[length % 3]


@pytest.mark.parametrize("length", [28, 29, 30])
def test_of_all_last_letters_of_v1_one_text_per_value_is_taken(length: int) -> None:
    token = tokens.build_v1(bytes(12), bytes(length - 12))
    pad = len(token) - len(token.rstrip("="))
    taken: set[tuple[bytes, bytes]] = set()
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_":
        try:
            data = tokens.parse_v1(token[: -1 - pad] + letter + "=" * pad)
        except MalformedTokenError:
            continue
        assert data not in taken
        taken.add(data)
    assert len(taken) == {0: 64, 1: 4, 2: 16}[length % 3]


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda text: text + "=", id="one pad more"),
        pytest.param(lambda text: text + "==", id="two pads more"),
        pytest.param(lambda text: text + "\n", id="newline after"),
        pytest.param(lambda text: text[:20] + "\n" + text[20:], id="newline within"),
        pytest.param(lambda text: text[:20] + " " + text[20:], id="space within"),
        # As many as leave the length divisible by four.
        pytest.param(lambda text: text[:20] + "\n" * 4 + text[20:], id="four newlines within"),
        pytest.param(lambda text: text[:20] + "::::" + text[20:], id="four colons within"),
        pytest.param(lambda text: text[:20] + "\0" + text[20:], id="NUL within"),
        pytest.param(lambda text: text[:20] + "\u00e9" + text[21:], id="not ASCII"),
        pytest.param(lambda text: text[:20] + "\ud800" + text[21:], id="lone surrogate"),
        pytest.param(lambda text: text[:20] + "=" + text[21:], id="pad within"),
    ],
)
@pytest.mark.parametrize("size", [45, 46, 47])
def test_nothing_else_is_overlooked(edit: Callable[[str], str], size: int) -> None:
    v1 = tokens.build_v1(bytes(12), bytes(size - 12))
    v2 = tokens.build_v2(PREFIX, bytes(size))
    with pytest.raises(MalformedTokenError):
        tokens.parse_v1(edit(v1))
    with pytest.raises(MalformedTokenError):
        tokens.parse_v2(edit(v2))


# -- associated data --------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
#: So short, and so like a length, that a careless encoding would mix them up.
colliding = st.text(st.sampled_from("\x00\x01\x02ab,"), max_size=3)
bindings = st.tuples(
    texts | colliding, texts | colliding, st.lists(st.none() | texts | colliding, max_size=4)
)


def parts(data: bytes) -> list[str | None]:
    """Read associated data back into the texts it was made of."""
    found: list[str | None] = []
    while data:
        length, data = int.from_bytes(data[:4], "big"), data[4:]
        if length == 0xFFFF_FFFF:
            found.append(None)
        else:
            found.append(data[:length].decode("utf-8"))
            data = data[length:]
    return found


@given(bindings)
def test_associated_data_can_be_read_back(
    binding: tuple[str, str, list[str | None]],
) -> None:
    """An encoding with an inverse is injective: no two bindings share their associated data."""
    key_id, context, bound_to = binding
    assert parts(tokens.associated_data(key_id, context, bound_to)) == [
        "v2",
        key_id,
        context,
        *bound_to,
    ]


@given(
    st.tuples(colliding, colliding, st.lists(st.none() | colliding, max_size=3)),
    st.tuples(colliding, colliding, st.lists(st.none() | colliding, max_size=3)),
)
@example(("k", "c", []), ("k", "c", [""]))
@example(("k", "c", [""]), ("k", "c", [None]))
@example(("k", "c", [None]), ("k", "c", []))
@example(("k", "ab", ["c"]), ("k", "a", ["bc"]))
@example(("k", "c", ["a", "b"]), ("k", "c", ["b", "a"]))
@example(("k", "c", ["a"]), ("k", "c", ["a", "a"]))
def test_no_two_bindings_share_their_associated_data(
    one: tuple[str, str, list[str | None]], other: tuple[str, str, list[str | None]]
) -> None:
    assume(one != other)
    assert tokens.associated_data(*one) != tokens.associated_data(*other)


def test_associated_data_has_no_bound_values_by_default() -> None:
    assert tokens.associated_data("k", "c") == tokens.associated_data("k", "c", [])


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        (None, "ffffffff"),
        ("", "00000000"),
        ("a", "0000000161"),
        ("é", "00000002c3a9"),
        ("None", "000000044e6f6e65"),
        ("a" * 300, "0000012c" + "61" * 300),
    ],
)
def test_part(text: str | None, encoded: str) -> None:
    assert tokens.part(text).hex() == encoded


def test_part_refuses_a_lone_surrogate() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        tokens.part("\ud800")
