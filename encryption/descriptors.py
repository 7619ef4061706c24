"""The attribute of an encrypted field: ciphertext until somebody reads it.

What stands in ``instance.__dict__`` is ``None`` or a :class:`Ciphertext`, never a plaintext.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from django.db import models
from django.db.models.query_utils import DeferredAttribute

from encryption import promotion
from encryption.api import Salt, salt_text
from encryption.binding import Partial, layout_of, layout_of_class, stored_row
from encryption.core import tokens

if TYPE_CHECKING:
    from encryption.binding import Values
    from encryption.fields import EncryptedField


class _Unread:
    def __repr__(self) -> str:
        return "<unread>"


UNREAD: Final = _Unread()


class Ciphertext:
    """One encrypted value: what ``values()`` gives, and what an instance holds.

    Opaque: its repr and text tell nothing but the format and key id. A copy or pickle carries the
    token and never a plaintext.
    """

    __slots__ = ("_field", "_sources", "_text", "_token", "_value")

    # The stored text, None for a value that is not encrypted yet; the source values it is sealed
    # under, once they are known; the plaintext, once it was read or assigned; and the text that
    # was encrypted, against which JSON that was changed in place is compared.
    _token: str | None
    _sources: "Values | None"
    _value: Any
    _text: str | None

    def __init__(self, token: str | None, field: "EncryptedField") -> None:
        self._token = token
        self._field = field
        self._sources = None
        self._value = UNREAD
        self._text = None

    @property
    def token(self) -> str:
        """The stored text; empty for a value that is not encrypted yet."""
        return self._token or ""

    @property
    def key_id(self) -> str | None:
        """The 8 hex digits of the key that a v2 token is under; ``None`` for any other."""
        return tokens.key_id_of(self.token)

    def decrypt(self, salt: Salt, *, bound_to: "Sequence[str | None]" = ()) -> Any:
        """Decrypt with the tenant's id, and the values of ``bound_to`` as text.

        Raises:
            DecryptionError, MissingSaltError: see :func:`encryption.decrypt`.
        """
        return self._field.open(self.token, salt_text(salt), bound_to)[0]

    def detached(self) -> "Ciphertext":
        """A copy that knows neither plaintext nor row."""
        return Ciphertext(self._token, self._field)

    def adopted(self, translated: "Callable[[Values], Values]") -> "Ciphertext":
        """The same for another instance, whose class lays out the sources in another way."""
        secret = Ciphertext(self._token, self._field)
        secret._value, secret._text = self._value, self._text
        secret._sources = None if self._sources is None else translated(self._sources)
        return secret

    def __repr__(self) -> str:
        return f"<Ciphertext {self.key_id or 'v1'}>" if self._token else "<Ciphertext>"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ciphertext):
            return NotImplemented
        return self is other or (self._token is not None and self._token == other._token)

    def __hash__(self) -> int:
        return hash(self._token)

    def __copy__(self) -> "Ciphertext":
        return Ciphertext._restored(self._token, self._field, self._sources)

    def __deepcopy__(self, memo: object) -> "Ciphertext":
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._token is None:
            raise TypeError("a secret that is not encrypted yet is never pickled: save it first")
        return Ciphertext._restored, (self._token, self._field, self._sources)

    @classmethod
    def _restored(
        cls, token: str | None, field: "EncryptedField", sources: "Values | None"
    ) -> "Ciphertext":
        secret = cls(token, field)
        secret._sources = sources
        return secret


#: What may stand between an attribute of this module and who reads it.
_ON_THE_WAY: Final = frozenset({"__get__", "__getattribute__"})


def _is_read_by_models() -> bool:
    """Say whether it is Django's ``models`` that reads the attribute which asks this.

    However many functions are in between: this module's, those of an attribute that is derived
    from one of these, and a model's own ``__getattribute__``.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (
        frame.f_globals is globals() or frame.f_code.co_name in _ON_THE_WAY
    ):
        frame = frame.f_back
    asking = "" if frame is None else str(frame.f_globals.get("__name__", ""))
    return asking.startswith("django.db.models.")


