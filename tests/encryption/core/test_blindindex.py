"""Blind indexes against another implementation, and what tells two of them apart."""

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from encryption.core import base64url, blindindex
from encryption.core.blindindex import Indexer, derive_index_key
from encryption.core.errors import MissingSaltError
from tests.encryption.core.samples import FALLBACK, PRIMARY, master

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "b2.json").read_text("utf-8")
)["vectors"]


@pytest.fixture
def indexer() -> Indexer:
    return Indexer((master(PRIMARY), master(FALLBACK)), 100)


def test_no_vector_is_missing() -> None:
    assert len(VECTORS) == 18


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_known_answers(vector: dict[str, Any]) -> None:
    key = master(vector["master"])
    place = [vector[name] for name in ("scope", "context", "path", "salt")]
    assert derive_index_key(key.root, *place).hex() == vector["index_key"]
    names = ("scope", "context", "path", "salt", "bits")
    made = Indexer((key,), 10).index(
        vector["value"].encode(), **{name: vector[name] for name in names}
    )
    assert made == vector["index"]
    assert blindindex.is_index(made)
    assert vector["key_id"] == key.key_id
    assert made.startswith(blindindex.prefix(key.key_id))
    assert not blindindex.is_absent(made)


def test_every_part_makes_another_key(indexer: Indexer) -> None:
    places: list[dict[str, Any]] = [
        {"scope": "tenant", "context": "a.b.c", "salt": "1"},
        {"scope": "tenant", "context": "a.b.c", "salt": "2"},
        {"scope": "tenant", "context": "a.b.d", "salt": "1"},
        {"scope": "tenant", "context": "a.b.c", "salt": "1", "path": "x"},
        {"scope": "tenant", "context": "a.b.c", "salt": "1", "path": "y"},
        {"scope": "tenant", "context": "a.b.c", "salt": "x1"},
        {"scope": "tenant", "context": "a.b.cx", "salt": "1"},
        {"scope": "global", "context": "a.b.c"},
        {"scope": "global", "context": "a.b.c", "path": "1"},
        {"scope": "tenant", "context": "a.b.c", "salt": "1", "master": indexer.keys[1]},
    ]
    made = [indexer.index(b"value", **place) for place in places]
    assert len(set(made)) == len(places)
    assert [indexer.index(b"value", **place) for place in places] == made


def test_equal_values_are_equal_and_others_are_not(indexer: Indexer) -> None:
    def index(message: bytes) -> str:
        return indexer.index(message, scope="global", context="a.b.c")

    assert index(b"one") == index(b"one")
    assert len({index(b"one"), index(b"One"), index(b""), index(b"one ")}) == 4
    assert len(index(b"one")) == blindindex.LENGTH


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b2:",
        "b2:0123abcd:",
        "b2:0123ABCD:AAAA",
        "b2:0123abcd:AA=",
        "b2:0123abcd:A A",
        "b2:0123abcd:AA\n",
        "b2:0123abcd:" + "A" * 44,
        "b2:0123abcd:.",
        "b2:0123abcd:." + "A" * 21,
        "v2:0123abcd:AAAA",
        "b2:0123abcd:\u212a",
    ],
)
def test_what_is_no_index(text: str) -> None:
    assert not blindindex.is_index(text)


def test_no_two_absent_ones_are_equal() -> None:
    key_id = master(PRIMARY).key_id
    one, other = blindindex.absent(key_id), blindindex.absent(key_id)
    assert one != other
    for index in (one, other):
        assert blindindex.is_index(index)
        assert blindindex.is_absent(index)
        assert index.startswith(blindindex.prefix(key_id))
        assert len(index) <= blindindex.LENGTH


@given(bits=st.integers(blindindex.FEWEST_BITS, blindindex.MOST_BITS), message=st.binary())
def test_a_truncated_index_is_the_beginning_of_the_whole_one(bits: int, message: bytes) -> None:
    indexer = Indexer((master(PRIMARY),), 10)

    def digest(bits: int) -> str:
        made = indexer.index(message, scope="global", context="a", bits=bits)
        assert blindindex.is_index(made)
        letters = made.partition(":")[2].partition(":")[2]
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        return "".join(f"{alphabet.index(letter):06b}" for letter in letters)

    short, whole = digest(bits), digest(256)
    assert short[:bits] == whole[:bits]
    assert set(short[bits:]) <= {"0"}
    assert len(short) - bits < 14  # a byte that is not full, and a letter


def test_a_salt_belongs_to_the_scope(indexer: Indexer) -> None:
    for salt in (None, ""):
        with pytest.raises(MissingSaltError):
            indexer.index(b"x", scope="tenant", context="a", salt=salt)
    with pytest.raises(ValueError, match="scope"):
        indexer.index(b"x", scope="global", context="a", salt="1")
    with pytest.raises(ValueError, match="scope"):
        indexer.index(b"x", scope="local", context="a")


def test_keys_are_derived_once(indexer: Indexer, monkeypatch: pytest.MonkeyPatch) -> None:
    derived = []

    def counted(*args: Any) -> bytes:
        derived.append(args)
        return derive_index_key(*args)

    monkeypatch.setattr(blindindex, "derive_index_key", counted)
    for _ in range(3):
        for salt in ("1", "2"):
            indexer.index(b"x", scope="tenant", context="a", salt=salt)
        indexer.index(b"x", scope="global", context="a")
    assert len(derived) == 3


def test_its_repr_tells_nothing(indexer: Indexer) -> None:
    indexer.index(b"x", scope="global", context="a")
    assert repr(indexer) == "<Indexer of 2>"
    with pytest.raises(TypeError):
        pickle.dumps(indexer)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_the_letters_are_those_of_base64url_without_padding(before: int) -> None:
    for last in range(256):
        data = bytes(before) + bytes([last])
        letters = base64.urlsafe_b64encode(data).decode().rstrip("=")
        assert base64url.encode(data) == letters
