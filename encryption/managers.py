"""Querysets that know which columns belong together, and can derive keys ahead."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

from django.core.exceptions import FieldError
from django.db import models, transaction
from django.db.models.manager import BaseManager
from django.db.models.query import ModelIterable

from encryption.binding import MISSING, Layout, Values, layout_of_class, remember_under
from encryption.blindlookups import sorting_out, truncated_of
from encryption.conf import get_keyring
from encryption.core import tokens
from encryption.core.errors import DecryptionError, EncryptionError
from encryption.dependents import check_rows, dependents_on, refusal
from encryption.descriptors import Ciphertext
from encryption.guards import vouching
from encryption.lookups import SealedIndex, SealedValue, taken_for_equal
from encryption.rules import Rule, Written, key_of, row_after, rules_for, rules_of, two_keys_live
from encryption.saving import Stored, is_clean, pin
from encryption.uniqueness import check, check_together, lock_for, lock_named, lock_rows
from encryption.unseen import try_other_keys, trying_later

if TYPE_CHECKING:
    from encryption.fields import EncryptedField
    from encryption.indexes import BlindIndexField

# Subscripted for the type checker only, which Django's own classes take at runtime too.
_QuerySet = models.QuerySet[Any]
if TYPE_CHECKING:
    _ModelIterable = ModelIterable[Any]
else:
    _ModelIterable = ModelIterable


class SourcesQuerySet(_QuerySet):
    """Loads with each secret what it is read under, so that reading it costs no query.

    Models with Django's own manager get it too.
    """

    def only(self, *fields: str) -> Self:
        """Load only these fields, and the sources of encrypted ones among them."""
        return super().only(*fields, *self._sources_for(fields), *self._indexes_for(fields))

    def defer(self, *fields: str | None) -> Self:
        """Load these fields later, but not the sources of a secret that is loaded now."""
        names = {name for name in fields if name is not None}
        layout = layout_of_class(self.model)
        loaded = [field.name for field in layout.fields if field.name not in names]
        needed = {
            name
            for field in layout.fields
            if field.name in loaded
            for source in layout.sources_of(field)
            for name in (source.field.name, source.attname)
        }
        needed.update(index.name for index in layout.indexes if index.source in loaded)
        kept = [name for name in fields if name not in needed]
        return super().defer(*kept) if kept or not fields else self.all()  # type: ignore[arg-type]

    def bulk_update(
        self, objs: Iterable[Any], fields: Iterable[str], batch_size: int | None = None
    ) -> int:
        """Refuse what needs :class:`EncryptedManager`, before a transaction is begun.

        Raises:
            FieldError: a secret, or what one is encrypted under, is among the fields.
        """
        layout = layout_of_class(self.model)
        fields = list(fields)
        for field in layout.fields:
            if (
                field.name in fields
                or any(index.name in fields for index in field.indexes)
                or field.attname in fields
                or _is_concerned(layout, field, set(fields))
            ):
                raise FieldError(
                    f"{field.label} is encrypted for each row, which bulk_update({fields}) "
                    "of Django's own manager does not know. Nothing was written. Set `objects = "
                    "EncryptedManager()` on the model, or save() the instances."
                )
        for field in dependents_on(layout, fields):
            raise refusal(field)
        return super().bulk_update(objs, fields, batch_size)

    def bulk_create(self, objs: Iterable[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """As Django's; an upsert that takes a secret over takes its blind indexes along."""
        update_fields = kwargs.get("update_fields")
        if update_fields is not None:
            along = self._indexes_for(tuple(update_fields))
            kwargs["update_fields"] = [*update_fields, *along]
        layout = layout_of_class(self.model)
        if not layout.indexes or not rules_of(layout) or not two_keys_live():
            return super().bulk_create(objs, *args, **kwargs)
        self._for_write = True
        objs = list(objs)
        with trying_later(self.db):
            lock_rows(self.db, objs)  # of all batches
            return super().bulk_create(objs, *args, **kwargs)

    def update_or_create(
        self,
        defaults: Mapping[str, Any] | None = None,
        create_defaults: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, bool]:
        """As Django's; while two keys are live, its locks come before the row's.

        ``save()`` takes them in that order too, and two that do it the other way round wait for
        each other. A tenant that is not among the arguments is not known here.
        """
        layout = layout_of_class(self.model)
        if not layout.indexes or not rules_of(layout) or not two_keys_live():
            return super().update_or_create(defaults, create_defaults, **kwargs)
        self._for_write = True
        updated, created = defaults or {}, create_defaults
        created = updated if created is None else created
        with transaction.atomic(using=self.db):
            lock_named(layout, self.db, {**kwargs, **updated}, {**kwargs, **created})
            return super().update_or_create(defaults, create_defaults, **kwargs)

    def update(self, **kwargs: Any) -> int:
        """As Django's; where a secret becomes NULL, its blind indexes do."""
        for index in layout_of_class(self.model).indexes:
            if index.source in kwargs and kwargs[index.source] is None:
                kwargs.setdefault(index.name, None)
        return super().update(**kwargs)

    update.alters_data = True  # type: ignore[attr-defined]

    def _indexes_for(self, fields: Sequence[str]) -> list[str]:
        layout = layout_of_class(self.model)
        return [
            index.name
            for index in layout.indexes
            if index.source in fields and index.name not in fields
        ]

    def _sources_for(self, fields: Sequence[str]) -> list[str]:
        layout = layout_of_class(self.model)
        return [
            source.field.name
            for field in layout.fields
            if field.name in fields
            for source in layout.sources_of(field)
            if source.field.name not in fields and source.attname not in fields
        ]