class RawCiphertext(Ciphertext):
    """The ciphertext of an instance that is being saved raw (``loaddata``).

    Django takes the value of a raw save with ``getattr`` and must get the ciphertext; anybody
    else who asks gets the plaintext, also after a raw save that failed.
    """

    __slots__ = ()

    @property
    def _value(self) -> Any:
        return self if _is_read_by_models() else UNREAD

    @_value.setter
    def _value(self, value: Any) -> None:
        """A value that is read from it is not kept."""


#: The instance whose ``refresh_from_db`` is running here. What Django loads for it is read with
#: ``getattr``, and that has to give the ciphertext: see
#: :meth:`EncryptedAttribute._is_read_for_refresh`.
refreshing: ContextVar[models.Model | None] = ContextVar("refreshing", default=None)
#: One entry for each refresh that runs in the process: the cheap question before the exact one.
_refreshes: list[None] = []


@contextmanager
def refresh_of(instance: models.Model) -> Iterator[None]:
    """Have attributes of the row that Django loads for this refresh give ciphertexts."""
    token = refreshing.set(instance)
    _refreshes.append(None)
    try:
        yield
    finally:
        _refreshes.pop()
        refreshing.reset(token)


class EncryptedAttribute(DeferredAttribute):
    """Decrypts when it is read, once; loads the column first where it was deferred."""

    field: "EncryptedField"

    def __init__(self, field: "EncryptedField") -> None:
        super().__init__(field)
        self.attname: str = field.attname

    def __get__(self, instance: models.Model | None, cls: Any = None) -> Any:
        if instance is None:
            return self
        try:
            secret = instance.__dict__[self.attname]
        except KeyError:
            secret = self.load(instance)
        if secret is None:
            return None
        value = secret._value
        if value is not UNREAD:
            return value
        if _refreshes and self._is_read_for_refresh(instance):
            if secret._sources is None:
                secret._sources = getattr(instance._state, "encrypted_under", None)
            return secret
        return self.field.reveal(instance, secret)

    def __set__(self, instance: models.Model, value: Any) -> None:
        if type(value) is Ciphertext:
            values = instance.__dict__
            # Out of the database, by way of from_db. A ciphertext for a row that holds one is
            # either refreshed (and says what it is sealed under) or somebody's foreign one.
            if self.attname in values and value._sources is None:
                value = _foreign(value)
            values[self.attname] = value
        elif value is None:
            instance.__dict__[self.attname] = None
        else:
            values = instance.__dict__
            before = values.get(self.attname)
            secret = Ciphertext(None, self.field)
            secret._value = value
            # A value that turns out to be the one that is stored keeps its token.
            if before is not None and before._text is not None:
                secret._token = before._token
                secret._sources = before._sources
                secret._text = before._text
            values[self.attname] = secret

    def _is_read_for_refresh(self, instance: models.Model) -> bool:
        """Say whether Django loaded this instance to refresh another one from it.

        ``refresh_from_db`` loads the row as a second instance and copies each attribute with a
        getattr and a setattr. Decrypting there would cost, lose the token, and break the refresh
        of a row whose secret cannot be read.
        """
        stale = refreshing.get()
        if stale is None or stale is instance or stale.pk != instance.pk:
            return False
        return type(stale) is type(instance) and _is_read_by_models()

    # -- deferred loading ---------------------------------------------------------------------

    def load(self, instance: models.Model) -> Ciphertext | None:
        """Load a deferred column, with its sources in the same query, and return what it holds.

        Raises:
            DoesNotExist: the row is gone.
            AttributeError: the instance was never saved.
        """
        if instance.pk is None:
            raise AttributeError(
                f"Cannot retrieve deferred field {self.attname!r} from an unsaved model."
            )
        fetch_mode = getattr(instance._state, "fetch_mode", None)  # newer Django has it
        if fetch_mode is None:
            self.fetch_one(instance)
        else:
            fetch_mode.fetch(self, instance)
        try:
            secret: Ciphertext | None = instance.__dict__[self.attname]
        except KeyError:
            name = instance._meta.object_name
            missing: type[Exception] = type(instance).DoesNotExist  # type: ignore[attr-defined]
            raise missing(f"{name} matching query does not exist.") from None
        return secret

    def fetch_one(self, instance: models.Model) -> None:
        """Load the column for one instance (Django calls it, see ``fetch_modes``)."""
        names = layout_of(instance).attnames
        secret, *sources = stored_row(instance).values_list(self.attname, *names).get()
        self._put(instance, secret, sources)

    def fetch_many(self, instances: Iterable[models.Model]) -> None:
        """Load the column for all instances of one result that lack it, with one query."""
        lacking = [one for one in instances if self.attname not in one.__dict__ and one.pk]
        if not lacking:
            return
        names = layout_of(lacking[0]).attnames
        manager = type(lacking[0])._base_manager.using(lacking[0]._state.db)
        rows = manager.filter(pk__in=[one.pk for one in lacking])
        found = {pk: row for pk, *row in rows.values_list("pk", self.attname, *names)}
        for instance in lacking:
            if instance.pk in found:
                secret, *sources = found[instance.pk]
                self._put(instance, secret, sources)

    def _put(self, instance: models.Model, secret: Ciphertext | None, sources: list[Any]) -> None:
        values = instance.__dict__
        if secret is not None:
            secret._sources = tuple(sources)
        values[self.attname] = secret
        for name, value in zip(layout_of(instance).attnames, sources, strict=True):
            values.setdefault(name, value)
        known = getattr(instance._state, "encrypted_under", None)
        if type(known) is Partial:
            layout_of(instance).fill(instance, known, tuple(sources))


