"""New inputs out of old ones that still get past the parsers.

A fuzzer that changes the letters of a token hardly ever meets the base64 of anything. So most
inputs are made by taking a token apart, changing its bytes, and writing it down again.
"""

from collections.abc import Callable, Sequence
from random import Random

from fuzz import reference

#: Changes bytes in a way of its own; atheris brings one.
Mutate = Callable[[bytes], bytes]

_EDGES = (0, 12, 16, 27, 28, 43, 44)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=:v2 \n"


def mutated(text: str, others: Sequence[str], random: Random, mutate: Mutate) -> str:
    """Return another text: mostly a token whose bytes differ, now and then only its letters.

    Args:
        text: what to begin with, a token or not.
        others: tokens to take parts from.
        random: decides everything but what ``mutate`` does.
        mutate: changes some bytes.
    """
    parsed = reference.parse(text) or reference.parse(random.choice(others))
    donor = reference.parse(random.choice(others))
    if parsed is None or donor is None or random.randrange(4) == 0:
        return _edited(text, random)
    payload, edge = parsed.payload, random.choice(_EDGES)
    match random.randrange(8):
        case 0:  # one bit
            payload = _flipped(payload, random)
        case 1:
            payload = mutate(payload)
        case 2:  # all but the first field or fields
            payload = payload[:edge] + mutate(payload[edge:])
        case 3:  # the first field or fields of another token
            payload = donor.payload[:edge] + payload[edge:]
        case 4:  # cut or grown
            payload = payload[: random.randrange(len(payload))] + random.randbytes(edge // 4)
        case 5:  # of the other format, or under another key
            parsed = donor
        case 6:  # under a key that nobody has
            parsed = reference.Parsed("v2", f"{random.getrandbits(32):08x}", payload)
        case _:
            return random.choice(others)
    changed = reference.written(reference.Parsed(parsed.version, parsed.key_id, payload))
    return _edited(changed, random) if random.randrange(8) == 0 else changed


def _flipped(data: bytes, random: Random) -> bytes:
    place = random.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << random.randrange(8)]) + data[place + 1 :]


def _edited(text: str, random: Random) -> str:
    """Replace, leave out or put in some letters."""
    if random.randrange(8) == 0:  # another version
        return f"v{random.randrange(20)}:{text[random.choice((0, 3, 12)) :]}"
    letters = list(text)
    for _ in range(random.randrange(1, 4)):
        place = random.choice((0, random.randrange(len(letters) + 1), len(letters)))
        new = random.choice(("", random.choice(_LETTERS), chr(random.randrange(0x3000))))
        letters[place : place + random.randrange(3)] = new
    return "".join(letters)
