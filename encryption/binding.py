"""Where a value belongs: its tenant's salt and the other fields of its row, as text.

The salt and the bound fields of an encrypted field are its *sources*. A row's secret is readable
only under the source values it was encrypted with, so each instance remembers what it was loaded
with (``_state.encrypted_under``), and every write compares that with what it holds now.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from django.core.exceptions import FieldDoesNotExist, FieldError, ImproperlyConfigured
from django.db import models

from encryption.core.errors import DecryptionError, MissingSaltError
from encryption.families import sources_of

if TYPE_CHECKING:
    from encryption.fields import EncryptedField
    from encryption.indexes import BlindIndexField
    from encryption.loading import Filling

Values = tuple[Any, ...]


class _Missing:
    """The value of a source that was not loaded with its row."""

    def __repr__(self) -> str:
        return "<not loaded>"

    def __copy__(self) -> "_Missing":
        return self

    def __deepcopy__(self, memo: object) -> "_Missing":
        return self

    def __reduce__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


class Partial(tuple[Any, ...]):
    """Source values of which some are :data:`MISSING`; a plain tuple is complete."""

    __slots__ = ()

    @classmethod
    def of(cls, values: Sequence[Any]) -> Values:
        """A plain tuple of these if none is missing."""
        return cls(values) if any(value is MISSING for value in values) else tuple(values)

    def filled(self, values: Values) -> Values:
        """Return a complete tuple: what is missing here, taken from there."""
        return tuple(
            other if mine is MISSING else mine for mine, other in zip(self, values, strict=True)
        )


#: The Python type that each column type reads back as. A value of it is its own canonical form;
#: any other goes through the field's ``to_python`` first ("7" and 7 are one id). These are also
#: all the types that a value may be bound to: each comes back from every database as it went in.
NATIVE_TYPES: Final[Mapping[str, type]] = {
    **dict.fromkeys(
        (
            "AutoField",
            "BigAutoField",
            "SmallAutoField",
            "IntegerField",
            "BigIntegerField",
            "SmallIntegerField",
            "PositiveIntegerField",
            "PositiveBigIntegerField",
            "PositiveSmallIntegerField",
        ),
        int,
    ),
    **dict.fromkeys(("CharField", "TextField", "SlugField", "FilePathField"), str),
    "UUIDField": UUID,
    "BooleanField": bool,
}


#: The classes of fields whose columns are texts, and compare by a collation.
TEXT_FIELDS: Final = (models.CharField, models.TextField, models.FilePathField)


def end_of_relations(field: "models.Field[Any, Any]") -> "models.Field[Any, Any]":
    """Follow foreign keys to the field whose value they hold."""
    while field.remote_field is not None and isinstance(field, models.ForeignKey):
        field = field.target_field
    return field


#: ``str()`` of a UUID costs as much as an encryption, and the rows of a result share few tenants.
_uuid_text = lru_cache(maxsize=10_000)(UUID.__str__)


def _is_djangos_own(field: "models.Field[Any, Any]") -> bool:
    """Say whether a field leaves values of its native type as they are."""
    return all(
        getattr(type(field), name).__module__.startswith("django.")
        for name in ("to_python", "get_prep_value", "get_db_prep_value", "pre_save")
    )


class Source:
    """One field of a row that a secret depends on."""

    __slots__ = ("_end", "_native", "attname", "field", "is_pk", "plain")

    def __init__(self, field: "models.Field[Any, Any]", is_pk: bool) -> None:
        self.field = field
        self.attname: str = field.attname
        self.is_pk = is_pk
        self._end: models.Field[Any, Any] | None = None
        self._native: type | None = None
        #: The type whose values need no :meth:`text`, because ``str()`` of one is that. It is
        #: known after the first call. What is looked at for each secret that is read.
        self.plain: type | None = None

    @property
    def is_text(self) -> bool:
        """Whether its column compares by a collation, which may take other texts for equal."""
        return isinstance(end_of_relations(self.field), TEXT_FIELDS)

    def text(self, value: Any) -> str | None:
        """Return a value as the text that is derived from or authenticated; ``None`` for NULL.

        Raises:
            FieldError: it is an expression, which only the database can compute.
        """
        if value is None:
            return None
        if type(value) is self._native:
            return _uuid_text(value) if self._native is UUID else str(value)
        if hasattr(value, "resolve_expression"):
            raise FieldError(
                f"{self.field} is what a secret is encrypted under, and an expression or database "
                "default is not known before the row is written. Nothing was written. Assign the "
                "value itself."
            )
        if self._end is None:  # the models it points to may not be loaded any earlier
            self._end = end_of_relations(self.field)
            if _is_djangos_own(self._end):
                self._native = NATIVE_TYPES.get(self._end.get_internal_type())
                self.plain = None if self._native is UUID else self._native
        value = self._end.to_python(self._end.get_prep_value(value))
        return str.__str__(value) if isinstance(value, str) else str(value)

    def same(self, one: Any, other: Any) -> bool:
        """Say whether two values are the same text."""
        return one is other or self.text(one) == self.text(other)


class Layout:
    """What the encrypted fields of one model class depend on, worked out once per class.

    Args:
        model: the class.
        fields: its encrypted fields, inherited ones too.
        dependents: encrypted fields of other classes (of multi-table inheritance) whose sources
            are columns of this class.
    """

    def __init__(
        self,
        model: type[models.Model],
        fields: Sequence["EncryptedField"],
        dependents: Sequence["EncryptedField"] = (),
    ) -> None:
        self.model = model
        self.fields = tuple(fields)
        self.dependents = tuple(dependents)
        #: Its blind indexes, inherited ones too.
        found: Any = [
            field
            for field in model._meta.concrete_fields
            if getattr(field, "is_blind_index", False)
        ]
        self.indexes: tuple[BlindIndexField, ...] = tuple(found)
        self.has_truncated_indexes = any(index.is_truncated for index in self.indexes)
        #: The fields of the primary key, its own and those of its parents.
        self.key_fields = {
            field for one in (model, *model._meta.all_parents) for field in one._meta.pk_fields
        }
        by_name: dict[str, Source] = {}
        self._names: dict[str, tuple[str, tuple[str, ...]]] = {}
        for field in self.fields:
            names = [self._find(model, name) for name in (field.salt_field, *field.bound_to)]
            for found in filter(None, names):
                by_name.setdefault(found.attname, Source(found, found in self.key_fields))
            salt, *bound = (found.attname if found else "" for found in names)
            self._names[field.attname] = (salt, tuple(bound))
        #: For each dependent: its sources that are columns of this class.
        self.under: dict[EncryptedField, list[Source]] = {}
        for field in self.dependents:
            own = [one for one in sources_of(field) if one in model._meta.concrete_fields]
            self.under[field] = [
                by_name.setdefault(one.attname, Source(one, one in self.key_fields)) for one in own
            ]
        self.sources = tuple(by_name.values())
        #: Those whose value changes while the row is saved.
        self.settling = tuple(
            source
            for source in self.sources
            if type(source.field).pre_save is not models.Field.pre_save
        )
        self.attnames = tuple(by_name)
        self.place_of = {name: place for place, name in enumerate(self.attnames)}
        attnames = [field.attname for field in model._meta.concrete_fields]
        self.width = len(attnames)
        self.pick_row = _picker([attnames.index(name) for name in self.attnames])
        self.pick_dict = _picker(list(self.attnames))
        #: How a whole row is put into an instance; worked out when the first one is loaded.
        self.filling: Filling | None = None
        #: For each encrypted field: the place of its salt, and those of what it is bound to.
        self.places: dict[str, tuple[int, tuple[int, ...]]] = {
            attname: (
                self.place_of.get(salt, -1),
                tuple(self.place_of.get(name, -1) for name in bound),
            )
            for attname, (salt, bound) in self._names.items()
        }
        #: For each encrypted field: its salt's source and place, and those of what it is bound to.
        self.readers = {
            attname: (
                self.sources[salt],
                salt,
                tuple((self.sources[place], place) for place in bound if place >= 0),
            )
            for attname, (salt, bound) in self.places.items()
            if salt >= 0
        }
        #: The names of its encrypted fields, their indexes and what they depend on: a save of none
        #: of these is no concern of theirs.
        self.concerning = frozenset(
            name
            for field in (*self.fields, *self.indexes, *(source.field for source in self.sources))
            for name in (field.name, field.attname)
        )
        tables = {field.model._meta.db_table for field in (*self.fields, *self.dependents)}
        tables |= {source.field.model._meta.db_table for source in self.sources}
        #: Whether a source stands in another table than a secret that depends on it.
        self.spans_tables = len(tables) > 1

    @cached_property
    def text_keys(self) -> "list[Source]":
        """The sources that are a primary key and a text, which a database may compare as it likes.

        Asked for once the models that relations point to are loaded.
        """
        return [source for source in self.sources if source.is_pk and source.is_text]

    @staticmethod
    def _find(model: type[models.Model], name: str) -> "models.Field[Any, Any] | None":
        try:
            found = model._meta.get_field(name)
        except FieldDoesNotExist:
            return None  # a system check says so
        return found if isinstance(found, models.Field) and found.concrete else None

    def sources_of(self, field: "EncryptedField") -> tuple[Source, ...]:
        """The sources of one encrypted field, its salt first."""
        salt, bound = self.places[field.attname]
        return tuple(self.sources[place] for place in (salt, *bound) if place >= 0)

    # -- the values of one instance -----------------------------------------------------------

    def current(self, instance: models.Model) -> Values:
        """What the instance holds now; :data:`MISSING` for a deferred field."""
        values = instance.__dict__
        try:
            return self.pick_dict(values)
        except KeyError:
            return Partial(values.get(name, MISSING) for name in self.attnames)

    def remember(self, instance: models.Model, names: Sequence[str], row: Sequence[Any]) -> None:
        """Note what an instance of which only some columns were loaded was loaded with.

        Args:
            instance: as it came out of ``from_db``.
            names: the attnames of the columns that were loaded.
            row: their values, in that order.
        """
        loaded = dict(zip(names, row, strict=False))
        state: Any = instance._state
        state.encrypted_under = Partial.of([loaded.get(name, MISSING) for name in self.attnames])
        #: A ciphertext that turns up in any other field did not come with the row.
        state.loaded_secrets = frozenset(self.places).intersection(loaded)

    def loaded(self, instance: models.Model) -> Values | None:
        """What the instance was loaded with, in full; ``None`` if it never was loaded.

        Sources that were deferred are read from the database, all with one query.
        """
        under: Values | None = getattr(instance._state, "encrypted_under", None)
        if type(under) is Partial:
            under = self.fill(instance, under, self.read_sources(instance))
        return under

    def fill(self, instance: models.Model, known: Partial, now: Values) -> Values:
        """Complete what the instance was loaded with by what its row holds now.

        The secrets that it holds may be older than that, so what they are sealed under stays
        unknown: they are read again, with their sources, before anything is done with them.
        """
        for field in self.fields:
            secret = instance.__dict__.get(field.attname)
            if (
                secret is not None
                and secret._token is not None
                and secret._sources is None
                and field.attname in instance._state.__dict__.get("loaded_secrets", self.places)
            ):
                secret._sources = known
        under = known.filled(now)
        remember_under(instance, under)
        return under

    def read_sources(self, instance: models.Model) -> Values:
        """Read the row's source values from the database (one query), and keep deferred ones."""
        row = stored_row(instance).values_list(*self.attnames).get()
        for name, value in zip(self.attnames, row, strict=True):
            instance.__dict__.setdefault(name, value)
        return tuple(row)

    def settle(self, instance: models.Model, names: "Collection[str] | None" = None) -> None:
        """Let sources that change while the row is saved do so now, before secrets are encrypted.

        Args:
            names: the fields that are saved; ``None`` for all.

        Raises:
            FieldError: one changes each time that it is asked.
        """
        for source in self.settling:
            name, field = source.attname, source.field
            if name in instance.__dict__ and (names is None or {name, field.name} & {*names}):
                settled = field.pre_save(instance, instance._state.adding)
                setattr(instance, name, settled)
                if not source.same(settled, field.pre_save(instance, instance._state.adding)):
                    raise FieldError(
                        f"{field} is what a secret is encrypted under, and its value changes each "
                        "time that the row is saved. Nothing was written. Use a field that "
                        "keeps its value."
                    )

    def changed(self, loaded: Values, now: Values, places: Sequence[int]) -> bool:
        """Say whether any of these sources differs; a deferred one does not."""
        return any(
            now[place] is not MISSING
            and loaded[place] is not MISSING
            and not self.sources[place].same(loaded[place], now[place])
            for place in places
        )

    def knows(self, field: "EncryptedField", values: Values) -> bool:
        """Say whether none of the values that a field's secret depends on is missing."""
        salt, bound = self.places[field.attname]
        return bool(values) and all(
            values[place] is not MISSING for place in (salt, *bound) if place >= 0
        )

    def unsure(self, loaded: Values, now: Values, places: Sequence[int]) -> bool:
        """Say whether a source is set that was deferred, so that its stored value is unknown."""
        return any(loaded[place] is MISSING and now[place] is not MISSING for place in places)

    # -- as text ------------------------------------------------------------------------------

    def salt(self, field: "EncryptedField", values: Values) -> str:
        """Return the salt of a field's secret under these source values.

        Raises:
            MissingSaltError: it is NULL or empty.
            ImproperlyConfigured: the model has no such field.
        """
        try:
            source, place, _ = self.readers[field.attname]
        except KeyError:
            raise ImproperlyConfigured(
                f"{field.label}: salt_field={field.salt_field!r} names no field of this model."
            ) from None
        value = values[place]
        salt = str(value) if type(value) is source.plain else source.text(value)
        if not salt:
            raise MissingSaltError(
                f"{field.label} is encrypted for its {field.salt_field!r}, which is not set or "
                "not saved yet. Save that object first and assign it, then save this one."
            )
        return salt

    def bound(self, field: "EncryptedField", values: Values) -> list[str | None]:
        """Return the texts that a field's secret is bound to under these source values."""
        bound = self.readers[field.attname][2]
        for source, place in bound:
            if source.is_pk and values[place] is None:
                raise FieldError(
                    f"{field.label} is bound to {source.field.name!r}, which the database numbers "
                    "when the row is inserted, after the value was encrypted. Nothing was "
                    "written. Use a primary key with a default, such as uuid.uuid4."
                )
        return [source.text(values[place]) for source, place in bound] if bound else []


