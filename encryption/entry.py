"""What a secret that somebody sends may be: one set of rules for forms and for REST.

Nothing here returns or raises a part of what was sent. A rule that is broken is told by its code,
a key of :data:`MESSAGES`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from django.utils.translation import gettext_lazy as _

from encryption.redaction import REDACTED

#: The most bytes of UTF-8 that a secret has. Larger than any key or certificate chain.
MAX_BYTES: Final = 64 * 1024

#: What the admin shows in place of a secret.
SET: Final = _("set")
NOT_SET: Final = _("not set")
#: What a form shows beside the empty input of one that is set.
KEEP: Final = _("A value is set. Leave this empty to keep it.")

MESSAGES: Final[Mapping[str, Any]] = {
    "null_character": _("Null characters are not allowed."),
    "surrogate": _("The value holds half of a character (a lone surrogate)."),
    "too_long": _("The value is longer than 64 KiB."),
    "mask": _(
        "This is what is shown in place of a secret, not a secret. Send the secret itself, or "
        "nothing at all to keep the one that is stored."
    ),
    "invalid_json": _("Enter a valid JSON value, without repeated keys, NaN or infinities."),
    "json_null": _("JSON null is not a value."),
    # In place of a validator's message that holds the value.
    "echo": _("Enter a valid value."),
}

_MASK_CHARACTERS = "*\u2022\u25cf\u2217\u00b7"  # asterisks, bullets, dots
_MASK: Final = re.compile(
    rf"""
    [{_MASK_CHARACTERS}]{{3,}}          # nothing but a mask
    | \S*[{_MASK_CHARACTERS}]{{4,}}\S*  # a mask with the ends of a secret around it
    | \S*{re.escape(REDACTED)}\S*       # of a log line
    """,
    re.VERBOSE,
)
_REPR: Final = re.compile(r"<Ciphertext( [0-9a-f]{8}| v1)?>")
# What REST and Python show of a secret, copied as text.
_PRESENCE: Final = re.compile(r"""\{\s*["']set["']\s*:\s*(true|false|null|none)\s*\}""")
_BRACKETED: Final = re.compile(r"\((.*)\)|\[(.*)\]|<(.*)>", re.DOTALL)
# A mask stands in for one word. A long text with a line of asterisks in it is a text.
_LONGEST_MASK = 256


def is_mask(text: str) -> bool:
    """Say whether a text is one that is displayed where a secret is not."""
    text = text.strip()
    if len(text) > _LONGEST_MASK:
        return False
    return _MASK.fullmatch(text) is not None or is_repr(text)


def is_repr(text: str) -> bool:
    """Say whether a text is the repr of a ciphertext: what a form field that does not know of
    secrets would display, and get back."""
    return _REPR.fullmatch(text) is not None


def text_problem(text: str) -> str | None:
    """Return the code of the rule that a text breaks, or ``None``."""
    return _encoding_problem(text) or ("mask" if is_mask(text) or _is_state(text) else None)


def _is_state(text: str) -> bool:
    """Say whether a text is one that tells whether there is a secret, however it is set off."""
    if len(text) > _LONGEST_MASK:
        return False
    text = text.strip().casefold()
    if _PRESENCE.fullmatch(text):
        return True
    if inside := _BRACKETED.fullmatch(text):
        text = (inside[1] or inside[2] or inside[3] or "").strip()
    keep = str(KEEP).casefold()
    states = {str(SET).casefold(), str(NOT_SET).casefold(), keep, keep.partition(".")[0]}
    return text.removesuffix(".") in states or text in states


def _encoding_problem(text: str) -> str | None:
    # Counted in characters first: a text of a gigabyte is not encoded to be refused.
    if len(text) > MAX_BYTES:
        return "too_long"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "surrogate"
    if size > MAX_BYTES:
        return "too_long"
    return "null_character" if "\0" in text else None


def json_problem(value: Any, encoder: type[json.JSONEncoder] | None = None) -> str | None:
    """Return the code of the rule that a JSON value, or any text in it, breaks, or ``None``."""
    try:
        text = json.dumps(value, cls=encoder, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return "invalid_json"
    if value is None:
        return "json_null"
    # The keys as they will be written, whatever they are in the value; lone surrogates too.
    problem = _encoding_problem(text)
    if problem is None and any(map(_is_shown, _parts(value))):
        problem = "mask"
    if problem is None and any("\0" in part for part in _parts(value) if isinstance(part, str)):
        problem = "null_character"
    return problem


def parse_json(text: str, decoder: type[json.JSONDecoder] | None = None) -> tuple[Any, str | None]:
    """Parse a JSON text strictly.

    Returns:
        The value and ``None``, or ``None`` and the code of the rule that the text breaks.
    """
    if len(text) > MAX_BYTES:
        return None, "too_long"
    try:
        value = loads_strictly(text)
        if decoder is not None:
            value = json.loads(text, cls=decoder)
    except (ValueError, RecursionError):
        return None, "invalid_json"
    return value, None


def loads_strictly(text: str) -> Any:
    """Parse a JSON text in which no key stands twice, and no NaN or infinity.

    Raises:
        ValueError: it is none; the error may hold the text.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError  # which of two values is meant is anybody's guess
    return found


def _refuse(constant: str) -> Any:
    raise ValueError


def _is_shown(part: Any) -> bool:
    if isinstance(part, str):
        return is_mask(part)
    # What a serializer field gives for a secret.
    return part.keys() == {"set"} and isinstance(part["set"], bool)


def _parts(value: Any) -> Iterator[Any]:
    """Every text, keys included, and every object inside a JSON value."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping):
            yield part
            waiting.extend(map(str, part))
            waiting.extend(part.values())
        elif isinstance(part, (list, tuple)):
            waiting.extend(part)


def echoes(message: object, value: Any) -> bool:
    """Say whether a message holds the value that it is about, or a text inside that value."""
    told = str(message)
    texts = _parts(value) if isinstance(value, (str, Mapping, list, tuple)) else (str(value),)
    return any(isinstance(text, str) and text and text in told for text in texts)
