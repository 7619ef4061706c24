"""What a model with encrypted fields does differently from any other.

Django has no place for a field to hear that another field of the row changes. So each class with
encrypted fields gets six of its own methods wrapped when it is made. Each wrapper calls the
original, and does one thing:

========================================  =====================================================
``from_db``                               remembers what the row was loaded with
``refresh_from_db``                       copies ciphertexts and forgets what was remembered
``save_base``                             writes a secret whenever what it depends on is written
``__getstate__``                          lets copies and pickles carry ciphertext only
``clean_fields``                          does not decrypt what is stored to validate it again
``_prepare_related_fields_for_save``      names the unsaved tenant
========================================  =====================================================

And the columns that secrets depend on get a guard that every UPDATE passes through, whichever
manager or queryset it comes from.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any

from django.core.exceptions import FieldError
from django.db import models
from django.db.models.constants import OnConflict
from django.db.models.signals import post_save, pre_save
from django.db.models.sql.subqueries import UpdateQuery

from encryption.binding import Layout, Partial, Values, layout_of, stored_row
from encryption.core import tokens
from encryption.core.errors import MalformedTokenError, MissingSaltError
from encryption.descriptors import UNREAD, Ciphertext, refresh_of

if TYPE_CHECKING:
    from encryption.fields import EncryptedField

#: True while a write is under way that keeps secrets and sources of *several tables* together,
#: which no single UPDATE shows. A raw save sets its instance instead, for as long as that lives.
_vouched: ContextVar[bool] = ContextVar("vouched", default=False)


def install(cls: type[models.Model], field_type: "type[EncryptedField]") -> None:
    """Give a new model class its layout, its wrapped methods and its guards.

    Called for every model class; those without encrypted fields are left alone.
    """
    if cls._meta.abstract or cls._meta.swapped:
        return
    fields = [field for field in cls._meta.concrete_fields if isinstance(field, field_type)]
    if not fields:
        return
    _set_up(cls, Layout(cls, fields))
    for parent in cls._meta.all_parents:
        inherited: Layout | None = parent.__dict__.get("_encryption_layout")
        mine = [
            field
            for field in fields
            if field.model is not parent
            and not issubclass(parent, field.model)
            and any(s.field.model is parent for s in layout_of_class(cls).sources_of(field))
        ]
        if mine:
            before = inherited or Layout(parent, [])
            _set_up(parent, Layout(parent, before.fields, [*before.dependents, *mine]))


def layout_of_class(cls: type[models.Model]) -> Layout:
    """The layout of a class with encrypted fields."""
    layout: Layout = cls._encryption_layout  # type: ignore[attr-defined]
    return layout


def _set_up(cls: type[models.Model], layout: Layout) -> None:
    cls._encryption_layout = layout  # type: ignore[attr-defined]
    for name, wrapper in _WRAPPERS.items():
        method = getattr(cls, name)
        function = getattr(method, "__func__", method)
        if not hasattr(function, "_encryption_wrapper"):
            wrapped = wrapper(function)
            wrapped._encryption_wrapper = True  # type: ignore[attr-defined]
            setattr(cls, name, classmethod(wrapped) if name == "from_db" else wrapped)
    for source in layout.sources:
        _guard(source.field, layout)
    pre_save.connect(_before_raw_save, sender=cls, dispatch_uid=f"encryption:{id(cls)}")
    post_save.connect(_after_raw_save, sender=cls, dispatch_uid=f"encryption:{id(cls)}")


# -- the wrapped methods ----------------------------------------------------------------------


def _from_db(original: Callable[..., Any]) -> Callable[..., Any]:
    # Runs for every row of every result, and keyword arguments cost a fifth of a microsecond:
    # so each supported Django gets the signature that it calls.
    def from_db(cls: Any, db: Any, field_names: Any, values: Any) -> Any:
        instance = original(cls, db, field_names, values)
        layout = cls._encryption_layout
        if len(values) == layout.width:
            instance._state.encrypted_under = layout.pick_row(values)
        else:
            layout.remember(instance, field_names, values)
        return instance

    def from_db_fetching(
        cls: Any, db: Any, field_names: Any, values: Any, *, fetch_mode: Any = None
    ) -> Any:
        instance = original(cls, db, field_names, values, fetch_mode=fetch_mode)
        layout = cls._encryption_layout
        if len(values) == layout.width:
            instance._state.encrypted_under = layout.pick_row(values)
        else:
            layout.remember(instance, field_names, values)
        return instance

    takes_fetch_mode = "fetch_mode" in signature(models.Model.from_db).parameters
    return wraps(original)(from_db_fetching if takes_fetch_mode else from_db)


def _refresh_from_db(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def refresh_from_db(
        self: models.Model, using: Any = None, fields: Any = None, **kwargs: Any
    ) -> None:
        layout = layout_of(self)
        kept: dict[str, Any] = {}
        if fields is not None:
            fields, kept = _with_sources(layout, self, fields)
        with refresh_of(self):
            original(self, using=using, fields=fields, **kwargs)
        if fields is None or layout.attnames and set(layout.attnames) <= set(fields):
            self._state.encrypted_under = layout.current(self)  # type: ignore[attr-defined]
        elif not getattr(self._state, "encrypted_under", None):
            pass
        else:
            known = list(self._state.encrypted_under)  # type: ignore[attr-defined]
            for place, source in enumerate(layout.sources):
                if source.attname in fields or source.field.name in fields:
                    known[place] = self.__dict__[source.attname]
            kind = type(self._state.encrypted_under)  # type: ignore[attr-defined]
            self._state.encrypted_under = kind(known)  # type: ignore[attr-defined]
        self.__dict__.update(kept)

    return refresh_from_db


def _with_sources(
    layout: Layout, instance: models.Model, fields: Iterable[str]
) -> tuple[set[str], dict[str, Any]]:
    """Add to the fields to refresh what the secrets among them are sealed under.

    The caller did not ask for those, so what the instance holds in them is put back afterwards.
    """
    names = set(fields)
    kept = {}
    for field in layout.fields:
        if field.name in names or field.attname in names:
            for source in layout.sources:
                if source.attname in names or source.field.name in names:
                    continue
                names.add(source.attname)
                if source.attname in instance.__dict__:
                    kept[source.attname] = instance.__dict__[source.attname]
    return names, kept


def _save_base(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def save_base(
        self: models.Model,
        raw: bool = False,
        force_insert: Any = False,
        force_update: bool = False,
        using: Any = None,
        update_fields: Any = None,
    ) -> None:
        layout = layout_of(self)
        state: Any = self._state
        if update_fields is not None and not raw:
            update_fields, state.encrypt_under = complete(layout, self, update_fields)
        if layout.dependents and not raw and not state.adding:
            _check_dependents(layout, self, update_fields)
        try:
            if layout.spans_tables:
                with vouching():
                    original(self, raw, force_insert, force_update, using, update_fields)
            else:
                original(self, raw, force_insert, force_update, using, update_fields)
            state.encrypted_under = (
                layout.current(self) if update_fields is None else state.encrypt_under
            )
        finally:
            state.__dict__.pop("encrypt_under", None)

    save_base.alters_data = True  # type: ignore[attr-defined]
    return save_base


def _getstate(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def __getstate__(self: models.Model) -> dict[str, Any]:
        state: dict[str, Any] = original(self)
        for field in layout_of(self).fields:
            secret = state.get(field.attname)
            if isinstance(secret, Ciphertext):
                if secret._value is not UNREAD:
                    field.seal(self, secret)
                state[field.attname] = secret.__copy__()
        return state

    return __getstate__


def _clean_fields(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def clean_fields(self: models.Model, exclude: Any = None) -> None:
        stored = {
            field.name
            for field in layout_of(self).fields
            if getattr(self.__dict__.get(field.attname), "_value", None) is UNREAD
        }
        original(self, exclude=stored.union(exclude or ()))

    return clean_fields


def _prepare_related(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def _prepare_related_fields_for_save(
        self: models.Model, operation_name: str, fields: Any = None
    ) -> None:
        try:
            original(self, operation_name, fields)
        except ValueError:
            _name_missing_tenant(self)
            raise

    return _prepare_related_fields_for_save


def _name_missing_tenant(instance: models.Model) -> None:
    """Raise the clearer error if what is not saved yet is the tenant of a secret."""
    layout = layout_of(instance)
    for field in layout.fields:
        for source in layout.sources_of(field)[:1]:
            salt = source.field
            if not salt.is_relation or not salt.is_cached(instance):
                continue
            tenant = salt.get_cached_value(instance)
            if tenant is not None and tenant.pk is None and instance.__dict__.get(field.attname):
                raise MissingSaltError(
                    f"{field.label} is encrypted for its {salt.name!r}, and that object is not "
                    "saved yet, so it has no id. Save it first, then this one."
                ) from None


_WRAPPERS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "from_db": _from_db,
    "refresh_from_db": _refresh_from_db,
    "save_base": _save_base,
    "__getstate__": _getstate,
    "clean_fields": _clean_fields,
    "_prepare_related_fields_for_save": _prepare_related,
}


# -- partial saves ----------------------------------------------------------------------------


def complete(
    layout: Layout, instance: models.Model, update_fields: Iterable[str]
) -> tuple[frozenset[str], Values]:
    """Make a partial save one that keeps every secret and its sources together.

    Returns:
        The fields to write, and the source values that the row will have after it.
    """
    names = set(update_fields)
    loaded = layout.loaded(instance)
    if loaded is None:
        loaded = _read_before_blind_save(layout, instance)
    now = layout.current(instance)
    if type(now) is Partial:
        now = now.filled(loaded)
    written: set[str] = set()
    for field in layout.fields:
        places = [place for place in _flat(layout.places[field.attname]) if place >= 0]
        named = [place for place in places if _named(layout.sources[place].field, names)]
        if _named(field, names) or layout.changed(loaded, now, named):
            names.add(field.name)
            for place in places:
                source = layout.sources[place]
                written.add(source.attname)
                # Written along, so that a move of the row by somebody else in this moment
                # cannot end with their tenant and our ciphertext.
                if not source.is_pk and source.same(loaded[place], now[place]):
                    names.add(source.field.name)
    return _without_idle_sources(layout, names, written), tuple(
        now[place] if source.is_pk or _named(source.field, names) else loaded[place]
        for place, source in enumerate(layout.sources)
    )


def _without_idle_sources(layout: Layout, names: set[str], written: set[str]) -> frozenset[str]:
    """Leave out sources that did not change, unless a secret that needs them is written.

    Writing them would put an old tenant under a secret that somebody re-encrypted meanwhile.
    """
    idle = {
        name
        for source in layout.sources
        for name in (source.field.name, source.attname)
        if name in names and source.attname not in written and layout.fields
    }
    if idle == names:  # nothing would be left: write the secrets along instead
        return frozenset(names | {field.name for field in layout.fields})
    return frozenset(names - idle)


def _read_before_blind_save(layout: Layout, instance: models.Model) -> Values:
    """For an instance that was made by hand and never loaded: see what the row holds.

    What it holds in fields that are not saved is a default and means nothing, so a secret that
    has to be written along is the stored one.
    """
    row = stored_row(instance).values_list(
        *layout.attnames, *(field.attname for field in layout.fields)
    )
    stored = row.first()
    if stored is None:
        return layout.current(instance)
    count = len(layout.attnames)
    under = tuple(stored[:count])
    for field, secret in zip(layout.fields, stored[count:], strict=True):
        if instance.__dict__.get(field.attname) is None and secret is not None:
            secret._sources = under
            instance.__dict__[field.attname] = secret
    return under


def _flat(places: tuple[int, tuple[int, ...]]) -> tuple[int, ...]:
    return (places[0], *places[1])


def _named(field: "models.Field[Any, Any]", names: "set[str] | frozenset[str]") -> bool:
    return field.name in names or field.attname in names


def _check_dependents(
    layout: Layout, instance: models.Model, update_fields: "frozenset[str] | None"
) -> None:
    """Refuse to change a parent's source under a child's secret (multi-table inheritance)."""
    loaded = layout.loaded(instance)
    now = layout.current(instance)
    for field in layout.dependents:
        child = field.model
        if isinstance(instance, child):
            continue
        names = [field.salt_field, *field.bound_to]
        places = [
            place
            for place, source in enumerate(layout.sources)
            if (source.field.name in names or source.attname in names)
            and (update_fields is None or _named(source.field, update_fields))
        ]
        if loaded is not None and not layout.changed(loaded, now, places):
            continue
        rows = child._base_manager.using(instance._state.db).filter(pk=instance.pk)
        if rows.exclude(**{f"{field.name}__isnull": True}).exists():
            raise FieldError(
                f"{field.label} of this row depends on fields that this save changes, and only "
                f"a {child._meta.object_name} can write both. Load the row as that and save it."
            )


# -- guards on the columns --------------------------------------------------------------------


@contextmanager
def vouching() -> Iterator[None]:
    """Let writes to sources in other tables than their secrets pass the guard."""
    token = _vouched.set(True)
    try:
        yield
    finally:
        _vouched.reset(token)


def _guard(source: "models.Field[Any, Any]", layout: Layout) -> None:
    """Have every UPDATE of a source's column checked (and INSERTs let through)."""
    if source.primary_key or hasattr(source, "salt_field"):
        return  # no UPDATE writes a primary key; an encrypted field guards itself
    needed: dict[tuple[str, str], str] = source.__dict__.setdefault("_encrypted_by_this", {})
    for field in (*layout.fields, *layout.dependents):
        if {source.name, source.attname}.intersection((field.salt_field, *field.bound_to)):
            needed[field.model._meta.db_table, field.attname] = field.label
    own_sql = getattr(type(source), "get_placeholder_sql", None)
    own = getattr(type(source), "get_placeholder", None)

    def get_placeholder_sql(value: Any, compiler: Any, connection: Any) -> Any:
        check_update(source, compiler.query)
        if own_sql is not None:
            return own_sql(source, value, compiler, connection)
        if hasattr(value, "as_sql"):
            return compiler.compile(value)
        return "%s", (value,)

    def get_placeholder(value: Any, compiler: Any, connection: Any) -> Any:
        check_update(source, compiler.query)
        return "%s" if own is None else own(source, value, compiler, connection)

    source.get_placeholder_sql = get_placeholder_sql  # type: ignore[attr-defined]
    source.get_placeholder = get_placeholder  # type: ignore[attr-defined]


