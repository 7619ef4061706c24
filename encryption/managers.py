"""Querysets that know which columns belong together, and can derive keys ahead."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

from django.core.exceptions import FieldError
from django.db import models, transaction
from django.db.models.manager import BaseManager

from encryption.binding import Layout, Values, layout_of_class
from encryption.conf import get_keyring
from encryption.core import tokens
from encryption.core.errors import DecryptionError
from encryption.descriptors import Ciphertext
from encryption.guards import vouching
from encryption.lookups import SealedValue
from encryption.saving import Stored, is_clean, pin

if TYPE_CHECKING:
    from encryption.fields import EncryptedField

# Subscripted for the type checker only, which Django's own classes take at runtime too.
_QuerySet = models.QuerySet[Any]


class SourcesQuerySet(_QuerySet):
    """Loads with each secret what it is read under, so that reading it costs no query.

    Models with Django's own manager get it too.
    """

    def only(self, *fields: str) -> Self:
        """Load only these fields, and the sources of encrypted ones among them."""
        return super().only(*fields, *self._sources_for(fields))

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
                or field.attname in fields
                or _is_concerned(layout, field, set(fields))
            ):
                raise FieldError(
                    f"{field.label} is encrypted for each row, which bulk_update({fields}) "
                    "of Django's own manager does not know. Nothing was written. Set `objects = "
                    "EncryptedManager()` on the model, or save() the instances."
                )
        return super().bulk_update(objs, fields, batch_size)

    def _sources_for(self, fields: Sequence[str]) -> list[str]:
        layout = layout_of_class(self.model)
        return [
            source.field.name
            for field in layout.fields
            if field.name in fields
            for source in layout.sources_of(field)
            if source.field.name not in fields and source.attname not in fields
        ]


class EncryptedQuerySet(SourcesQuerySet):
    """A queryset for models with encrypted fields."""

    def bulk_update(
        self, objs: Iterable[Any], fields: Iterable[str], batch_size: int | None = None
    ) -> int:
        """As Django's, with each secret encrypted for its own row.

        Where a source of a secret is among the fields (a project, say), the stored secret is
        encrypted anew and written along. The rows are locked and looked at first, with one more
        query for all.

        Raises:
            FieldError, MissingSaltError, TypeError, ValueError: as ``save()`` does.
        """
        layout = layout_of_class(self.model)
        objs, fields = tuple(objs), list(fields)
        opts = self.model._meta
        names = {opts.get_field(name).name for name in fields}
        concerned = [field for field in layout.fields if _is_concerned(layout, field, names)]
        if not concerned or not objs:
            return models.QuerySet.bulk_update(self, objs, fields, batch_size)
        self._for_write = True
        with transaction.atomic(using=self.db, savepoint=False):
            stored = self._lock(layout, objs)
            rows = [_Row(layout, one, concerned, names, stored.get(one.pk)) for one in objs]
            written = {*names, *(name for row in rows for name in row.along)}
            with vouching():
                count = models.QuerySet.bulk_update(
                    self,
                    rows,
                    sorted(written),
                    batch_size,
                )
        for row in rows:
            row.written()
        return count

    def _lock(self, layout: Layout, objs: Sequence[Any]) -> dict[Any, Stored]:
        secrets = [field.attname for field in layout.fields]
        rows = self.model._base_manager.using(self.db).filter(pk__in=[one.pk for one in objs])
        rows = rows.select_for_update().order_by("pk")
        count = len(layout.attnames)
        found = {}
        for pk, *row in rows.values_list("pk", *layout.attnames, *secrets):
            sources = tuple(row[:count])
            held = dict(zip(secrets, row[count:], strict=True))
            for secret in held.values():
                if secret is not None:
                    secret._sources = sources
            found[pk] = Stored(sources, held)
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
        stored: what the row holds; ``None`` if there is no such row.
    """

    def __init__(
        self,
        layout: Layout,
        instance: models.Model,
        concerned: Sequence["EncryptedField"],
        names: set[str],
        stored: Stored | None,
    ) -> None:
        self._layout = layout
        self._instance = instance
        self._stored = stored
        self._concerned = {field.attname: field for field in concerned}
        now = layout.current(instance)
        before = now if stored is None else stored.sources
        self._under: Values = tuple(
            now[place] if source.is_pk or source.field.name in names else before[place]
            for place, source in enumerate(layout.sources)
        )
        self._sealed: dict[str, Ciphertext | None] = {}
        #: Names of secrets that have to be written although the caller did not name them.
        self.along: set[str] = set()
        for field in concerned:
            salt, bound = layout.places[field.attname]
            if field.name in names:
                self._sealed[field.attname] = self._seal(field)
            elif stored is not None:
                secret = stored.tokens[field.attname]
                if secret is not None and layout.changed(before, self._under, (salt, *bound)):
                    secret = field.resealed(layout, instance, secret, before, self._under)
                    self.along.add(field.name)
                self._sealed[field.attname] = secret

    def _seal(self, field: "EncryptedField") -> Ciphertext | None:
        state: Any = self._instance._state
        state.encrypt_under = self._under
        try:
            return field.pre_save(self._instance, False)
        finally:
            del state.encrypt_under

    def __getattr__(self, name: str) -> Any:
        field = self._concerned.get(name)
        if field is None:
            return getattr(self._instance, name)
        return SealedValue(self._sealed.get(name), field)

    def written(self) -> None:
        """Remember on the instance what its row is sealed under now."""
        pin(self._layout, self._instance)
        self._instance._state.encrypted_under = self._under  # type: ignore[attr-defined]
        for attname, sealed in self._sealed.items():
            secret = self._instance.__dict__.get(attname)
            if secret is None or sealed is None or secret is sealed:
                continue
            before = None if self._stored is None else self._stored.tokens.get(attname)
            same = before is not None and secret._token == before._token
            if same and is_clean(self._concerned[attname], secret):
                secret._token, secret._sources = sealed._token, sealed._sources
