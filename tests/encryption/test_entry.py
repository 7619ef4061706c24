import base64
import json
import re
import secrets
import string

import pytest
from hypothesis import assume, given, strategies as st

from encryption import entry

PRINTABLE = string.ascii_letters + string.digits + string.punctuation


@pytest.mark.parametrize("size", [16, 32, 64])
def test_generated_secrets_are_none_of_the_masks(size: int) -> None:
    for _ in range(200):
        raw = secrets.token_bytes(size)
        for text in (raw.hex(), base64.b64encode(raw).decode(), secrets.token_urlsafe(size)):
            assert entry.text_problem(text) is None
        password = "".join(secrets.choice(PRINTABLE.replace("*", "")) for _ in range(size))
        assert entry.text_problem(password) is None


@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0*•●\u2217·"))
)
def test_a_text_without_mask_characters_is_a_secret(text: str) -> None:
    assume(not re.search(r"set|redacted", text, re.IGNORECASE))
    assert entry.text_problem(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "set",
        "not set",
        "(set)",
        "(not set)",
        "[set]",
        "<not set>",
        "Set",
        "NOT SET",
        " (set)\n",
        "( set )",
        "set.",
        "A value is set.",
        "A value is set. Leave this empty to keep it.",
        '{"set": true}',
        '{"set":false}',
        "{'set': True}",
        "[redacted]",
        "sk_live_[redacted]",
        "v2:0123abcd:[redacted]",
    ],
)
def test_what_pages_replies_and_logs_show_is_no_secret(text: str) -> None:
    assert entry.text_problem(text) == "mask"


@pytest.mark.parametrize(
    "text", ["sets", "reset", "set1", "(set", "set me", "(redacted)x", "log: [redacted]", "{set}!"]
)
def test_what_only_looks_like_it_is_one(text: str) -> None:
    assert entry.text_problem(text) is None


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("***", True),
        ("*" * 256, True),
        ("*" * 257, False),
        ("•••• •", False),
        ("a****b", True),
        ("a***b", False),
        ("two words ****", False),
        ("**", False),
        ("\t••••••\n", True),
        ("<Ciphertext 0123abcd>", True),
        ("<Ciphertext>", True),
        ("<Ciphertext 0123>", False),
    ],
)
def test_masks(text: str, mask: bool) -> None:
    assert entry.is_mask(text) is mask


@given(
    st.recursive(
        st.booleans()
        | st.integers(-(10**9), 10**9)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(alphabet=string.ascii_letters),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(alphabet=string.digits), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_json_is_parsed_to_the_value_that_was_written(value: object) -> None:
    parsed, problem = entry.parse_json(json.dumps(value))
    assert problem is None
    assert parsed == value
    assert entry.json_problem(parsed) is None


@given(st.text() | st.binary().map(repr))
def test_any_text_is_parsed_or_refused_and_never_raises(text: str) -> None:
    value, problem = entry.parse_json(text)
    assert problem in (None, "invalid_json")
    assert problem is None or value is None


@pytest.mark.parametrize(
    ("message", "value", "found"),
    [
        ("'hunter22' is too weak", "hunter22", True),
        ("Too weak.", "hunter22", False),
        ("{'key': 'hunter22'}", {"key": "hunter22"}, True),
        ("no hunter22 here", {"a": [{"hunter22": 1}]}, True),
        ("7 is too small", 7, True),
        ("Required.", "", False),
    ],
)
def test_a_message_that_quotes_a_value_is_found(message: str, value: object, found: bool) -> None:
    assert entry.echoes(message, value) is found
