"""An instance that was made of one of another class of its multi-table inheritance.

To make a child of a parent's row, people write ``child.__dict__.update(parent.__dict__)``. Then
Django's state of the parent's instance is the child's too, with the source values that the row was
loaded with, in the order of the parent's layout; and so are the parent's ciphertexts.

What is of another layout is known by its length. Where both are equally long it is not seen, and
need not be: the sources of a parent's secrets come first in both. (Those of a second parent may
not. Its secrets then cannot be decrypted, and nothing is written.)
"""

from collections.abc import Iterator
from copy import copy

from django.db import models

from encryption.binding import Layout, Partial, Values
from encryption.core.errors import EncryptionError


def is_strange(layout: Layout, instance: models.Model) -> bool:
    """Say whether what the instance remembers is laid out for another class."""
    under = instance._state.__dict__.get("encrypted_under")
    return under is not None and len(under) != len(layout.attnames)


def adopt(layout: Layout, instance: models.Model) -> None:
    """Give an instance a state and ciphertexts of its own, laid out for its class.

    The other instance keeps its own and goes on being used.

    Raises:
        EncryptionError: it is not known which class that was.
    """
    known: Values = instance._state.__dict__["encrypted_under"]
    places = {
        tuple(map(one.place_of.get, layout.attnames))
        for one in _layouts_beside(layout.model)
        if len(one.attnames) == len(known)
    }
    if len(places) != 1:
        raise EncryptionError(
            f"This {layout.model._meta.label} was given the __dict__ of an instance of another "
            "class, and what its secrets are encrypted under cannot be told from that. Nothing was "
            "written. Make it with the values and the secrets themselves."
        )
    (theirs,) = places
    now = layout.current(instance)

    def translated(values: Values) -> Values:
        if len(values) != len(known):
            return values
        pairs = zip(theirs, now, strict=True)
        return Partial.of([mine if at is None else values[at] for at, mine in pairs])

    state = copy(instance._state)
    state.fields_cache = {**instance._state.fields_cache}
    state.encrypted_under = translated(known)  # type: ignore[attr-defined]
    instance._state = state
    for field in layout.fields:
        secret = instance.__dict__.get(field.attname)
        if secret is not None:
            instance.__dict__[field.attname] = secret.adopted(translated)


def _layouts_beside(model: type[models.Model]) -> Iterator[Layout]:
    """The layouts of a class's children and parents."""
    relatives = [model]
    for one in relatives:
        relatives += one.__subclasses__()
    for one in (*relatives[1:], *model._meta.all_parents):
        layout = one.__dict__.get("_encryption_layout")
        if layout is not None:
            yield layout
