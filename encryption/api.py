"""Encryption of single values outside of a model: the original product's three functions."""

import hashlib
from collections.abc import Sequence
from uuid import UUID

from encryption.conf import get_keyring
from encryption.core.errors import MissingSaltError

Salt = str | int | UUID


def salt_text(salt: object) -> str:
    """Return a tenant's id as the text that keys are derived from.

    Raises:
        MissingSaltError: ``None`` or an empty text.
        TypeError: anything but a text, a whole number or a UUID (a model, say: give its id).
    """
    if type(salt) is int:  # the ordinary case
        return str(salt)
    if isinstance(salt, str):
        if salt:
            return str.__str__(salt)
    elif isinstance(salt, (int, UUID)) and not isinstance(salt, bool):
        return str(salt)
    elif salt is not None:
        raise TypeError(
            f"a salt is the id of a project or user: str, int or UUID, not {type(salt).__name__}"
        )
    raise MissingSaltError(
        "There is no salt, so there is no tenant whose key could be used. Save the project or "
        "user that owns the value first, and give its id."
    )


def encrypt(
    plaintext: str, salt: Salt, *, context: str = "", bound_to: Sequence[str | None] = ()
) -> str:
    """Encrypt a text for one tenant and return the token to store.

    Args:
        plaintext: any text; it is encoded as UTF-8.
        salt: the tenant's id.
        context: what the value is ("app_label.model_name.field_name"); authenticated, not secret.
        bound_to: further texts to authenticate, such as the row's id; ``None`` for a NULL.

    Raises:
        MissingSaltError: the salt is ``None`` or empty.
        TypeError: the plaintext is not a text, or the salt no id.
        ValueError: the plaintext holds a lone surrogate.
        ImproperlyConfigured: there is no usable master key.
    """
    try:
        if not isinstance(plaintext, str):
            raise TypeError(f"encrypt() takes a text, not {type(plaintext).__name__}")
        return get_keyring().encrypt(plaintext, salt_text(salt), context, bound_to)
    except BaseException:
        del plaintext  # a traceback page shows the locals of this frame
        raise


def decrypt(
    token: str, salt: Salt, *, context: str = "", bound_to: Sequence[str | None] = ()
) -> str:
    """Decrypt a token with the salt, context and ``bound_to`` that it was made with.

    Raises:
        DecryptionError: one of its subclasses says what is wrong; nothing is ever guessed.
        MissingSaltError: the salt is ``None`` or empty.
        TypeError: the token is not a text, or the salt no id.
        ImproperlyConfigured: there is no usable master key.
    """
    if not isinstance(token, str):
        raise TypeError(f"decrypt() takes a token as text, not {type(token).__name__}")
    return get_keyring().decrypt(token, salt_text(salt), context, bound_to)


def sha256_hex(data: str) -> str:
    """Return the SHA-256 (FIPS 180-4) of a text's UTF-8 as 64 hex digits.

    For values that are random already, such as API keys; never for passwords.
    """
    return hashlib.sha256(data.encode("utf-8")).hexdigest()
