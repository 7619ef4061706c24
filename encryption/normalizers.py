"""How values are made alike before a blind index is computed: by name, dotted path or function.

A function takes the value and returns the one to index, or ``None`` where there is nothing to
find. The named ones change texts only; other JSON values pass as they are.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final
from unicodedata import normalize as unicode_normalize

from django.utils.module_loading import import_string

Normalizer = Callable[[Any], Any]


def strip(value: Any) -> Any:
    """Without white space at either end."""
    return value.strip() if isinstance(value, str) else value


def nfc(value: Any) -> Any:
    """Unicode normalisation form C: "é" is one text, however it was typed."""
    return unicode_normalize("NFC", value) if isinstance(value, str) else value


def casefold(value: Any) -> Any:
    """Upper and lower case are alike: a "canonical caseless match" (Unicode Standard, 3.13)."""
    if not isinstance(value, str):
        return value
    return unicode_normalize("NFC", unicode_normalize("NFD", value).casefold())


NAMED: Final[Mapping[str, Normalizer]] = {"strip": strip, "nfc": nfc, "casefold": casefold}


def find(normalize: str | Normalizer) -> Normalizer:
    """Return the function that a name, a dotted path or a function itself stands for.

    Raises:
        ImportError: the name is unknown, or nothing can be imported from the path.
    """
    if not isinstance(normalize, str):
        return normalize
    if normalize in NAMED:
        return NAMED[normalize]
    found: Normalizer = import_string(normalize)
    return found


def message_of(value: Any) -> bytes:
    """Return the bytes of a value that are digested; different values have different bytes.

    ::

        text:              utf8(text)
        other JSON value:  FF, a byte that UTF-8 never has, then compact JSON with sorted keys

    Raises:
        ValueError: a text holds a lone surrogate.
        TypeError: it is no JSON value.
    """
    if isinstance(value, str):
        return _utf8(value)
    options: dict[str, Any] = {"sort_keys": True, "allow_nan": False}
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), **options)
    return b"\xff" + _utf8(text)


def _utf8(text: str) -> bytes:
    try:
        return str.encode(text, "utf-8")
    except UnicodeEncodeError:
        pass
    # Out here, where no context carries the text along.
    del text
    raise ValueError("the text holds a lone surrogate, which UTF-8 cannot say")
