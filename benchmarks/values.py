"""Single values: `encrypt` and `decrypt` against the least that a text form costs."""

from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks import original
from benchmarks.timing import Timing, interleaved, repeated
from encryption import decrypt, encrypt

SIZES = (20, 300, 10_000)


def measure(operations: int, repetitions: int) -> dict[str, dict[str, Timing]]:
    """Time both directions for each size, in characters of ASCII.

    The baseline has its key ready and no tenant, format, context or commitment: 12 bytes of
    urandom, AES-256-GCM, base64. "original" derives its key for each value.
    """
    ready = AESGCM(bytes(range(32)))
    figures = {}
    for size in SIZES:
        text = "x" * size
        least, token = original.encrypt(text, ready), encrypt(text, 1)
        theirs = original.encrypt(text, original.cached_cipher("1"))
        figures[f"encrypt {size} B"] = _timed(
            {
                "least": lambda text=text: original.encrypt(text, ready),
                "dashtray": lambda text=text: encrypt(text, 1),
                "original, key cached": lambda text=text: original.encrypt(
                    text, original.cached_cipher("1")
                ),
                "original": lambda text=text: original.encrypt(text, original.cipher("1")),
            },
            operations,
            repetitions,
        )
        figures[f"decrypt {size} B"] = _timed(
            {
                "least": lambda least=least: original.decrypt(least, ready),
                "dashtray": lambda token=token: decrypt(token, 1),
                "original, key cached": lambda theirs=theirs: original.decrypt(
                    theirs, original.cached_cipher("1")
                ),
                "original": lambda theirs=theirs: original.decrypt(theirs, original.cipher("1")),
            },
            operations,
            repetitions,
        )
        in_node = original.in_node(size) or {}
        for direction, microseconds in in_node.items():
            timings = figures[f"{direction} {size} B"]
            ratio = microseconds / timings["least"].microseconds
            timings["original, in Node"] = Timing(microseconds, ratio)
    return figures


def _timed(
    functions: dict[str, Callable[[], object]], operations: int, repetitions: int
) -> dict[str, Timing]:
    slow = functions.pop("original")
    figures = interleaved(
        {name: repeated(function, operations) for name, function in functions.items()},
        operations,
        repetitions,
    )
    slow_time = interleaved({"original": repeated(slow, 3)}, 3, 3)["original"].microseconds
    figures["original"] = Timing(slow_time, slow_time / figures["least"].microseconds)
    return figures
