"""Takes out of log lines what looks like a secret.

The last thing that happens to a line, so that it does not matter where in the record a secret was:
in the message, its arguments, the text of an exception or an extra field. In ``LOGGING``::

    "formatters": {
        "line": {
            "()": "encryption.redaction.RedactingFormatter",
            "format": "{asctime} {levelname} {name}: {message}",
            "style": "{",
        },
    }

It is a net below code that logs no secrets, and goes by shapes: a password of few characters that
nothing names as one looks like any other word. It rather takes too much than too little.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from math import isfinite
from typing import Any, Final

REDACTED: Final = "[redacted]"

#: Names, or parts of names, of what is never shown: ``HTTP_AUTHORIZATION``, ``api_key``, ...
_NAMES: Final = (
    r"(?:authorization|cookie|password|passwd|passphrase|secret|token|credential"
    r"|(?:api|master|access|private|encryption|session)[_-]?key|sessionid)"
)
_SECRET_NAME: Final = re.compile(_NAMES, re.IGNORECASE)
_OPEN: Final = r"(?P<open>\\{0,3}[\"'])"
#: The beginning of a word, also right after a line break that a repr has written as "\\n".
_START: Final = r"(?:\b|(?<=\\[nrt]))"
_SHORTEST_KNOWN: Final = 8

_Patterns = tuple[tuple[re.Pattern[str], str], ...]


def _compiled(*patterns: tuple[str, str]) -> _Patterns:
    return tuple((re.compile(pattern), left) for pattern, left in patterns)


#: Each pattern and what is left of a match. All are linear in the length of the text.
_TOKENS: Final = _compiled(
    # v2 tokens; the key id names a key and does not tell it
    (r"(v2:[0-9a-f]{8}:)[A-Za-z0-9_-]+", rf"\1{REDACTED}"),
    # JSON Web Tokens: two of their three parts begin with the "{" of an object
    (rf"{_START}(eyJ)[\w-]*\.eyJ[\w.-]*", rf"\1{REDACTED}"),
)
#: v1 tokens, and keys in base64: 28 bytes are 40 characters. The patterns after it look for words,
#: and such a text can hold any; what stayed beside a word could be too short to be known again.
_BASE64: Final = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/]{38,}={0,2}(?![A-Za-z0-9+/=_-])")
_BY_NAMES: Final = _compiled(
    # an address's user and password
    (r"(://)[^\s/@]{0,200}[^\s@]{0,500}@", rf"\1{REDACTED}@"),
    # what is named as a secret: in quotes (a JSON document in a string has them escaped), or
    # up to the next space or punctuation; a scheme such as "Bearer" belongs to the value
    (
        rf"(?i)({_NAMES}[\w-]{{0,40}}\\{{0,3}}[\"']?\s?[:=]\s?b?){_OPEN}"
        r"(?:(?!(?P=open)).)*",
        rf"\1\g<open>{REDACTED}",
    ),
    (
        rf"(?i)({_NAMES}[\w-]{{0,40}}\\{{0,3}}[\"']?\s?[:=]\s?)"
        r"(?![\\\"'\s]|b[\"'])(?:(?:bearer|basic|token|digest)\s)?"
        rf"(?:{re.escape(REDACTED)}|[^\s\"',;&)}}\]])+",
        rf"\1{REDACTED}",
    ),
    (r"(?i)\b(bearer|basic)\s[A-Za-z0-9._~+/=-]{8,}", rf"\1 {REDACTED}"),
    (r"([?&](?:key|auth|sig|signature|code)=)[^&\s\"']+", rf"\1{REDACTED}"),
    # keys of projects, and of services that write theirs in the same way
    (rf"{_START}([a-z]{{2,6}}_(?:live|test)_)[A-Za-z0-9_]+", rf"\1{REDACTED}"),
)
#: The same in the other alphabet of base64, and keys with "=" or "_" in them.
_LONG: Final = re.compile(r"[A-Za-z0-9+/_=-]{40,}")
_BY_PREFIXES: Final = _compiled(
    # keys of services
    (
        rf"{_START}(sk-|whsec_|gh[opsur]_|github_pat_|glpat-|xox[a-z]-)[\w-]{{8,}}",
        rf"\1{REDACTED}",
    ),
    (rf"{_START}(AKIA|ASIA|AIza|eyJ)[\w.-]{{12,}}", rf"\1{REDACTED}"),
    # `openssl rand -hex 16` and longer, digests among them
    (r"(?i)[0-9a-f]{32,}", REDACTED),
)


def names_a_secret(name: str) -> bool:
    """Say whether a field of this name is not shown, whatever it holds."""
    return _SECRET_NAME.search(name) is not None


class Redactor:
    """Takes out what looks like a secret, and secrets that are known.

    Args:
        known: exact texts of at least 8 characters, such as the keys of this process.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        found = {text for text in known if len(text) >= _SHORTEST_KNOWN}
        # A secret may be a part of another one, so the longer is looked for first.
        longest_first = sorted(map(re.escape, found), key=len, reverse=True)
        self._known = re.compile("|".join(longest_first)) if found else None

    def __repr__(self) -> str:
        return "<Redactor>"

    def text(self, text: str) -> str:
        """Return the text without secrets."""
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        for patterns, long in ((_TOKENS, _BASE64), (_BY_NAMES, _LONG), (_BY_PREFIXES, None)):
            for pattern, left in patterns:
                text = pattern.sub(left, text)
            if long is not None:
                text = long.sub(_unless_of_one_case, text)
        return text

    def value(self, value: Any, name: str = "", depth: int = 4) -> Any:
        """Return something that JSON can say of a value, without secrets.

        Texts, finite numbers, and containers of them; of anything else the type alone, since no
        method of an unknown object should run in order to log it.
        """
        if names_a_secret(name):
            return REDACTED
        kind = type(value)
        if value is None or kind in (bool, int) or (kind is float and isfinite(value)):
            return value
        if isinstance(value, str):
            return self.text(value)
        if depth and isinstance(value, Mapping):
            return {
                self.text(str(key)): self.value(item, str(key), depth - 1)
                for key, item in islice(value.items(), 100)
            }
        if depth and kind in (list, tuple, set, frozenset):
            return [self.value(item, "", depth - 1) for item in islice(value, 100)]
        return f"<{kind.__qualname__}>"


def _unless_of_one_case(match: re.Match[str]) -> str:
    """Words and paths are of one case."""
    text = match.group()
    return text if text == text.lower() or text == text.upper() else REDACTED


class RedactingFormatter(logging.Formatter):
    """Formats as its parent does, and takes secrets out of the whole of it.

    Args:
        known: see :class:`Redactor`.
    """

    def __init__(self, *args: Any, known: Iterable[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.redactor = Redactor(known)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. The record stays as it is, for other handlers."""
        return self.redactor.text(super().format(record))
