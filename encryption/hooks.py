"""What a model with encrypted fields does differently from any other.

Django has no place for a field to hear that another field of the row changes. So each class with
encrypted fields gets some of its own methods wrapped when it is made. Each wrapper calls the
original and adds one thing:

======================================  ==========================================================
``from_db``                             remembers what the row was loaded with
``refresh_from_db``                     copies ciphertexts, and remembers anew
``save_base``                           says which sources the row will have after the save
``_save_table``                         takes the tokens of a fixture for tokens (rawsaves.py)
``_do_update``                          keeps a secret and its sources together (saving.py)
``__getstate__``                        lets copies and pickles carry ciphertext only
``clean_fields``                        does not decrypt what is stored to validate it again
``_get_field_expression_map``           tells constraints whether a secret is NULL (conditions.py)
``_prepare_related_fields_for_save``    names the unsaved tenant
======================================  ==========================================================
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models.manager import Manager

from encryption import promotion
from encryption.binding import MISSING, Layout, Partial, layout_of, remember_under, stored_row
from encryption.conditions import WithoutSecrets
from encryption.core.errors import MissingSaltError
from encryption.dependents import check_before
from encryption.descriptors import UNREAD, Ciphertext, InheritedAttribute, refresh_of
from encryption.families import dependents_of, register, secrets_of
from encryption.guards import guard
from encryption.indexes import note_loaded
from encryption.loading import instance_of
from encryption.managers import SourcesQuerySet
from encryption.rawsaves import tokens_as_such
from encryption.rules import rules_of
from encryption.saving import (
    do_update,
    is_clean,
    pin,
    target_of,
    update_of_many,
    update_of_whole_row,
)
from encryption.uniqueness import locking, looking, looking_afterwards, looks_for_duplicates
from encryption.validation import wrap_validation

if TYPE_CHECKING:
    from encryption.fields import EncryptedField

Method = Callable[..., Any]


def install(cls: type[models.Model], field_type: "type[EncryptedField]") -> None:
    """Give a new model class its layout, its wrapped methods and its guards.

    Called for every model class; those without encrypted fields are left alone.
    """
    if cls._meta.abstract or cls._meta.swapped:
        return
    family = register(cls)
    # Its secrets may depend on what others write; without any, it changes nothing for them.
    for one in family if secrets_of(cls, field_type) else [cls]:
        fields, dependents = secrets_of(one, field_type), dependents_of(one, field_type)
        if not fields and not dependents:
            continue
        layout = Layout(one, fields, dependents)
        for index in layout.indexes:
            for field in fields:
                if field.name == index.source and index not in field.indexes:
                    field.indexes = (*field.indexes, index)
        _set_up(one, layout)


def _set_up(cls: type[models.Model], layout: Layout) -> None:
    cls._encryption_layout = layout  # type: ignore[attr-defined]
    for name, wrapper in _WRAPPERS.items():
        method = getattr(cls, name)
        function = getattr(method, "__func__", method)
        if not hasattr(function, "_encryption_wrapper"):
            wrapped = wrapper(function)
            wrapped._encryption_wrapper = True  # type: ignore[attr-defined]
            setattr(cls, name, classmethod(wrapped) if name == "from_db" else wrapped)
    if layout.indexes:
        _note_indexes(cls)
        if rules_of(layout):
            wrap_validation(cls)
            if not looks_for_duplicates(cls):
                for name, within in _LOOKING.items():
                    wrapped = _WRAPPERS[name](within(getattr(cls, name).__wrapped__))
                    wrapped._encryption_wrapper = True  # type: ignore[attr-defined]
                    setattr(cls, name, wrapped)
    for source in layout.sources:
        guard(source.field, layout)
    for field in layout.fields:
        if field.model is not cls._meta.concrete_model:
            setattr(cls, field.attname, InheritedAttribute(field))
    for manager in cls._meta.local_managers:
        # Django's own manager learns that only("secret") needs the secret's sources too.
        if type(manager) is Manager:
            manager._queryset_class = SourcesQuerySet  # type: ignore[attr-defined]


def _from_db(original: Method) -> Method:
    # Runs for every row of every result. So what Django's own method does for a whole row is
    # done here, without another call; a from_db of the model's own is called.
    is_djangos = original is models.Model.from_db.__func__  # type: ignore[attr-defined]

    @wraps(original)
    def from_db(cls: Any, db: Any, field_names: Any, values: Any, *, fetch_mode: Any = None) -> Any:
        layout = cls._encryption_layout
        if is_djangos and len(values) == layout.width:
            instance = instance_of(cls, layout, values)
            state = instance._state
            state.adding = False
            state.db = db
            if fetch_mode is not None:  # newer Django has it
                state.fetch_mode = fetch_mode
            state.encrypted_under = layout.pick_row(values)
            return instance
        options = {} if fetch_mode is None else {"fetch_mode": fetch_mode}
        instance = original(cls, db, field_names, values, **options)
        if len(values) == layout.width:
            instance._state.encrypted_under = layout.pick_row(values)
        else:
            layout.remember(instance, field_names, values)
        return instance

    return from_db


def _note_indexes(cls: Any) -> None:
    """Have ``from_db`` also note which index was loaded with which token."""
    original = cls.from_db.__func__
    if hasattr(original, "_notes_indexes"):
        return

    @wraps(original)
    def from_db(cls: Any, *args: Any, **kwargs: Any) -> Any:
        instance = original(cls, *args, **kwargs)
        note_loaded(cls._encryption_layout.indexes, instance)
        return instance

    from_db._notes_indexes = True  # type: ignore[attr-defined]
    cls.from_db = classmethod(from_db)


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
        left_out = _left_out(layout, from_queryset, fields)
        with refresh_of(self):
            original(self, using=using, fields=fields, **options)
        _remember_refreshed(layout, self, fields, left_out)
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
        names.update(index.attname for index in layout.indexes if index.source in names)
    return names, kept


def _left_out(layout: Layout, rows: Any, fields: Any) -> set[str]:
    """The sources that a refresh from a queryset of the caller's does not load."""
    if rows is None:
        return set()
    if fields is not None:  # among which may be names of what was prefetched
        columns = {
            name for one in layout.model._meta.concrete_fields for name in (one.name, one.attname)
        }
        rows = rows.only(*columns.intersection(fields))
    mask = rows.query.get_select_mask()
    return {source.attname for source in layout.sources if mask and source.field not in mask}


