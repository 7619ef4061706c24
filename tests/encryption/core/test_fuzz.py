"""The fuzz targets of `fuzz/`, without the fuzzer: the saved inputs, and as many new ones."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from encryption.core import base64url, tokens
from fuzz import decryption, mutations, parsers, reference

CORPUS = Path(mutations.__file__).parent / "corpus"
TOKENS = [subject.token for subject in decryption.SUBJECTS]

#: How many mutated inputs each target gets here. FUZZ_INPUTS raises it.
INPUTS = int(os.environ.get("FUZZ_INPUTS", "10000"))


@pytest.mark.parametrize("target", [parsers, decryption], ids=["parsers", "decryption"])
def test_saved_inputs(target: object) -> None:
    name = target.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    saved = sorted((CORPUS / name).iterdir())
    assert len(saved) > 10
    for file in saved:
        target.one_input(file.read_bytes())  # type: ignore[attr-defined]


def test_the_second_parser_takes_every_vector() -> None:
    for subject in decryption.SUBJECTS:
        parsed = reference.parse(subject.token)
        assert parsed is not None
        assert parsed.version == subject.version
        assert reference.written(parsed) == subject.token


def some_bytes(random: Random) -> Callable[[bytes], bytes]:
    def mutate(data: bytes) -> bytes:
        place, count = random.randrange(len(data) + 1), random.randrange(5)
        return data[:place] + random.randbytes(count) + data[place + random.randrange(5) :]

    return mutate


def new_texts(seed: int) -> list[str]:
    random = Random(seed)
    found: list[str] = []
    for _ in range(INPUTS):
        text = random.choice([*TOKENS, *found[-50:]])
        found.append(mutations.mutated(text, TOKENS, random, some_bytes(random)))
    return found


def test_the_parsers_take_tokens_and_nothing_else() -> None:
    taken = 0
    for text in new_texts(1):
        parsers.check(text)
        taken += reference.parse(text) is not None
    assert INPUTS / 10 < taken < INPUTS  # most mutations get past the base64


def test_decryption_gives_the_plaintext_or_the_right_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decryption, "OUTCOMES", Counter())
    random = Random(2)
    for text in new_texts(2):
        owner = next((one for one in decryption.SUBJECTS if one.token == text), None)
        decryption.check(owner or random.choice(decryption.SUBJECTS), text)
    # Each way out was taken often, so the inputs do get as far as the cipher.
    assert set(decryption.OUTCOMES) == {
        "plaintext",
        "UnknownKeyError",
        "WrongKeyError",
        "TamperedError",
        "MalformedTokenError",
        "UnsupportedFormatError",
    }
    assert min(decryption.OUTCOMES.values()) >= INPUTS / 1000


def test_whatever_was_encrypted_comes_back() -> None:
    random = Random(3)
    for subject in decryption.SUBJECTS:
        for _ in range(20):
            decryption.check_sealed(subject, random.randbytes(random.randrange(4)))
            decryption.check_sealed(subject, subject.plaintext.encode())


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (base64url, "_ENDS", ("", "", *[base64url.ALPHABET.decode()] * 2)),
        (tokens, "_V2_MINIMUM", 28),
        (tokens, "_FROM_URL", bytes.maketrans(b"-_", b"+/")),
    ],
    ids=["ends", "minimum", "alphabet"],
)
def test_the_targets_notice_a_parser_that_is_less_strict(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, value: object
) -> None:
    monkeypatch.setattr(module, name, value)
    with pytest.raises(AssertionError):
        list(map(parsers.check, new_texts(4)))


def test_the_targets_notice_a_value_of_another_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "part", lambda text: b"")
    monkeypatch.setattr("encryption.core.keyring.part", lambda text: b"")
    bound = next(one for one in decryption.SUBJECTS if one.bound_to)
    with pytest.raises(AssertionError):
        decryption.check(bound, bound.token)
