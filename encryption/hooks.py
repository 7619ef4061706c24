"""What a model with encrypted fields does differently from any other.

Django has no place for a field to hear that another field of the row changes. So each class with
encrypted fields gets some of its own methods wrapped when it is made. Each wrapper calls the
original and adds one thing:

======================================  =====================================================
``from_db``                             remembers what the row was loaded with
``refresh_from_db``                     copies ciphertexts, and remembers anew
``save_base``                           says which sources the row will have after the save
``_do_update``                          keeps a secret and its sources together (saving.py)
``__getstate__``                        lets copies and pickles carry ciphertext only
``clean_fields``                        does not decrypt what is stored to validate it again
``_prepare_related_fields_for_save``    names the unsaved tenant
======================================  =====================================================
"""

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any

from django.core.exceptions import FieldError
from django.db import models
from django.db.models.manager import Manager

from encryption.binding import Layout, Partial, layout_of
from encryption.core.errors import MissingSaltError
from encryption.descriptors import UNREAD, Ciphertext, InheritedAttribute, refresh_of
from encryption.guards import guard, vouching
from encryption.managers import SourcesQuerySet
from encryption.rawsaves import listen_to
from encryption.saving import Stored, do_update, pin, target_of

if TYPE_CHECKING:
    from encryption.fields import EncryptedField

Method = Callable[..., Any]


def install(cls: type[models.Model], field_type: "type[EncryptedField]") -> None:
    """Give a new model class its layout, its wrapped methods and its guards.

    Called for every model class; those without encrypted fields are left alone.
    """
    if cls._meta.abstract or cls._meta.swapped:
        return
    fields = [field for field in cls._meta.concrete_fields if isinstance(field, field_type)]
    if not fields:
        return
    layout = Layout(cls, fields)
    _set_up(cls, layout)
    for parent in cls._meta.all_parents:
        mine = [
            field
            for field in fields
            if not issubclass(parent, field.model)
            and any(source.field.model is parent for source in layout.sources_of(field))
        ]
        if mine:
            before: Layout = parent.__dict__.get("_encryption_layout") or Layout(parent, [])
            _set_up(parent, Layout(parent, before.fields, [*before.dependents, *mine]))


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
        guard(source.field, layout)
    for field in layout.fields:
        if field.model is not cls._meta.concrete_model:
            setattr(cls, field.attname, InheritedAttribute(field))
    listen_to(cls)
    for manager in cls._meta.local_managers:
        # Django's own manager learns that only("secret") needs the secret's sources too.
        if type(manager) is Manager:
            manager._queryset_class = SourcesQuerySet  # type: ignore[attr-defined]


def _from_db(original: Method) -> Method:
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


def _refresh_from_db(original: Method) -> Method:
    @wraps(original)
    def refresh_from_db(
        self: models.Model, using: Any = None, fields: Any = None, from_queryset: Any = None
    ) -> None:
        layout = layout_of(self)
        options = {} if from_queryset is None else {"from_queryset": from_queryset}
        kept: dict[str, Any] = {}
        cached: dict[str, Any] = {}
        if fields is not None:
            fields, kept = _with_sources(layout, self, fields)
            cached = {
                source.field.name: self._state.fields_cache[source.field.name]
                for source in layout.sources
                if source.attname in kept and source.field.name in self._state.fields_cache
            }
        with refresh_of(self):
            original(self, using=using, fields=fields, **options)
        _remember_refreshed(layout, self, fields)
        self.__dict__.update(kept)
        self._state.fields_cache.update(cached)

    return refresh_from_db


def _with_sources(
    layout: Layout, instance: models.Model, fields: Iterable[str]
) -> tuple[set[str], dict[str, Any]]:
    """Add to the fields to refresh what the secrets among them are sealed under.

    The caller did not ask for those, so what the instance holds in them is put back afterwards.
    """
    names = set(fields)
    kept = {}
    if any(field.name in names or field.attname in names for field in layout.fields):
        for source in layout.sources:
            if source.attname not in names and source.field.name not in names:
                names.add(source.attname)
                if source.attname in instance.__dict__:
                    kept[source.attname] = instance.__dict__[source.attname]
    return names, kept


def _remember_refreshed(layout: Layout, instance: models.Model, fields: Any) -> None:
    now = layout.current(instance)
    state: Any = instance._state
    known = state.__dict__.get("encrypted_under")
    if known is not None:
        pin(layout, instance)
    if fields is None or known is None:
        state.encrypted_under = now
        return
    under = [
        now[place] if source.attname in fields or source.field.name in fields else known[place]
        for place, source in enumerate(layout.sources)
    ]
    state.encrypted_under = Partial.of(under)


