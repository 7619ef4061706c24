"""A row out of the database becomes an instance.

``Model.__init__`` takes positional and keyword arguments, deferred fields, defaults and related
objects. A whole row has none of that but one value for each column, and what is done with those
comes to: put them into the instance. Done at once it takes a third of the time, which more than
pays for what an encrypted field adds to a row that nobody reads.

A class that makes its instances in a way of its own, or that somebody listens to, goes by
``__init__`` as ever.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from django.db import models
from django.db.models.base import ModelState
from django.db.models.fields.related_descriptors import ForeignKeyDeferredAttribute
from django.db.models.signals import post_init, pre_init

from encryption.descriptors import Ciphertext, EncryptedAttribute
from encryption.indexes import Index, IndexAttribute

if TYPE_CHECKING:
    from encryption.binding import Layout

_MODEL_INIT: Final = models.Model.__init__

#: The names of a class's columns, none if it goes by ``__init__``; and the places of those whose
#: attribute stores one type as it is and does something else with any other.
Filling = tuple[tuple[str, ...], tuple[tuple[int, type], ...]]

#: Attributes that have a say in what is set, and the type that they store as it is. That of a
#: foreign key only forgets the related object, and a new instance has none.
_SETTERS: Final[dict[type, type | None]] = {
    EncryptedAttribute: Ciphertext,
    IndexAttribute: Index,
    ForeignKeyDeferredAttribute: None,
}


def instance_of(cls: Any, layout: "Layout", values: Sequence[Any]) -> Any:
    """Make an instance of a whole row, as ``cls(*values)`` would.

    Args:
        values: one for each concrete field, in their order.
    """
    filling = layout.filling
    if filling is None:
        filling = layout.filling = filling_of(cls)
    names, typed = filling
    if (
        not names
        or cls.__init__ is not _MODEL_INIT
        or ((pre_init.receivers or post_init.receivers) and _is_heard(cls))
    ):
        return cls(*values)
    for place, kind in typed:
        value = values[place]
        if type(value) is not kind and value is not None:
            return cls(*values)
    instance = object.__new__(cls)
    instance._state = ModelState()
    instance.__dict__.update(zip(names, values))  # noqa: B905  # as many: who calls has counted
    return instance


def filling_of(cls: type[models.Model]) -> Filling:
    """Work out how a class's rows are put into instances, once for each class."""
    # Behind Model in the order of resolution may stand a mixin, and Model.__init__ calls its.
    if (
        cls.__new__ is not object.__new__
        or cls.__setattr__ is not object.__setattr__
        or super(models.Model, cls).__init__ is not object.__init__
    ):
        return (), ()
    names = [field.attname for field in cls._meta.concrete_fields]
    typed = []
    for place, name in enumerate(names):
        kind = type(_class_attribute(cls, name))
        if kind in _SETTERS:
            stored = _SETTERS[kind]
            if stored is not None:
                typed.append((place, stored))
        elif hasattr(kind, "__set__"):
            return (), ()
    return tuple(names), tuple(typed)


def _class_attribute(cls: type[models.Model], name: str) -> Any:
    return next((vars(one)[name] for one in cls.__mro__ if name in vars(one)), None)


def _is_heard(cls: type[models.Model]) -> bool:
    return pre_init.has_listeners(cls) or post_init.has_listeners(cls)