def check_update(source: "models.Field[Any, Any]", query: Any) -> None:
    """Refuse an UPDATE of a source that leaves a secret behind.

    Raises:
        FieldError: the query does not write each secret that depends on this column.
    """
    if not isinstance(query, UpdateQuery):
        return
    values = query.values  # type: ignore[attr-defined]
    written = {field.attname for field, _model, _value in values}
    table = source.model._meta.db_table
    needed: dict[tuple[str, str], str] = source._encrypted_by_this  # type: ignore[attr-defined]
    for (other, attname), label in needed.items():
        if attname in written if other == table else _vouched.get():
            continue
        raise FieldError(
            f"{label} is encrypted under {source.name!r}, so an update() of {source.name!r} "
            "alone would leave it unreadable. Nothing was written. Change it on the instances "
            f"and save() them, or use bulk_update([..., {source.name!r}]) with `objects = "
            "EncryptedManager()`: both encrypt anew."
        )


def check_upsert(field: "EncryptedField", query: Any) -> None:
    """Refuse an upsert after which the row's secret and sources would be of different rows.

    Raises:
        FieldError: ``bulk_create(update_conflicts=True)`` takes over one without the other.
    """
    if getattr(query, "on_conflict", None) is not OnConflict.UPDATE:
        return
    layout = layout_of_class(query.model)
    taken = {one.attname for one in query.update_fields}
    equal = {one.attname for one in query.unique_fields}
    names = [source.attname for source in layout.sources_of(field)]
    if field.attname in taken:
        missing = [name for name in names if name not in taken and name not in equal]
    else:
        missing = [field.attname] if taken.intersection(names) - equal else []
    if missing:
        raise FieldError(
            f"{field.label} is encrypted under {', '.join(names)}. This upsert would put a "
            "secret of the new row into an old row with other values of these, where it is "
            f"unreadable. Nothing was written. Name {', '.join(missing)} in update_fields or "
            "(where the database knows unique_fields) in unique_fields too, or update the "
            "existing rows with save()."
        )