def _made_by(asking: FrameType) -> type[models.Model] | None:
    """The class of which Django makes an instance out of its child: one of several in a family."""
    frame: FrameType | None = asking
    # Before Python 3.12 a comprehension has a frame of its own.
    for _ in range(2):
        if frame is not None and "rel_model" in frame.f_locals:
            made: type[models.Model] = frame.f_locals["rel_model"]
            return made
        frame = None if frame is None else frame.f_back
    return None


class InheritedAttribute(EncryptedAttribute):
    """The attribute on a child of multi-table inheritance, of a column in its parent's table.

    Django makes the parent's instance out of the child's attributes, when rows are deleted for
    one. It gets the ciphertext: a secret that cannot be read is no reason to keep a row.
    """

    def __get__(self, instance: models.Model | None, cls: Any = None) -> Any:
        if instance is not None:
            asking = sys._getframe(1)
            if asking.f_globals.get("__name__") == "django.db.models.fields.related_descriptors":
                return self._for_parent(instance, _made_by(asking) or self.field.model)
        return super().__get__(instance, cls)

    def _for_parent(self, instance: models.Model, made: type[models.Model]) -> Ciphertext | None:
        layout = layout_of(instance)
        if promotion.is_strange(layout, instance):
            promotion.adopt(layout, instance)
        secret = self.field.stored_in(instance)
        if secret is None:
            return None
        if secret._value is not UNREAD and self.field.is_changed(secret):
            # What is assigned and not saved yet; each of the two encrypts it for itself.
            own = Ciphertext(None, self.field)
            own._value = secret._value
            return own
        under = secret._sources or layout.loaded(instance) or layout.current(instance)
        values = {**instance.__dict__, **dict(zip(layout.attnames, under, strict=True))}
        moved = secret.detached()
        moved._sources = tuple(values.get(name) for name in layout_of_class(made).attnames)
        return moved


class ForeignCiphertext:
    """The value of an instance that somebody assigned a :class:`Ciphertext` to: it is refused
    when the instance is saved, since nobody knows which row the token belongs to."""

    def __repr__(self) -> str:
        return "<Ciphertext of another row>"


def _foreign(value: Ciphertext) -> Ciphertext:
    secret = Ciphertext(None, value._field)
    secret._value = ForeignCiphertext()
    return secret
