"""Two libraries, one answer; test_tokens.py says which answer."""

import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable

import pytest
from hypothesis import example, given, strategies as st

from encryption.core import base64url
from encryption.core.base64url import (
    decode_with_binascii,
    decode_with_pybase64,
    encode_with_binascii,
    encode_with_pybase64,
)

pytest.importorskip("pybase64", reason="one of the runs is without it")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
DECODERS = pytest.mark.parametrize(
    "decode", [decode_with_binascii, decode_with_pybase64], ids=["binascii", "pybase64"]
)


def test_where_pybase64_is_installed_it_is_used() -> None:
    assert base64url.decode is decode_with_pybase64
    assert base64url.encode is encode_with_pybase64


def test_where_it_is_not_the_standard_library_is_used() -> None:
    code = (
        "import sys; sys.modules['pybase64'] = None; "
        "from encryption.core import base64url as one, keyring, tokens; "
        "assert one.decode is one.decode_with_binascii is tokens.decode is keyring.decode; "
        "assert one.encode is one.encode_with_binascii is tokens.encode is keyring.encode; "
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@given(st.binary(max_size=600))
def test_both_encode_alike_and_decode_what_was_encoded(data: bytes) -> None:
    text = urlsafe_b64encode(data).decode().rstrip("=")
    assert encode_with_binascii(data) == encode_with_pybase64(data) == text
    assert decode_with_binascii(text) == decode_with_pybase64(text) == data


@given(
    st.text(st.sampled_from(LETTERS), max_size=400),
    st.text(st.sampled_from("AQgwz09+/-_=:. \n\r\t\0\u00e9\u212a\ud800"), max_size=6),
    st.text(st.sampled_from(LETTERS), max_size=8),
)
@example("", "", "")
@example("AAAA", "", "QQ")
@example("AAAA", "", "QR")
@example("AAAA", "==", "QQ")
@example("AAAA", "+", "QQQ")
@example("AAAA", "/", "QQQ")
@example("AAAA", "\n\n\n\n", "AAAA")
def test_both_take_the_same_texts(begin: str, middle: str, end: str) -> None:
    text = begin + middle + end
    data = decode_with_binascii(text)
    assert decode_with_pybase64(text) == data
    if data:
        assert encode_with_binascii(data) == text


@DECODERS
def test_every_letter_in_every_place_is_taken_once(decode: Callable[[str], bytes]) -> None:
    for length in (45, 46, 47):
        text = encode_with_binascii(bytes(range(length)))
        for place in range(len(text)):
            texts = [text[:place] + chr(code) + text[place + 1 :] for code in range(256)]
            taken = {decode(one): one for one in texts if decode(one)}
            assert all(encode_with_binascii(data) == one for data, one in taken.items())
            last = place == len(text) - 1
            assert len(taken) == ((64, 4, 16)[length % 3] if last else 64)