# -- raw saves (loaddata) ---------------------------------------------------------------------


def _before_raw_save(
    sender: type[models.Model], instance: models.Model, raw: bool, **kwargs: Any
) -> None:
    """Take the texts of a fixture for the tokens that they are, byte for byte."""
    if not raw:
        return
    layout = layout_of(instance)
    under = layout.current(instance)
    for field in layout.fields:
        secret = instance.__dict__.get(field.attname)
        if secret is None:
            continue
        if not secret.token:
            secret = Ciphertext(_token_of_fixture(field, secret._value), field)
        secret._sources = under
        instance.__dict__[field.attname] = secret
    instance._state.raw_save = True  # type: ignore[attr-defined]


def _token_of_fixture(field: "EncryptedField", value: Any) -> str:
    if isinstance(value, str):
        if field.allow_plaintext:
            return value
        try:
            parse = tokens.parse_v2 if tokens.format_of(value) == tokens.V2 else tokens.parse_v1
            parse(value)
        except MalformedTokenError:
            pass
        else:
            return value
    del value
    raise MalformedTokenError(
        f"{field.label}: a fixture holds the ciphertext that dumpdata wrote, and this value is "
        "none. Nothing was written. Create rows with new secrets through the model instead."
    )


def _after_raw_save(
    sender: type[models.Model], instance: models.Model, raw: bool, **kwargs: Any
) -> None:
    if raw:
        instance._state.__dict__.pop("raw_save", None)
        layout = layout_of(instance)
        instance._state.encrypted_under = layout.current(instance)  # type: ignore[attr-defined]
