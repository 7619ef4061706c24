"""A row out of the database becomes an instance.

``Model.__init__`` takes positional and keyword arguments, deferred fields, defaults and related
objects. A whole row has none of that but one value for each column, and what is done with those
comes to: put them into the instance. Done at once it takes a third of the time, which more than
pays for what an encrypted field adds to a row that nobody reads.

A class that makes its instances in a way of its own, or that somebody listens to, goes by
``__init__`` as ever.

``select_related()`` from a parent to its child makes two instances of the columns that both have,
and each gets ciphertexts of its own (:func:`install`).
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from django.db import models
from django.db.models.base import ModelState
from django.db.models.fields.related_descriptors import ForeignKeyDeferredAttribute
from django.db.models.query import RelatedPopulator
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


# -- a parent and its child of one row --------------------------------------------------------


def install() -> None:
    """Give a child that ``select_related()`` loads with its parent ciphertexts of its own.

    An instance notes in a ciphertext what it read, and under which of its columns. Rows that are
    loaded in any other way share none, and nothing is done for them. Calling it again changes
    nothing.
    """
    original: Any = RelatedPopulator.__init__
    if not hasattr(original, "_encryption_wrapper"):
        wrapped: Any = _unsharing(original)
        wrapped._encryption_wrapper = True
        RelatedPopulator.__init__ = wrapped  # type: ignore[method-assign]


def _unsharing(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        if self.reorder_for_init is not None:  # from a parent to its child
            names = _inherited_secrets(self.model_cls)
            places = [place for place, name in enumerate(self.init_list) if name in names]
            if places:
                self.reorder_for_init = _with_own(self.reorder_for_init, places)

    return __init__


def _inherited_secrets(cls: type[models.Model]) -> set[str]:
    layout: Layout | None = getattr(cls, "_encryption_layout", None)
    fields = () if layout is None else layout.fields
    return {field.attname for field in fields if field.model is not cls._meta.concrete_model}


def _with_own(pick: Callable[[Any], Sequence[Any]], places: Sequence[int]) -> Callable[[Any], Any]:
    """Pick the columns of a row, with copies of the ciphertexts in these places."""

    def pick_own(row: Any) -> Sequence[Any]:
        values = list(pick(row))
        for place in places:
            secret = values[place]
            if isinstance(secret, Ciphertext):
                values[place] = secret.detached()
        return values

    return pick_own
