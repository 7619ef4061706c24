"""Raw saves, as ``loaddata`` makes them: a fixture holds tokens, and they go in byte for byte.

Django calls ``Model.save_base(instance, raw=True)`` for them, past whatever a class has in its
place. ``_save_table`` is the first method of the class itself that such a save comes to, and the
only one that tells a fixture's text from one that somebody assigned.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from django.db import models

from encryption.binding import layout_of, remember_under
from encryption.core import tokens
from encryption.core.errors import DecryptionError, MalformedTokenError
from encryption.descriptors import Ciphertext, RawCiphertext
from encryption.families import concrete
from encryption.guards import vouching
from encryption.indexes import Index, note_loaded

if TYPE_CHECKING:
    from encryption.fields import EncryptedField


@contextmanager
def tokens_as_such(instance: models.Model, cls: type[models.Model] | None = None) -> Iterator[None]:
    """Have an instance that is being saved raw give its tokens for its secrets.

    Args:
        cls: whose table is written; ``None`` for all. The parents' are not, and what the instance
            holds for them (often a default) is no concern of this save.
    """
    layout, table = layout_of(instance), None if cls is None else concrete(cls)
    fields = [field for field in layout.fields if table in (None, field.model)]
    for index in layout.indexes:
        if table not in (None, index.model):
            continue
        value = instance.__dict__.get(index.attname)
        if value is not None and type(value) is not Index:
            raise MalformedTokenError(
                f"{index.label}: a fixture holds the index that dumpdata wrote, and this is none. "
                "Nothing was written. Leave it out, and rotate_master_key computes it."
            )
    under = layout.current(instance)
    for field in fields:
        secret = instance.__dict__.get(field.attname)
        if secret is not None:
            token = _token_of_fixture(field, secret) if secret._token is None else secret._token
            raw_secret = RawCiphertext(token, field)
            raw_secret._sources = under
            instance.__dict__[field.attname] = raw_secret
    remember_under(instance, under)
    try:
        # The tables of a fixture's row are written one by one.
        with vouching() if layout.spans_tables else nullcontext():
            yield
    finally:
        for field in fields:
            secret = instance.__dict__.get(field.attname)
            if secret is not None:
                instance.__dict__[field.attname] = secret.__copy__()
        if layout.indexes:
            note_loaded(layout.indexes, instance)


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
