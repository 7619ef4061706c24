import re
import string
import zlib

import pytest
from hypothesis import given, strategies as st

from apikeys import tokens

BODY = "pp_live_000000000000_" + "0" * 43


def test_a_key_has_the_documented_form() -> None:
    key = tokens.generate("test").plaintext
    assert len(key) == tokens.LENGTH == 70
    assert re.fullmatch(r"pp_test_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}[0-9A-Za-z]{6}", key)
    assert tokens.is_valid(key)


def test_the_checksum_is_the_crc32_of_all_before_it_in_base62() -> None:
    digits = string.digits + string.ascii_uppercase + string.ascii_lowercase
    number = 0
    for character in tokens.checksum(BODY):
        number = number * 62 + digits.index(character)
    assert number == zlib.crc32(BODY.encode())
    assert len(tokens.checksum(BODY)) == 6


def test_a_small_checksum_is_padded() -> None:
    body = next(
        text for text in (f"{n:x}" for n in range(200_000)) if zlib.crc32(text.encode()) < 62**4
    )
    assert tokens.checksum(body).startswith("00")
    assert len(tokens.checksum(body)) == 6


def test_prefix_is_all_before_the_secret_and_the_hash_covers_the_whole_key() -> None:
    token = tokens.generate()
    assert token.plaintext.startswith(token.prefix)
    assert len(token.prefix) == 21
    assert token.prefix.startswith("pp_live_")
    assert token.prefix.endswith("_")
    assert re.fullmatch("[0-9a-f]{64}", token.hash)
    assert token.hash == tokens.Token(token.plaintext).hash
    assert token.hash != tokens.Token(token.plaintext[:-1]).hash


def test_no_text_of_a_token_shows_its_secret() -> None:
    token = tokens.generate()
    secret = token.plaintext[len(token.prefix) :]
    assert secret not in repr(token)
    assert secret not in str(token)
    assert secret not in f"{token} {token!r}"


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="live, test"):
        tokens.generate("prod")  # type: ignore[arg-type]


def test_keys_differ() -> None:
    assert len({tokens.generate().plaintext for _ in range(500)}) == 500


@given(st.integers(0, 69), st.sampled_from(tokens.ALPHABET))
def test_one_wrong_character_is_noticed(place: int, character: str) -> None:
    key = tokens.generate().plaintext
    wrong = key[:place] + character + key[place + 1 :]
    assert tokens.is_valid(wrong) == (wrong == key)


@given(st.integers(21, 68))
def test_two_neighbours_swapped_are_noticed(place: int) -> None:
    key = tokens.generate().plaintext
    wrong = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
    assert tokens.is_valid(wrong) == (wrong == key)


@given(st.text())
def test_no_text_breaks_a_parser(text: str) -> None:
    assert not tokens.is_valid(text)
    assert not tokens.contains_key(text)
    tokens.is_printable(text)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda key: key + "\n", id="newline"),
        pytest.param(lambda key: " " + key, id="space"),
        pytest.param(lambda key: key[:-1], id="short"),
        pytest.param(lambda key: key + "0", id="long"),
        pytest.param(lambda key: key.replace("pp_live_", "pp_prod_"), id="unknown kind"),
        pytest.param(lambda key: key.replace("pp_live_", "PP_LIVE_"), id="capitals"),
        pytest.param(lambda key: key[:30] + "é" + key[31:], id="letter beyond ASCII"),
        pytest.param(lambda key: key[:30] + "٣" + key[31:], id="digit beyond ASCII"),
        pytest.param(lambda key: key[:30] + "-" + key[31:], id="punctuation"),
    ],
)
def test_what_is_no_key(change) -> None:
    assert not tokens.is_valid(change(tokens.generate().plaintext))


@pytest.mark.parametrize(
    ("text", "printable"),
    [
        ("a", True),
        ("~" * 512, True),
        ("a" * 513, False),
        ("", False),
        ("a b", False),
        ("a\tb", False),
        ("a\x00", False),
        ("a\x7f", False),
        ("é", False),
    ],
)
def test_what_could_be_a_key_of_any_origin(text: str, printable: bool) -> None:
    assert tokens.is_printable(text) is printable


def test_the_pattern_for_scanners_finds_keys_in_any_text() -> None:
    live, test = tokens.generate("live").plaintext, tokens.generate("test").plaintext
    text = f'curl -H "Authorization: Bearer {live}"\nKEY={test}; x_{live} {live}x'
    assert re.findall(tokens.SCANNER_PATTERN, text) == [live, test]
    assert tokens.contains_key(text)
    assert not tokens.contains_key(text.replace(live[-6:], "000000").replace(test[-6:], "000000"))
