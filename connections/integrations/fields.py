"""The fields of a service: what is not secret (``config``) and what is (``credentials``).

A field's ``clean`` turns what somebody entered into what is stored, or raises ``ValueError`` with
a message for them. The message never repeats the value.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from connections.outgoing import RefusedDestinationError, check_url

LONGEST_TEXT: Final = 2000
MOST_NAMES: Final = 100
METRIC_NAME: Final = re.compile(r"[a-z][a-z0-9_.]{0,59}")
#: How secrets begin that people paste into the wrong field.
SECRET_SHAPES: Final = re.compile(
    r"\b(?:sk|rk|pk|whsec)_(?:live|test)_\w{8}"  # Stripe
    r"|\bgh[pousr]_\w{16}|\bgithub_pat_\w{16}"  # GitHub
    r"|\bpp_(?:live|test)_\w{8}"  # our own API keys
    r"|\bsk-(?:ant-|proj-)?[\w-]{20}"  # OpenAI, Anthropic
    r"|\bxox[abeoprs]-[\w-]{8}|\bglpat-[\w-]{16}|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{30}"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\."  # a JSON Web Token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\bv2:[0-9a-f]{8}:"  # a token of our own
    r"|(?i:\b(?:bearer|basic)\s+[\w+/=.-]{16})"
    r"|://[^/?#\s]*@"  # user:password@host
)


class SecretShapedError(ValueError):
    """A value that is not kept secret looks like a secret."""

    def __init__(self) -> None:
        super().__init__(
            "This looks like a secret, and this field is not kept secret. Enter it as a credential."
        )


def text(value: Any) -> str:
    """A line of text without spaces around it."""
    if not isinstance(value, str):
        raise ValueError("Enter a text.")
    stripped = value.strip()
    if not stripped:
        raise ValueError("Enter a value.")
    if len(stripped) > LONGEST_TEXT or not stripped.isprintable():
        raise ValueError(f"Enter one line of at most {LONGEST_TEXT} characters.")
    refuse_secrets(stripped)
    return stripped


def refuse_secrets(value: str) -> None:
    """Refuse what looks like a secret.

    Raises:
        SecretShapedError: it does.
    """
    if SECRET_SHAPES.search(value):
        raise SecretShapedError


def url(value: Any) -> str:
    """An http(s) URL without a slash at its end."""
    address = text(value)
    try:
        parts = check_url(address)
    except RefusedDestinationError as error:
        raise ValueError(str(error)) from None
    if parts.query or parts.fragment:
        raise ValueError("Enter the URL without a query and without a fragment.")
    return address.rstrip("/")


def names(value: Any) -> list[str]:
    """A list of names; each is kept once, in order."""
    if not isinstance(value, list):
        raise ValueError("Enter a list of names.")
    found = list(dict.fromkeys(text(name) for name in value))
    if len(found) > MOST_NAMES:
        raise ValueError(f"Enter at most {MOST_NAMES} names.")
    return found


def split_names(value: str) -> list[str]:
    """The names in a line that has commas or spaces between them."""
    return [name for name in re.split(r"[,\s]+", value) if name]


def named_texts(value: Any) -> dict[str, str]:
    """A mapping of names to texts."""
    if not isinstance(value, Mapping) or len(value) > MOST_NAMES:
        raise ValueError(f"Enter up to {MOST_NAMES} names, each with a text.")
    if not all(isinstance(name, str) and METRIC_NAME.fullmatch(name) for name in value):
        raise ValueError(
            "A name is lower-case letters, digits, _ and dots, and starts with a letter."
        )
    return {name: text(content) for name, content in value.items()}


def split_named_texts(value: str) -> dict[str, str]:
    """The mapping that lines of ``name = text`` make."""
    pairs = [line.partition("=") for line in value.splitlines() if line.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError("Enter lines of: name = text.")
    return {name.strip(): content for name, _, content in pairs}


LINE: Final = {"type": "string", "minLength": 1, "maxLength": LONGEST_TEXT, "pattern": r"^[!-~]+$"}
URL: Final = {"type": "string", "format": "uri", "pattern": r"^https?://[a-z0-9]+(\.[a-z0-9]+)*/?$"}
NAMES: Final = {"type": "array", "items": LINE, "maxItems": MOST_NAMES}
NAMED_TEXTS: Final = {
    "type": "object",
    "additionalProperties": LINE,
    "propertyNames": {"pattern": f"^{METRIC_NAME.pattern}$"},
    "maxProperties": MOST_NAMES,
}


@dataclass(frozen=True)
class ConfigField:
    """A setting of a connection that everybody who may read the connection sees.

    Args:
        name: its key in ``config``.
        label, help_text: for people.
        clean: turns a JSON value into what is stored.
        from_text: turns what is typed into a form into such a JSON value.
        schema: of the JSON value, in OpenAPI 3.1; it says what is meant, and ``clean`` decides.
        required: whether a connection has to have it.
        default: what stands in for it where it is missing; not stored.
        destination: whether it says where the credentials are sent.
        legacy: its key among the credentials of the product that data is moved over from.
    """

    name: str
    label: str
    clean: Callable[[Any], Any] = text
    from_text: Callable[[str], Any] = str
    schema: Mapping[str, Any] = field(default_factory=lambda: LINE)
    help_text: str = ""
    required: bool = False
    default: Any = None
    destination: bool = False
    legacy: str = ""


@dataclass(frozen=True)
class CredentialField:
    """A part of the credentials: encrypted, written and never shown.

    Args:
        name: its key in ``credentials``.
        label, help_text: for people.
        required: whether a connection has to have it to be used.
        ascii_only: whether it travels in a header, which takes no other characters.
        legacy: its key in the product that data is moved over from.
    """

    name: str
    label: str
    help_text: str = ""
    required: bool = False
    ascii_only: bool = True
    legacy: str = ""

    def problem(self, value: str) -> str | None:
        """Say what is wrong with a new value, without repeating it; ``None`` if nothing is."""
        if self.ascii_only and not re.fullmatch(r"[!-~]+", value):
            return "It has a space, a line break or a character that no such credential has."
        return None