def _picker(keys: Sequence[Any]) -> Callable[[Any], Values]:
    if len(keys) == 1:
        (key,) = keys
        return lambda row: (row[key],)
    if not keys:
        return lambda row: ()
    return itemgetter(*keys)


def layout_of(instance: models.Model) -> Layout:
    """The layout of an instance's class (set when the class was made)."""
    return layout_of_class(type(instance))


def layout_of_class(cls: type[models.Model]) -> Layout:
    """The layout of a class with encrypted fields."""
    layout: Layout = cls._encryption_layout  # type: ignore[attr-defined]
    return layout


def remember_under(instance: models.Model, under: Values) -> None:
    """Note what the row of an instance is sealed under now.

    ``twin.__dict__.update(instance.__dict__)`` gives two instances one state. What is noted for
    one is not true of the secrets that the other still holds, so from then on each has its own.
    """
    state: Any = instance._state
    known = state.__dict__.get("encrypted_under")
    if known is not None and (type(known) is not type(under) or known != under):
        state = copy(state)
        state.fields_cache = {**instance._state.fields_cache}
        instance._state = state
    state.encrypted_under = under


def stored_row(instance: models.Model) -> "models.QuerySet[Any]":
    """The instance's own row, on the database it came from."""
    manager = type(instance)._base_manager
    hinted = manager.db_manager(instance._state.db, hints={"instance": instance})
    return hinted.filter(pk=instance.pk)


def located(error: DecryptionError, field: "EncryptedField", pk: object) -> DecryptionError:
    """Add to an error which model, field and row it is about."""
    return error.at(f"{field.label} (pk={pk})")
