"""Raw saves, as ``loaddata`` makes them: a fixture holds tokens, and they go in byte for byte.

Django sends ``pre_save`` and ``post_save`` with ``raw=True`` around such a save; there is no other
place to tell a fixture's text from one that somebody assigned.
"""

from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models.signals import post_save, pre_save

from encryption.binding import layout_of
from encryption.core import tokens
from encryption.core.errors import DecryptionError, MalformedTokenError
from encryption.descriptors import Ciphertext, RawCiphertext
from encryption.guards import vouch_for_raw

if TYPE_CHECKING:
    from encryption.fields import EncryptedField


def listen_to(cls: type[models.Model]) -> None:
    """Have the raw saves of a class with encrypted fields take tokens for tokens."""
    pre_save.connect(_before, sender=cls, dispatch_uid=f"encryption:{id(cls)}")
    post_save.connect(_after, sender=cls, dispatch_uid=f"encryption:{id(cls)}")


def _before(sender: type[models.Model], instance: models.Model, raw: bool, **kwargs: Any) -> None:
    if not raw:
        return
    layout = layout_of(instance)
    if layout.spans_tables:
        vouch_for_raw(instance)
    under = layout.current(instance)
    for field in layout.fields:
        secret = instance.__dict__.get(field.attname)
        if secret is None:
            continue
        token = _token_of_fixture(field, secret) if secret._token is None else secret._token
        raw_secret = RawCiphertext(token, field)
        raw_secret._sources = under
        instance.__dict__[field.attname] = raw_secret
    instance._state.encrypted_under = under  # type: ignore[attr-defined]


def _token_of_fixture(field: "EncryptedField", secret: Ciphertext) -> str:
    if isinstance(secret._value, str):
        if field.allow_plaintext:
            return secret._value
        try:
            if tokens.format_of(secret._value) == tokens.V2:
                tokens.parse_v2(secret._value)
            else:
                tokens.parse_v1(secret._value)
        except DecryptionError:
            pass
        else:
            return secret._value
    raise MalformedTokenError(
        f"{field.label}: a fixture holds the ciphertext that dumpdata wrote, and this value is "
        "none. Nothing was written. Create rows with new secrets through the model instead."
    )


def _after(sender: type[models.Model], instance: models.Model, raw: bool, **kwargs: Any) -> None:
    if not raw:
        return
    vouch_for_raw(None)
    for field in layout_of(instance).fields:
        secret = instance.__dict__.get(field.attname)
        if secret is not None:
            instance.__dict__[field.attname] = secret.__copy__()