def _remember_refreshed(
    layout: Layout, instance: models.Model, fields: Any, left_out: set[str]
) -> None:
    now = layout.current(instance)
    state: Any = instance._state
    known = state.__dict__.get("encrypted_under")
    if known is not None:
        pin(layout, instance)
    if layout.indexes and (fields is None or any(one.source in fields for one in layout.indexes)):
        note_loaded(layout.indexes, instance)
    if left_out:
        _forget_unknown(layout, instance)
    before = [MISSING] * len(now) if known is None else known
    under = [
        now[place]
        if source.attname not in left_out
        and (
            fields is None
            or known is None
            or source.attname in fields
            or source.field.name in fields
        )
        else before[place]
        for place, source in enumerate(layout.sources)
    ]
    remember_under(instance, Partial.of(under))


def _forget_unknown(layout: Layout, instance: models.Model) -> None:
    """Have secrets that came without their sources read again, together with those."""
    for field in layout.fields:
        secret = instance.__dict__.get(field.attname)
        if (
            secret is not None
            and type(secret._sources) is Partial
            and not layout.knows(field, secret._sources)
            and is_clean(field, secret)
        ):
            del instance.__dict__[field.attname]


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
        layout: Layout = type(self)._encryption_layout  # type: ignore[attr-defined]
        state: Any = self._state
        if update_fields is not None and layout.concerning.isdisjoint(update_fields):
            original(self, raw, force_insert, force_update, using, update_fields)
            return
        # A save within another one (a handler's) has values of its own.
        outer = _take(state)
        done = False
        if not raw and not state.adding and self._meta.parents:
            _know_keys(self)
        if layout.settling and not raw:
            layout.settle(self, update_fields)
        if update_fields is not None and not raw:
            target = target_of(layout, self, update_fields)  # which may give it a state of its own
            self._state.encrypt_under = target  # type: ignore[attr-defined]
        elif not raw and not state.adding and type(layout.current(self)) is Partial:
            layout.loaded(self)  # what is deferred is written too: to another database
        try:
            if not raw:
                _seal_first(layout, self, update_fields)
                if layout.dependents and not force_insert:
                    check_before(layout, self, using, update_fields, force_update=force_update)
            original(self, raw, force_insert, force_update, using, update_fields)
            done = True
        finally:
            own = _take(self._state)
            if done:
                if update_fields is None:
                    remember_under(self, layout.current(self))
                elif "encrypted_after" in own:
                    remember_under(self, own["encrypted_after"])
                # The row is no longer what the outer one knew it to be.
                outer = {name: outer[name] for name in ("encrypt_under",) if name in outer}
            self._state.__dict__.update(outer)

    save_base.alters_data = True  # type: ignore[attr-defined]
    return save_base


