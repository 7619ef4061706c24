"""Saves of a part of a row: whatever is written, the secret and its sources stay together.

``save(update_fields=...)``, the save of an instance with deferred fields and ``bulk_update``
write some columns and rely on what stands in the others. What they rely on is put into the WHERE
of the UPDATE: the source values that the secret is sealed under, and for a secret that is only
taken along, its token. If somebody changed the row meanwhile the UPDATE matches nothing; then the
row is read again and the secret sealed for what it holds now. So a race never ends with one
party's tenant and the other's ciphertext, nor with an edit undone by a move.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from django.core.exceptions import FieldError
from django.db import connections, models, transaction
from django.db.models.sql.where import AND

from encryption.binding import Layout, Partial, Source, Values, layout_of
from encryption.collations import compares_exactly
from encryption.dependents import check_written
from encryption.descriptors import UNREAD, Ciphertext
from encryption.guards import is_vouched, vouching
from encryption.indexes import check_pair
from encryption.lookups import SameText, TokenIs, taken_for_equal

if TYPE_CHECKING:
    from encryption.fields import EncryptedField
    from encryption.indexes import BlindIndexField

#: How often a row that changes all the time is read again before the save gives up.
_ATTEMPTS: Final = 10

#: A field, unused, and the value to write: as Django's ``_do_update`` takes it.
Write = tuple["models.Field[Any, Any]", Any, Any]


class Stored:
    """What a row is believed, or was just read, to hold."""

    def __init__(
        self,
        sources: Values,
        tokens: "dict[str, Ciphertext | None]",
        indexes: "dict[str, Any] | None" = None,
    ) -> None:
        self.sources = sources
        self.tokens = tokens
        self.indexes = indexes or {}

    @classmethod
    def believed(cls, layout: Layout, instance: models.Model) -> "Stored | None":
        """What the instance was loaded with; ``None`` if it never was."""
        under = instance._state.__dict__.get("encrypted_under")
        sources = layout.loaded(instance)
        if sources is None:
            return None
        tokens: dict[str, Ciphertext | None] = {}
        for field in layout.fields:
            if field.attname in instance.__dict__:
                secret = instance.__dict__[field.attname]
                if secret is None or (
                    is_clean(field, secret) and layout.knows(field, secret._sources or under or ())
                ):
                    tokens[field.attname] = secret
        return cls(sources, tokens)

    @classmethod
    def read(
        cls, layout: Layout, row: "models.QuerySet[Any]", before: "Stored | None" = None
    ) -> "Stored | None":
        """Read the row; ``None`` if there is none.

        Args:
            before: what was read before this save wrote to any table, if there are several.
        """
        secrets = [field.attname for field in layout.fields]
        found = row.values_list(*layout.attnames, *secrets).first()
        if found is None:
            return None
        count = len(layout.attnames)
        sources = tuple(found[:count])
        if before is not None:
            sources = before.sources
        tokens = dict(zip(secrets, found[count:], strict=True))
        for secret in tokens.values():
            if secret is not None:
                secret._sources = sources
        return cls(sources, tokens)


def is_clean(field: "EncryptedField", secret: Ciphertext) -> bool:
    """Say whether a secret on an instance is the stored one."""
    return secret._token is not None and (secret._value is UNREAD or not field.is_changed(secret))


def pin(layout: Layout, instance: models.Model) -> None:
    """Note on each unread secret what it is sealed under, before the instance forgets that."""
    under = instance._state.__dict__.get("encrypted_under")
    for field in layout.fields:
        secret = instance.__dict__.get(field.attname)
        if secret is not None and secret._token is not None and secret._sources is None:
            if under is not None and (type(under) is tuple or layout.knows(field, under)):
                secret._sources = under
            elif under is not None:
                del instance.__dict__[field.attname]  # it is read anew, with its sources


def target_of(
    layout: Layout,
    instance: models.Model,
    names: Iterable[str],
    before: "Stored | None" = None,
) -> Values | None:
    """The source values that a row has after a save of these fields, as far as is known."""
    loaded = layout.loaded(instance) if before is None else before.sources
    if loaded is None:
        return None
    named = set(names)
    now = layout.current(instance)
    return tuple(
        now[place]
        if now[place] is not loaded[place]
        and (source.is_pk or source.field.name in named or source.attname in named)
        else loaded[place]
        for place, source in enumerate(layout.sources)
    )


def do_update(
    original: Callable[..., Any],
    instance: models.Model,
    base_qs: "models.QuerySet[Any]",
    using: str,
    pk_val: Any,
    values: list[Write],
    update_fields: Iterable[str],
    *rest: Any,
) -> Any:
    """Django's ``Model._do_update`` of some fields, kept consistent; see the module's text."""
    rest = (update_fields, *rest)
    layout = layout_of(instance)
    written = {field.attname for field, _, _ in values}
    table = base_qs.model._meta.concrete_model
    secrets = [field for field in layout.fields if field.model is table]
    if not secrets or not _concerned(layout, secrets, written, update_fields):
        with vouching() if layout.spans_tables else nullcontext():
            return original(instance, base_qs, using, pk_val, values, *rest)
    row: models.QuerySet[Any] = models.QuerySet(type(instance), using=using).filter(pk=instance.pk)
    before: Stored | None = instance._state.__dict__.get("encrypted_before")
    stored = before or Stored.believed(layout, instance)
    for _ in range(_ATTEMPTS):
        update = None if stored is None else _Update(layout, instance, secrets, values, stored)
        if update is not None and update.is_complete:
            with vouching():
                result = original(
                    instance, update.condition(base_qs), using, pk_val, update.values, *rest
                )
            if result:
                update.done()
                return result
        # A transaction of MariaDB may go on seeing a row that the UPDATE does not find so; this
        # it sees as it is, and keeps.
        is_snapshot = connections[using].vendor == "mysql" and connections[using].in_atomic_block
        stored = Stored.read(layout, row.select_for_update() if is_snapshot else row, before)
        if stored is None:
            with vouching():  # there is no row, and Django says so in its own way
                return original(instance, base_qs, using, pk_val, values, *rest)
        _check_key(layout, instance, stored)
        if not base_qs.filter(pk=pk_val).exists():
            raise FieldError(
                f"{base_qs.model._meta.label} (pk={pk_val}) is not seen by the base manager that "
                "Django saves it through, so nobody can write what belongs together. Nothing was "
                "written. A base manager must not leave rows out."
            )
    raise FieldError(
        f"{layout.model._meta.label} (pk={pk_val}) was changed by others in each of {_ATTEMPTS} "
        "attempts to save it. Nothing was written: refresh it and try again."
    )


def _check_key(layout: Layout, instance: models.Model, stored: Stored) -> None:
    """Refuse a row that was found by a primary key of another text, under which it is sealed.

    Raises:
        FieldError: the database takes the two for equal.
    """
    now = layout.current(instance)
    for place, source in enumerate(layout.sources):
        if source.is_pk and not source.same(now[place], stored.sources[place]):
            raise taken_for_equal(layout.model, stored.sources[place])


def update_of_whole_row(
    original: Callable[..., Any],
    instance: models.Model,
    base_qs: "models.QuerySet[Any]",
    using: str,
    pk_val: Any,
    values: list[Write],
    *rest: Any,
) -> Any:
    """Django's ``Model._do_update`` of all fields, which are consistent in themselves.

    Only the primary key has to be the row's own: where it is a text that a secret is sealed for,
    the database may take another for equal.

    Raises:
        FieldError: it does.
    """
    layout = layout_of(instance)
    if layout.indexes:
        for field in layout.fields:
            for one, _, secret in values:
                if one is field and isinstance(secret, Ciphertext):
                    check_pair(field, instance, secret)
    keys = [
        source
        for source in layout.text_keys
        if source.field.model._meta.db_table == base_qs.model._meta.db_table
    ]
    exactly = _of_same_text(base_qs, instance, keys, using) if keys else None
    if exactly is None:
        return original(instance, base_qs, using, pk_val, values, *rest)
    result = original(instance, exactly, using, pk_val, values, *rest)
    if not result:
        found = base_qs.filter(pk=pk_val).values_list("pk", flat=True).first()
        if found is not None:
            raise taken_for_equal(base_qs.model, found)
    return result


def _of_same_text(
    rows: "models.QuerySet[Any]", instance: models.Model, keys: Sequence[Source], using: str
) -> "models.QuerySet[Any] | None":
    """The rows with these very texts; ``None`` where the database finds no others."""
    connection = connections[using]
    # MariaDB would have to be asked each time.
    if connection.vendor != "mysql" and all(
        compares_exactly(source.field, connection) for source in keys
    ):
        return None
    rows = rows.all()
    for source in keys:
        column = source.field.get_col(rows.model._meta.db_table)
        rows.query.where.add(SameText(column, getattr(instance, source.attname)), AND)
    return rows


def update_of_many(
    original: Callable[..., Any],
    instance: models.Model,
    base_qs: "models.QuerySet[Any]",
    using: str,
    pk_val: Any,
    values: list[Write],
    update_fields: Iterable[str] | None,
    *rest: Any,
) -> Any:
    """Django's ``Model._do_update`` where secrets and their sources are in several tables.

    It runs once for each table, and what it writes into one is relied on in the next. So the row
    is locked in all of them by the first, until the save's transaction ends; a parent's class,
    whose save needs none for itself, gets one.
    """
    layout = layout_of(instance)
    arguments = (instance, base_qs, using, pk_val, values, update_fields, *rest)
    if update_fields is not None and layout.concerning.isdisjoint(update_fields):
        return original(*arguments)
    with transaction.atomic(using=using, savepoint=False):
        if layout.dependents and values and not is_vouched():  # a fixture's rows come one by one
            check_written(instance, using, base_qs.model, pk_val, values)
        if update_fields is None:
            with vouching():
                return update_of_whole_row(original, *arguments)
        state: Any = instance._state
        if "encrypted_before" not in state.__dict__:
            row: models.QuerySet[Any] = models.QuerySet(type(instance), using=using).filter(
                pk=instance.pk
            )
            state.encrypted_before = Stored.read(layout, row.select_for_update())
        # A handler of pre_save may have changed the sources since the save began.
        before = state.encrypted_before
        state.encrypt_under = target_of(layout, instance, update_fields, before)
        return do_update(original, *arguments)


def _concerned(
    layout: Layout,
    secrets: Sequence["EncryptedField"],
    written: set[str],
    update_fields: Iterable[str],
) -> bool:
    named = set(update_fields)
    return any(
        field.attname in written
        or any(index.attname in written for index in field.indexes)
        or source.attname in written
        or source.field.name in named
        or source.attname in named
        for field in secrets
        for source in layout.sources_of(field)
    )


class _Update:
    """One attempt: the values to write and the conditions they rest on.

    Args:
        stored: what the row is believed to hold.
    """

    def __init__(
        self,
        layout: Layout,
        instance: models.Model,
        secrets: Sequence["EncryptedField"],
        values: Sequence[Write],
        stored: Stored,
    ) -> None:
        self._layout = layout
        self._instance = instance
        self._stored = stored
        self._table = secrets[0].model
        self.values = list(values)
        self.is_complete = True
        self._given = {field.attname: value for field, _, value in values}
        self._same_sources: set[int] = set()
        self._same_tokens: list[tuple[EncryptedField, str | None]] = []
        self._along: dict[str, tuple[str | None, Ciphertext]] = {}
        self._indexes: list[tuple[BlindIndexField, Ciphertext | None, Any]] = []
        now = layout.current(instance)
        moved = getattr(instance._state, "encrypt_under", None) or now
        self.target: Values = tuple(
            self._value_of(place, now, moved) for place in range(len(layout.sources))
        )
        for field in secrets:
            self._settle(field)
            if field.indexes:
                self._settle_indexes(field)

    def _value_of(self, place: int, now: Values, moved: Values) -> Any:
        source = self._layout.sources[place]
        if source.attname in self._given:
            return self._given[source.attname]
        if source.is_pk:
            return now[place]
        # A source in a parent's table was written just before, in this transaction.
        if source.field.model is not self._table:
            return moved[place] if type(moved) is not Partial else self._stored.sources[place]
        return self._stored.sources[place]

    def _settle(self, field: "EncryptedField") -> None:
        salt, bound = self._layout.places[field.attname]
        places = [place for place in (salt, *bound) if place >= 0]
        secret = self._given.get(field.attname)
        known = secret is None or self._layout.knows(field, secret._sources or ())
        if secret is not None and not known and is_clean(field, secret):
            # It was loaded without what it is sealed under, and is not changed: the row's own
            # stays, which may be a newer one.
            self.values = [one for one in self.values if one[0] is not field]
            del self._given[field.attname]
        if field.attname in self._given:
            self._reseal(field, self._given[field.attname])
            self._rely_on(place for place in places if not self._writes(place))
        elif not self._layout.changed(self._stored.sources, self.target, places):
            self._rely_on(place for place in places if self._writes(place))
        elif field.attname not in self._stored.tokens:
            self.is_complete = False
        else:
            self._take_along(field, self._stored.tokens[field.attname])
            self._rely_on(place for place in places if not self._writes(place))

    def _settle_indexes(self, field: "EncryptedField") -> None:
        """Write the indexes of a secret that is written, and of no other."""
        own = set(field.indexes)
        self.values = [one for one in self.values if one[0] not in own]
        if field.attname in self._given:
            secret = self._given[field.attname]
        elif field.attname in self._along:
            secret = self._along[field.attname][1]
        else:
            return
        for index in field.indexes:
            value = index.of(self._instance, secret)
            self.values.append((index, None, value))
            self._indexes.append((index, secret, value))

    def _writes(self, place: int) -> bool:
        return self._layout.sources[place].attname in self._given

    def _rely_on(self, places: Iterable[int]) -> None:
        sources = self._layout.sources
        # A primary key finds the row; where it is a text, perhaps one with another.
        self._same_sources.update(
            place for place in places if not sources[place].is_pk or sources[place].is_text
        )

    def _reseal(self, field: "EncryptedField", secret: Ciphertext | None) -> None:
        if secret is None:
            return
        state: Any = self._instance._state
        before = state.__dict__.get("encrypt_under")
        state.encrypt_under = self.target
        try:
            field.seal(self._instance, secret)
        finally:
            state.encrypt_under = before

    def _take_along(self, field: "EncryptedField", secret: Ciphertext | None) -> None:
        self._same_tokens.append((field, None if secret is None else secret.token))
        if secret is None:
            return
        known = secret._sources or self._stored.sources
        moved = field.resealed(self._layout, self._instance, secret, known, self.target)
        self._along[field.attname] = secret._token, moved
        self.values.append((field, None, moved))

    def condition(self, rows: "models.QuerySet[Any]") -> "models.QuerySet[Any]":
        """Add to the rows what this attempt rests on."""
        layout, table = self._layout, rows.model._meta.db_table
        texts: list[tuple[Source, Any]] = []
        for place in self._same_sources:
            source = layout.sources[place]
            if source.field.model._meta.db_table != table:
                continue  # its row is locked, see update_of_many
            value = (self.target if source.is_pk else self._stored.sources)[place]
            if value is not None and source.is_text:
                texts.append((source, value))
                continue
            rows = rows.filter(
                **(
                    {f"{source.attname}__isnull": True}
                    if value is None
                    else {source.attname: value}
                )
            )
        rows = rows.all()
        for source, value in texts:
            rows.query.where.add(SameText(source.field.get_col(table), value), AND)
        for field, token in self._same_tokens:
            rows.query.where.add(TokenIs(field.get_col(table), token), AND)
        return rows

    def done(self) -> None:
        """Remember on the instance what the row is sealed under now."""
        values = self._instance.__dict__
        pin(self._layout, self._instance)
        for index, written, value in self._indexes:
            index.remember(self._instance, written, value)
        for attname, (before, moved) in self._along.items():
            secret = values.get(attname)
            field = next(one for one in self._layout.fields if one.attname == attname)
            if secret is None and attname in values and self._instance._state.adding:
                values[attname] = moved  # made by hand, and never loaded
            elif secret is not None and secret._token == before and is_clean(field, secret):
                secret._token, secret._sources = moved._token, moved._sources
        # Not yet what is believed: the row of a child's table may still be to come.
        self._instance._state.encrypted_after = self.target  # type: ignore[attr-defined]