def _save_base(original: Method) -> Method:
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
            state.encrypt_under = target_of(layout, self, update_fields)
        try:
            if not raw:
                if layout.spans_tables and update_fields is not None:
                    row = type(self)._base_manager.using(using or state.db).filter(pk=self.pk)
                    state.encrypted_before = Stored.read(layout, row)
                _seal_first(layout, self, update_fields)
            if layout.spans_tables:
                if layout.dependents and not raw and not state.adding:
                    _check_dependents(layout, self, update_fields)
                with vouching():
                    original(self, raw, force_insert, force_update, using, update_fields)
            else:
                original(self, raw, force_insert, force_update, using, update_fields)
            if update_fields is None:
                state.encrypted_under = layout.current(self)
            elif "encrypted_after" in state.__dict__:
                state.encrypted_under = state.encrypted_after
        finally:
            state.__dict__.pop("encrypt_under", None)
            state.__dict__.pop("encrypted_after", None)
            state.__dict__.pop("encrypted_before", None)

    save_base.alters_data = True  # type: ignore[attr-defined]
    return save_base


def _seal_first(layout: Layout, instance: models.Model, update_fields: Any) -> None:
    """Encrypt before Django begins to write.

    What cannot be encrypted is refused here, where the refusal does not yet mark the caller's
    transaction as broken. When Django asks for the value, it finds this token.
    """
    if instance.pk is None and any(source.is_pk for source in layout.sources):
        return  # a default will make it while Django saves, and a secret is bound to it
    for field in layout.fields:
        if update_fields is None or field.name in update_fields or field.attname in update_fields:
            # A deferred secret is loaded before its source in another table is written.
            load = layout.spans_tables and not instance._state.adding
            secret = field.stored_in(instance) if load else instance.__dict__.get(field.attname)
            if secret is not None:
                field.seal(instance, secret)


def _do_update(original: Method) -> Method:
    @wraps(original)
    def _do_update(self: models.Model, *args: Any) -> Any:
        return do_update(original, self, *args)

    return _do_update


def _getstate(original: Method) -> Method:
    @wraps(original)
    def getstate(self: models.Model) -> dict[str, Any]:
        state: dict[str, Any] = original(self)
        for field in layout_of(self).fields:
            secret = state.get(field.attname)
            if isinstance(secret, Ciphertext):
                if secret._value is not UNREAD or field.allow_plaintext:
                    field.seal(self, secret)
                state[field.attname] = secret.__copy__()
        return state

    return getstate


def _clean_fields(original: Method) -> Method:
    @wraps(original)
    def clean_fields(self: models.Model, exclude: Any = None) -> None:
        stored = {
            field.name
            for field in layout_of(self).fields
            if getattr(self.__dict__.get(field.attname), "_value", None) is UNREAD
        }
        original(self, exclude=stored.union(exclude or ()))

    return clean_fields


def _prepare_related(original: Method) -> Method:
    @wraps(original)
    def _prepare_related_fields_for_save(
        self: models.Model, operation_name: str, fields: Any = None
    ) -> None:
        if operation_name == "bulk_create":  # save() seals first, and refuses it there
            for source in layout_of(self).sources:
                value = self.__dict__.get(source.attname)
                if hasattr(value, "resolve_expression"):
                    source.text(value)
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
            tenant = instance._state.fields_cache.get(source.field.name)
            if tenant is not None and tenant.pk is None and instance.__dict__.get(field.attname):
                raise MissingSaltError(
                    f"{field.label} is encrypted for its {source.field.name!r}, and that object "
                    "is not saved yet, so it has no id. Save it first, then this one."
                ) from None


_WRAPPERS: dict[str, Callable[[Method], Method]] = {
    "from_db": _from_db,
    "refresh_from_db": _refresh_from_db,
    "save_base": _save_base,
    "_do_update": _do_update,
    "__getstate__": _getstate,
    "clean_fields": _clean_fields,
    "_prepare_related_fields_for_save": _prepare_related,
}


def _check_dependents(layout: Layout, instance: models.Model, update_fields: Any) -> None:
    """Refuse to change a parent's source under a child's secret (multi-table inheritance)."""
    loaded = layout.loaded(instance)
    now = layout.current(instance)
    for field in layout.dependents:
        child = field.model
        if isinstance(instance, child):
            continue
        names = {field.salt_field, *field.bound_to}
        places = [
            place
            for place, source in enumerate(layout.sources)
            if names.intersection((source.field.name, source.attname))
            and (
                update_fields is None
                or source.field.name in update_fields
                or source.attname in update_fields
            )
        ]
        if loaded is not None and not layout.changed(loaded, now, places):
            continue
        rows = child._base_manager.using(instance._state.db).filter(pk=instance.pk)
        if rows.exclude(**{f"{field.name}__isnull": True}).exists():
            raise FieldError(
                f"{field.label} of this row depends on fields that this save changes, and only "
                f"a {child._meta.object_name} can write both. Load the row as that and save it."
            )