def _know_keys(instance: models.Model) -> None:
    """Load the primary keys that the row has in its parents' tables, where they were deferred.

    Of a second parent two tables up, Django would take the first one's, and write another row.
    """
    names = [one._meta.pk.attname for one in instance._meta.all_parents]
    lacking = [name for name in names if name not in instance.__dict__]
    found = stored_row(instance).values_list(*lacking).first() if lacking else None
    if found is not None:
        instance.__dict__.update(zip(lacking, found, strict=True))


def _take(state: Any) -> dict[str, Any]:
    """Take off an instance what one save of it knows, for as long as it goes on."""
    names = "encrypt_under", "encrypted_before", "encrypted_after"
    return {name: state.__dict__.pop(name) for name in names if name in state.__dict__}


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
                for index in field.indexes:
                    index.pre_save(instance, False)


def _save_table(original: Method) -> Method:
    @wraps(original)
    def _save_table(
        self: models.Model, raw: bool = False, cls: Any = None, *args: Any, **options: Any
    ) -> Any:
        if not raw:
            return original(self, raw, cls, *args, **options)
        layout = layout_of(self)
        if promotion.is_strange(layout, self):
            promotion.adopt(layout, self)
        pin(layout, self)  # a parent's secrets are not written, and stay what they are
        with tokens_as_such(self, cls):
            return original(self, raw, cls, *args, **options)

    return _save_table


def _do_update(original: Method) -> Method:
    @wraps(original)
    def _do_update(
        self: models.Model, rows: Any, using: Any, pk: Any, values: Any, names: Any, *rest: Any
    ) -> Any:
        layout: Layout = type(self)._encryption_layout  # type: ignore[attr-defined]
        if layout.spans_tables:
            return update_of_many(original, self, rows, using, pk, values, names, *rest)
        if names is None:
            if not layout.text_keys and not layout.indexes:  # consistent in itself
                return original(self, rows, using, pk, values, names, *rest)
            return update_of_whole_row(original, self, rows, using, pk, values, names, *rest)
        return do_update(original, self, rows, using, pk, values, names, *rest)

    return _do_update


def _getstate(original: Method) -> Method:
    @wraps(original)
    def getstate(self: models.Model) -> dict[str, Any]:
        state: dict[str, Any] = original(self)
        _take(state["_state"])  # a copy that a handler makes is not what is being saved
        for field in layout_of(self).fields:
            secret = state.get(field.attname)
            if isinstance(secret, Ciphertext):
                if secret._value is not UNREAD or field.allow_plaintext:
                    try:
                        secret = field.seal(self, secret)
                    except MissingSaltError:
                        raise _not_copied(field) from None
                state[field.attname] = None if secret is None else secret.__copy__()
        return state

    return getstate


def _not_copied(field: "EncryptedField") -> MissingSaltError:
    return MissingSaltError(
        f"{field.label} cannot be copied or pickled yet: a copy carries ciphertext and never a "
        f"value in clear, and this is encrypted for its {field.salt_field!r}, which is not set or "
        "not saved. Set that first, or save this row; or copy first and assign the secret to the "
        "copy."
    )


def _clean_fields(original: Method) -> Method:
    @wraps(original)
    def clean_fields(self: models.Model, exclude: Any = None) -> None:
        stored = {
            field.name
            for field in layout_of(self).fields
            if getattr(self.__dict__.get(field.attname), "_value", None) is UNREAD
        }
        stored.update(index.name for index in layout_of(self).indexes)
        original(self, exclude=stored.union(exclude or ()))

    return clean_fields


def _field_expression_map(original: Method) -> Method:
    @wraps(original)
    def _get_field_expression_map(self: models.Model, *args: Any, **options: Any) -> Any:
        return original(WithoutSecrets(self), *args, **options)

    return _get_field_expression_map


def _prepare_related(original: Method) -> Method:
    @wraps(original)
    def _prepare_related_fields_for_save(
        self: models.Model, operation_name: str, fields: Any = None
    ) -> None:
        layout = layout_of(self)
        if promotion.is_strange(layout, self):
            promotion.adopt(layout, self)  # before the save remembers anything in its state
        if operation_name == "bulk_create":  # save() seals first, and refuses it there
            for source in layout.sources:
                value = self.__dict__.get(source.attname)
                if hasattr(value, "resolve_expression"):
                    source.text(value)
            layout.settle(self)
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
    "_save_table": _save_table,
    "_do_update": _do_update,
    "__getstate__": _getstate,
    "clean_fields": _clean_fields,
    "_get_field_expression_map": _field_expression_map,
    "_prepare_related_fields_for_save": _prepare_related,
}

#: Within those, of a class with unique blind indexes.
_LOOKING: dict[str, Callable[[Method], Method]] = {
    "save_base": locking,
    "_save_table": looking_afterwards,
    "_do_update": looking,
}