class SortingIterable(_ModelIterable):
    """The rows of a query by a truncated index, without those that only share the index.

    A query that cannot be sorted out is refused when its SQL is made.
    """

    def __iter__(self) -> Iterator[Any]:
        query = self.queryset.query
        conditions = truncated_of(query)
        rows = super().__iter__()
        with sorting_out(query if conditions else None):
            first = next(rows, None)  # makes the SQL
        for row in () if first is None else chain((first,), rows):
            if all(condition.finds(row) for condition in conditions):
                yield row


class EncryptedQuerySet(SourcesQuerySet):
    """A queryset for models with encrypted fields."""

    def _filter_or_exclude_inplace(self, *args: Any, **kwargs: Any) -> None:
        super()._filter_or_exclude_inplace(*args, **kwargs)  # type: ignore[misc]
        truncated = layout_of_class(self.model).has_truncated_indexes
        if truncated and self._iterable_class is ModelIterable:
            self._iterable_class = SortingIterable

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """As Django's, also by a truncated index: without its limit of 21 rows."""
        if not layout_of_class(self.model).has_truncated_indexes or self.query.combinator:
            return super().get(*args, **kwargs)
        found = self.filter(*args, **kwargs)
        if not truncated_of(found.query):
            return super().get(*args, **kwargs)
        rows = list(found.order_by())
        name = self.model._meta.object_name
        if not rows:
            raise self.model.DoesNotExist(f"{name} matching query does not exist.")
        if len(rows) > 1:
            raise self.model.MultipleObjectsReturned(f"get() returned {len(rows)} {name}s.")
        return rows[0]

    def bulk_update(
        self, objs: Iterable[Any], fields: Iterable[str], batch_size: int | None = None
    ) -> int:
        """As Django's, with each secret encrypted for its own row.

        Where a source of a secret is among the fields (a project, say), the stored secret is
        encrypted anew and written along. The rows are locked and looked at first, with one more
        query for all; instances that have no row are passed over.

        Raises:
            FieldError, MissingSaltError, TypeError, ValueError: as ``save()`` does.
        """
        layout = layout_of_class(self.model)
        objs, fields = tuple(objs), list(fields)
        opts = self.model._meta
        names = {opts.get_field(name).name for name in fields}
        rules = list(rules_for(layout, names)) if layout.indexes and two_keys_live() else []
        concerned = [
            field
            for field in layout.fields
            if _is_concerned(layout, field, names)
            or any(rule.index.source == field.name for rule in rules)
        ]
        for index in layout.indexes:
            if index.name in names and index.source not in names:
                raise FieldError(
                    f"{index.label} is computed from {index.source!r} and is written together "
                    "with it. Nothing was written. Name that field instead."
                )
        names.difference_update(index.name for index in layout.indexes)
        if (
            not (concerned or dependents_on(layout, names))
            or not objs
            or not all(one._is_pk_set() for one in objs)  # which Django refuses
        ):
            return models.QuerySet.bulk_update(self, objs, fields, batch_size)
        self._for_write = True
        with transaction.atomic(using=self.db, savepoint=False):
            under = [layout.current(one) for one in objs]
            under = [one for one in under if type(one) is tuple]
            # Before any row is locked, as save() does.
            lock_for(self.db, [(rule, under) for rule in rules])
            stored = self._lock(layout, objs)
            # A row that is not there would not be written either, but one that somebody else
            # inserts meanwhile would: unlocked, and under sources that nobody looked at.
            rows = [
                _Row(layout, one, concerned, names, stored[key])
                for one in objs
                for key in (key_of(self.model, one.pk),)
                if key in stored
            ]
            check_rows(
                layout,
                self.db,
                names,
                [(row.pk, row.stored.sources, row.under) for row in rows],
            )
            written = {*names, *(name for row in rows for name in row.along)}
            written.update(index.name for index in layout.indexes if index.source in written)
            self._check_keys(rows, written)
            looked = [(rule, self._to_write(rule, rows, names)) for rule in rules]
            unseen = [
                (rule, to_write)
                for rule, to_write in looked
                if check(rule, self.db, to_write, rewritten=[row.instance for row in rows])
            ]
            with vouching():
                count = models.QuerySet.bulk_update(
                    self,
                    rows,
                    sorted(written),
                    batch_size,
                )
            for rule, to_write in looked:
                check_together(rule, self.db, to_write)
            try_other_keys(self.db, unseen)
        for row in rows:
            row.written()
        return count

    def _check_keys(self, rows: "Sequence[_Row]", names: Iterable[str]) -> None:
        """Refuse fields of a parent that has another primary key, which Django's UPDATE mistakes.

        Raises:
            FieldError: it would look for the rows there by the child's key, and write NULL.
        """
        for name in names:
            parent: Any = self.model._meta.get_field(name).model
            if any(row.instance._get_pk_val(parent._meta) != row.pk for row in rows):
                raise FieldError(
                    f"{name!r} stands in the table of {parent._meta.label}, where these rows have "
                    "another primary key: Django's bulk_update would write NULL into it. Nothing "
                    "was written. save() the instances."
                )

    def _to_write(self, rule: Rule, rows: "Sequence[_Row]", names: set[str]) -> list[Written]:
        """What the rows will hold, as far as a unique constraint is about it."""
        deciding = {*rule.names, *rule.conditions}
        stored: dict[Any, models.Model] = {}
        if deciding:
            found = self.model._base_manager.using(self.db).filter(pk__in=[row.pk for row in rows])
            # As they are now, at every isolation level, and without rows of a nullable relation.
            found = found.select_related(None).select_for_update()
            stored = {key_of(self.model, one.pk): one for one in found}
        written = []
        for row in rows:
            text, after = row.text_of(rule.index), row.instance
            if text is not None and deciding:
                key = key_of(self.model, row.pk)
                if key not in stored:
                    continue
                after = row_after(stored[key], row.given({*deciding, rule.index.source}))
            if text is not None:
                written.append(Written(after, text, row.under, rule.beside(after)))
        return written

    def _lock(self, layout: Layout, objs: Sequence[Any]) -> dict[Any, Stored]:
        secrets = [field.attname for field in layout.fields]
        indexes = [index.attname for index in layout.indexes]
        rows: models.QuerySet[Any] = models.QuerySet(self.model, using=self.db)
        rows = rows.filter(pk__in=[one.pk for one in objs]).select_for_update().order_by("pk")
        count = len(layout.attnames)
        found = {}
        for pk, *row in rows.values_list("pk", *layout.attnames, *secrets, *indexes):
            sources = tuple(row[:count])
            held = dict(zip(secrets, row[count : count + len(secrets)], strict=True))
            beside = dict(zip(indexes, row[count + len(secrets) :], strict=True))
            for secret in held.values():
                if secret is not None:
                    secret._sources = sources
            found[key_of(self.model, pk)] = Stored(sources, held, beside)
        given = {key_of(self.model, one.pk) for one in objs}
        for key in found:
            if key not in given:
                raise taken_for_equal(self.model, key)
        return found

    def derive_keys(self) -> Self:
        """Evaluate, and derive the keys of all tenants in the result at once, on all cores.

        A v1 key costs 15 to 30 ms; with this, reading v1 rows of 1,000 tenants costs one wait
        instead of 1,000. For v2 rows there is nothing to wait for.

        Returns:
            The queryset itself, evaluated.
        """
        layout = layout_of_class(self.model)
        sample: dict[str, str] = {}
        for instance in self:
            for field in layout.fields:
                secret = instance.__dict__.get(field.attname)
                if secret is None or not secret.token or tokens.key_id_of(secret.token):
                    continue
                under = secret._sources or layout.loaded(instance)
                if under is not None:
                    sample.setdefault(layout.salt(field, under), secret.token)
        if sample:
            get_keyring()
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                list(pool.map(_derive, sample.values(), sample.keys()))
        return self


