"""Drive one target with atheris; what comes after its name goes to libFuzzer.

    python -m fuzz decryption -runs=1000000

It begins with the vectors of tests/data/ and the inputs in fuzz/corpus/, and keeps what reaches new
code in build/fuzz/. An input that fails is written to a file: mend the fault, give the file a name
in fuzz/corpus/, and the test suite runs it from then on.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import atheris

from fuzz import mutations

with atheris.instrument_imports(include=["encryption.core"]):
    from fuzz import decryption, parsers

CORPUS = Path(__file__).parent / "corpus"
KEPT = Path(__file__).parents[1] / "build" / "fuzz"
TOKENS = [one.token for one in decryption.SUBJECTS]
_LONGEST = 8192

#: Each target, and how many bytes of its input come before the token.
TARGETS = {"decryption": (decryption.one_input, 1), "parsers": (parsers.one_input, 0)}


def mutator(begin: int) -> object:
    """The custom mutator of inputs whose token begins at this byte."""

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.randrange(8) == 0 or len(data) <= begin:
            return bytes(atheris.Mutate(data, max_size))
        head, text = data[:begin], data[begin:].decode("utf-8", "surrogateescape")
        if begin and random.randrange(4) == 0:
            head = random.randbytes(begin)
        text = mutations.mutated(
            text, TOKENS, random, lambda part: bytes(atheris.Mutate(part, len(part) + 64))
        )
        return (head + text.encode("utf-8", "surrogateescape"))[:max_size]

    return mutate


def reporting(one_input: Callable[[bytes], None], options: Sequence[str]) -> object:
    """The target, which tells the outcomes after its last run: libFuzzer then ends the process."""
    runs = next((int(one[6:]) for one in options if one.startswith("-runs=")), -1)
    done = itertools.count(1)

    def counted(source: bytes) -> None:
        one_input(source)
        if next(done) == runs:
            told = [f"{name}: {count:,}" for name, count in decryption.OUTCOMES.most_common()]
            print(*told, sep="\n", flush=True)

    return counted


def main(name: str, *options: str) -> None:
    """Run a target until it fails or libFuzzer is done; never returns."""
    one_input, begin = TARGETS[name]
    kept = KEPT / name
    kept.mkdir(parents=True, exist_ok=True)
    for place, token in enumerate(TOKENS):
        (kept / f"vector-{place}").write_bytes(bytes([place])[:begin] + token.encode())
    command = [sys.argv[0], f"-max_len={_LONGEST}", *options, str(kept), str(CORPUS / name)]
    atheris.Setup(command, reporting(one_input, options), custom_mutator=mutator(begin))
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
