"""A queryset that knows which columns belong together, and can derive keys ahead."""

import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import models
from django.db.models.manager import BaseManager

from encryption.binding import Layout, Values
from encryption.core import tokens
from encryption.core.errors import DecryptionError
from encryption.conf import get_keyring
from encryption.hooks import layout_of_class, vouching
from encryption.lookups import SealedValue

if TYPE_CHECKING:
    from encryption.fields import EncryptedField

Model = TypeVar("Model", bound=models.Model)


class EncryptedQuerySet(models.QuerySet[Model]):
    """A queryset for models with encrypted fields."""

    def only(self, *fields: str) -> "EncryptedQuerySet[Model]":
        """Load only these fields, and with an encrypted one what it is read under.

        So that reading it costs no query, and works in async code.
        """
        layout = layout_of_class(self.model)
        wanted = set(fields)
        extra = [
            source.field.name
            for field in layout.fields
            if field.name in wanted
            for source in layout.sources_of(field)
            if source.field.name not in wanted and source.attname not in wanted
        ]
        return super().only(*fields, *extra)

    def bulk_update(
        self, objs: Iterable[Model], fields: Collection[str], batch_size: int | None = None
    ) -> int:
        """As Django's, with each secret encrypted for its own row.

        Where a source of a secret is among the fields (a project, say), the secret is encrypted
        anew and written along.

        Raises:
            FieldError, MissingSaltError, TypeError, ValueError: as ``save()`` does.
        """
        layout = layout_of_class(self.model)
        objs = tuple(objs)
        names = _completed(layout, objs, fields)
        secrets = [field for field in layout.fields if field.name in names]
        if not secrets or not objs:
            return super().bulk_update(objs, fields, batch_size)
        rows = [_Row(layout, one, secrets, names) for one in objs]
        with vouching():
            count = super().bulk_update(rows, sorted(names), batch_size)  # type: ignore[arg-type]
        for row in rows:
            row.written()
        return count

    def derive_keys(self) -> "EncryptedQuerySet[Model]":
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


def _completed(layout: Layout, objs: Sequence[models.Model], fields: Collection[str]) -> set[str]:
    """Add the secrets that depend on the fields, and the sources that secrets depend on."""
    opts = layout.model._meta
    names = {opts.get_field(name).name for name in fields}
    for field in layout.fields:
        sources = layout.sources_of(field)
        if field.name in names or any(source.field.name in names for source in sources):
            names.add(field.name)
            for source in sources:
                if not source.is_pk and all(_unchanged(layout, one, source.attname) for one in objs):
                    names.add(source.field.name)
    return names


def _unchanged(layout: Layout, instance: models.Model, attname: str) -> bool:
    loaded = layout.loaded(instance)
    place = layout.attnames.index(attname)
    return loaded is not None and not layout.changed(loaded, layout.current(instance), [place])


class _Row:
    """An instance as ``bulk_update`` sees it: with tokens in the place of secrets."""

    def __init__(
        self,
        layout: Layout,
        instance: models.Model,
        secrets: Sequence["EncryptedField"],
        names: set[str],
    ) -> None:
        self._instance = instance
        self._secrets = {field.attname: field for field in secrets}
        loaded = layout.loaded(instance) or layout.current(instance)
        now = layout.current(instance)
        self._under: Values = tuple(
            now[place] if source.is_pk or source.field.name in names else loaded[place]
            for place, source in enumerate(layout.sources)
        )

    def __getattr__(self, name: str) -> Any:
        field = self._secrets.get(name)
        if field is None:
            return getattr(self._instance, name)
        state: Any = self._instance._state
        state.encrypt_under = self._under
        try:
            return SealedValue(field.pre_save(self._instance, False), field)
        finally:
            del state.encrypt_under

    def written(self) -> None:
        """Remember on the instance what its row is sealed under now."""
        self._instance._state.encrypted_under = self._under  # type: ignore[attr-defined]