class EncryptedManager(BaseManager.from_queryset(EncryptedQuerySet)):  # type: ignore[misc]
    """``objects = EncryptedManager()``: ``bulk_update``, ``only`` and ``derive_keys``."""


def _derive(token: str, salt: str) -> None:
    try:
        get_keyring().decrypt(token, salt)
    except DecryptionError:
        pass  # the attribute will say so when it is read


def _is_concerned(layout: Layout, field: "EncryptedField", names: set[str]) -> bool:
    return field.name in names or any(
        source.field.name in names or source.attname in names for source in layout.sources_of(field)
    )


class _Row:
    """An instance as ``bulk_update`` sees it: with tokens in the place of secrets.

    Args:
        concerned: the encrypted fields that are written, or that depend on what is written.
        names: the fields that the caller named.
        stored: what the row holds.
    """

    def __init__(
        self,
        layout: Layout,
        instance: models.Model,
        concerned: Sequence["EncryptedField"],
        names: set[str],
        stored: Stored,
    ) -> None:
        self._layout = layout
        self.instance = instance
        self.stored = stored
        self._names = names
        self._concerned = {field.attname: field for field in concerned}
        now = layout.current(instance)
        before = stored.sources
        self.under: Values = tuple(
            now[place]
            if now[place] is not MISSING and (source.is_pk or source.field.name in names)
            else before[place]  # what is deferred is read from the row, which is locked
            for place, source in enumerate(layout.sources)
        )
        self._sealed: dict[str, Ciphertext | None] = {}
        #: Names of secrets that have to be written although the caller did not name them.
        self.along: set[str] = set()
        for field in concerned:
            salt, bound = layout.places[field.attname]
            if field.name in names:
                self._sealed[field.attname] = self._seal(field)
            else:
                secret = stored.tokens[field.attname]
                if secret is not None and layout.changed(before, self.under, (salt, *bound)):
                    secret = field.resealed(layout, instance, secret, before, self.under)
                    self.along.add(field.name)
                self._sealed[field.attname] = secret
        #: The blind indexes of these secrets, by attname.
        self._indexes = {
            index.attname: (index, self._index_of(index, self._sealed.get(field.attname)))
            for field in concerned
            for index in field.indexes
        }

    def given(self, names: set[str]) -> dict[str, Any]:
        """What of these fields is written, by attname."""
        given = {}
        for name in names:
            attname = self.instance._meta.get_field(name).attname  # type: ignore[union-attr]
            if attname in self._sealed:
                given[attname] = self._sealed[attname]
            elif attname in self._indexes:
                given[attname] = self._indexes[attname][1]
            elif name in self._names:
                given[attname] = getattr(self.instance, attname)
        return given

    def text_of(self, index: "BlindIndexField") -> str | None:
        """What the row's secret was encrypted from; ``None`` for NULL, or what cannot be read."""
        secret = self._sealed.get(index.encrypted.attname)
        try:
            return None if secret is None else index.text_in(self.instance, secret)
        except EncryptionError:
            return None

    def _index_of(self, index: "BlindIndexField", secret: Ciphertext | None) -> Any:
        if secret is None:
            return None
        stored = self.stored.tokens.get(index.encrypted.attname)
        if stored is secret and self.stored.indexes.get(index.attname) is not None:
            return self.stored.indexes[index.attname]
        return index.of(self.instance, secret)

    def _seal(self, field: "EncryptedField") -> Ciphertext | None:
        state: Any = self.instance._state
        state.encrypt_under = self.under
        try:
            return field.pre_save(self.instance, False)
        finally:
            del state.encrypt_under

    def __getattr__(self, name: str) -> Any:
        if name in self._indexes:
            index, value = self._indexes[name]
            return SealedIndex(value, index)
        field = self._concerned.get(name)
        if field is None:
            return getattr(self.instance, name)
        return SealedValue(self._sealed.get(name), field)

    def written(self) -> None:
        """Remember on the instance what its row is sealed under now."""
        pin(self._layout, self.instance)
        remember_under(self.instance, self.under)
        for index, value in self._indexes.values():
            index.remember(self.instance, self._sealed[index.encrypted.attname], value)
        for attname, sealed in self._sealed.items():
            secret = self.instance.__dict__.get(attname)
            if secret is None or sealed is None or secret is sealed:
                continue
            before = self.stored.tokens.get(attname)
            same = before is not None and secret._token == before._token
            if same and is_clean(self._concerned[attname], secret):
                secret._token, secret._sources = sealed._token, sealed._sources
