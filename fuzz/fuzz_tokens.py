"""Feed a keyring whatever a column may hold: it gives the exact plaintext or a DecryptionError.

One input drives one of several shapes: any text, a payload under a real prefix, a payload under
the tenant's own commitment, a real token with some bytes changed, and a real token left alone.
After each, the parsers' own promise is checked too: what they take is exactly what rebuilding
their parts gives. Anything else ends the run with the input that did it.

Run with Python 3.11 to 3.13 in an environment with `atheris` and this package:

    python fuzz/fuzz_tokens.py -runs=1000000
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["encryption.core"]):
    from encryption.core import tokens
    from encryption.core.derivation import MasterKey
    from encryption.core.errors import DecryptionError
    from encryption.core.keyring import Keyring

SALT, CONTEXT, BOUND_TO = "tenant", "app.model.field", ["row", None]
RING = Keyring(
    MasterKey("a master key for fuzzing, which protects nothing"),
    [MasterKey("another master key for fuzzing, which protects nothing")],
)
V1_RING = Keyring(RING.primary, write_format="v1")
COMMITMENT = RING.primary.tenant_key(SALT).commitment

#: What every accepted token must give; more than one, so that a mixed-up value would show.
WRITTEN: dict[str, str] = {}
for _plaintext in ("", "x", "a text", "v2:00000000:", "é🔐" * 20):
    for _ring in (RING, V1_RING):
        WRITTEN[_ring.encrypt(_plaintext, SALT, CONTEXT, BOUND_TO)] = _plaintext
TOKENS = sorted(WRITTEN)


def edited(token: str, data: atheris.FuzzedDataProvider) -> str:
    """Return the token with a few characters replaced, left out or put in."""
    letters = list(token)
    for _ in range(data.ConsumeIntInRange(1, 3)):
        place = data.ConsumeIntInRange(0, len(letters))
        new = data.ConsumeUnicode(data.ConsumeIntInRange(0, 2))
        letters[place : place + data.ConsumeIntInRange(0, 2)] = new
    return "".join(letters)


def made_up(data: atheris.FuzzedDataProvider) -> str:  # noqa: PLR0911
    """Return the text to decrypt that this input stands for."""
    match data.ConsumeIntInRange(0, 6):
        case 0:
            return data.ConsumeUnicode(sys.maxsize)
        case 1:
            return RING.primary.prefix + data.ConsumeUnicode(sys.maxsize)
        case 2:
            payload = data.ConsumeBytes(sys.maxsize)
            return tokens.build_v1(payload[:12], payload[12:])
        case 3:
            return tokens.build_v2(RING.primary.prefix, data.ConsumeBytes(sys.maxsize))
        case 4:
            payload = COMMITMENT + data.ConsumeBytes(sys.maxsize)
            return tokens.build_v2(RING.primary.prefix, payload)
        case 5:
            return edited(data.PickValueInList(TOKENS), data)
        case _:
            return str(data.PickValueInList(TOKENS))


def check_parsers(text: str) -> None:
    """Whatever a parser takes is exactly what its parts give."""
    try:
        version = tokens.format_of(text)
        if version == tokens.V2:
            prefix = tokens.v2_prefix(tokens.key_id_of(text) or "")
            rebuilt = tokens.build_v2(prefix, tokens.parse_v2(text))
        else:
            rebuilt = tokens.build_v1(*tokens.parse_v1(text))
    except DecryptionError:
        return
    if rebuilt != text:
        raise AssertionError("a parser took a text that is not canonical")


def one_input(source: bytes) -> None:
    text = made_up(atheris.FuzzedDataProvider(source))
    check_parsers(text)
    try:
        plaintext = RING.decrypt(text, SALT, CONTEXT, BOUND_TO)
    except DecryptionError:
        if text in WRITTEN:
            raise AssertionError("a token that was written was refused") from None
    else:
        if WRITTEN.get(text) != plaintext:
            raise AssertionError("a text that was not written was decrypted")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
