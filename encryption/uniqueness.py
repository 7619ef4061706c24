"""Unique blind indexes while two keys are live, when each write looks for what it would double.

Under one key the database's own constraint is all that is needed. During a rotation a value has
one index under the old key and another under the new one, which no constraint compares. So each
write then looks for its value under all keys first, in its own transaction and under a lock that
all writers of the same tenant and field take (``locks.py``), before they lock a row.

A transaction of PostgreSQL at REPEATABLE READ or SERIALIZABLE does not see what others committed
since it began, whatever it locks; ``unseen.py`` says what is done about that.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, Final

from django.db import IntegrityError, connections, models, router, transaction
from django.db.models.constants import OnConflict

from encryption.binding import MISSING, Layout, Partial, Source, Values, layout_of
from encryption.core.blindindex import is_absent
from encryption.core.errors import EncryptionError, MissingSaltError
from encryption.guards import is_upsert, vouching
from encryption.indexes import BlindIndexField, Index
from encryption.locks import lock
from encryption.rules import Rule, Written, row_after, rules_for, rules_of, two_keys_live
from encryption.unseen import try_later, try_other_keys, trying_later

#: Locks that the tenants of a field share. One for each tenant would fill PostgreSQL's table of
#: locks, which all sessions share (6,400 by default), in one large ``bulk_create``; with this many
#: few writers wait for somebody else's tenant.
BUCKETS: Final = 64


def looks_for_duplicates(cls: Any) -> bool:
    """Say whether the saves of a class do, wrapped by :func:`looking` or inherited."""
    return hasattr(cls._do_update.__wrapped__, "_looks_for_duplicates")


def locking(original: Callable[..., Any]) -> Callable[..., Any]:
    """Django's ``save_base`` that takes its locks before it writes a row of the first table.

    One that writes a single table takes them where it looks for duplicates, see :func:`looking`.
    """

    @wraps(original)
    def save_base(
        self: models.Model,
        raw: bool,
        force_insert: Any,
        force_update: bool,
        using: str | None,
        update_fields: Any,
    ) -> Any:
        layout, arguments = layout_of(self), (raw, force_insert, force_update, using, update_fields)
        if raw or not layout.spans_tables or not two_keys_live():
            return original(self, *arguments)
        using = using or router.db_for_write(type(self), instance=self)
        rules = rules_of(layout) if update_fields is None else rules_for(layout, update_fields)
        with transaction.atomic(using=using, savepoint=False):
            under = [_sources_of(self)]
            lock_for(using, [(rule, under) for rule in rules])
            return original(self, *arguments)

    return save_base


def looking_afterwards(original: Callable[..., Any]) -> Callable[..., Any]:
    """Django's ``_save_table`` in a transaction, in which an INSERT is looked at once more.

    :func:`check_insert` has looked before.
    """

    @wraps(original)
    def _save_table(
        self: models.Model,
        raw: bool = False,
        cls: Any = None,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Any = None,
    ) -> Any:
        arguments = (raw, cls, force_insert, force_update, using, update_fields)
        if using is None or not two_keys_live():
            return original(self, *arguments)
        with trying_later(using):
            return original(self, *arguments)

    return _save_table


def looking(original: Callable[..., Any]) -> Callable[..., Any]:
    """Django's ``_do_update`` that first looks for the values under all keys.

    That is the last step before the statement: what a handler of ``pre_save`` or a field has
    changed is looked for as it is written.

    It raises an ``IntegrityError`` if another row holds one of them.
    """

    @wraps(original)
    def _do_update(
        self: models.Model,
        rows: Any,
        using: str,
        pk: Any,
        values: list[Any],
        names: Any,
        *rest: Any,
    ) -> Any:
        arguments = (self, rows, using, pk, values, names, *rest)
        if not values or not two_keys_live():
            return original(*arguments)
        given = {field.attname: value for field, _, value in values}
        rules = [
            rule
            for rule in rules_of(layout_of(self))
            if rule.model._meta.db_table == rows.model._meta.db_table
            and not given.keys().isdisjoint(rule.attnames)
        ]
        if not rules:
            return original(*arguments)
        with transaction.atomic(using=using, savepoint=False):
            try:
                unseen = [
                    (rule, [written])
                    for rule, written in _of_update(self, using, rules, given, whole=names is None)
                    if check(rule, using, [written], rewritten=[self])
                ]
            except IntegrityError:
                if names is None or rows.filter(pk=pk).select_for_update().exists():
                    raise
                return False  # the row is not what it was taken for, and is read again
            with vouching():
                result = original(*arguments)
            if result:
                try_other_keys(using, unseen)
        return result

    _do_update._looks_for_duplicates = True  # type: ignore[attr-defined]
    return _do_update


def _of_update(
    instance: models.Model,
    using: str,
    rules: Sequence[Rule],
    given: dict[str, Any],
    *,
    whole: bool,
) -> Iterator[tuple[Rule, Written]]:
    """Each of the rules whose secret is not NULL, and what the row will hold after the UPDATE.

    Args:
        given: what is written, by attname.
        whole: the whole row is written, though maybe another table of it by another UPDATE.
    """
    layout, row = layout_of(instance), instance
    known = [_sources_of(instance)]
    # Before the row is read, which then stays what it is.
    lock_for(using, [(rule, known) for rule in rules])
    if not whole and any(not given.keys() >= rule.attnames for rule in rules):
        rows = type(instance)._base_manager.using(using).filter(pk=instance.pk)
        # Without rows of a nullable relation, which cannot be locked.
        stored = rows.select_related(None).select_for_update().first()
        if stored is None:
            return  # there is no row to save a part of, and Django says so
        row = stored
    after = row_after(row, given)
    under = tuple(
        given.get(source.attname, value)
        for source, value in zip(layout.sources, _sources_of(row), strict=True)
    )
    for rule in rules:
        try:
            text = rule.text_of(after)
        except EncryptionError:
            continue  # what nobody can read equals nothing
        if text is not None:
            yield rule, Written(after, text, under, rule.beside(after))


def _sources_of(instance: models.Model) -> Values:
    layout = layout_of(instance)
    under: Values = instance._state.__dict__.get("encrypt_under") or layout.current(instance)
    return under.filled(layout.loaded(instance) or under) if type(under) is Partial else under


def check_insert(index: BlindIndexField, query: Any, using: str) -> None:
    """Look for the values of the rows of an INSERT under all keys, once for each statement.

    Raises:
        IntegrityError: another row holds one of them.
    """
    rows: Sequence[models.Model] = getattr(query, "objs", ())
    done: set[str] = query.__dict__.setdefault("_unique_looked_at", set())
    if not rows or index.attname in done or not two_keys_live():
        return
    if not done:
        lock_rows(using, rows)
    done.add(index.attname)
    for rule in rules_of(layout_of(rows[0])):
        if rule.index == index:
            written = list(_of_insert(rule, rows))
            if _check_new(rule, using, written, query):
                try_later(rule, query, written, by_key=_is_by_key(rule, query))


def _of_insert(rule: Rule, rows: Iterable[models.Model]) -> Iterator[Written]:
    for row in rows:
        try:
            text = rule.text_of(row)
        except EncryptionError:
            continue  # a fixture's, which nobody can read
        if text is not None:
            beside = rule.beside(row_after(row, rule.made_by_saving(row)))
            yield Written(row, text, _sources_of(row), beside)  # which has its key afterwards


def _is_by_key(rule: Rule, query: Any) -> bool:
    """Say whether an upsert updates the row that has the primary key of the new one."""
    if not is_upsert(query):
        return False
    target = {field.name for field in query.unique_fields}
    # MariaDB, which has no target, looks at the primary key first.
    return not target or target == {field.name for field in rule.model._meta.pk_fields}


def _check_new(rule: Rule, using: str, rows: Sequence[Written], query: Any) -> bool:
    """Look for the values of the rows of an INSERT under the other keys, under a lock.

    What is equal under the key that they are written under, rows of this statement too, the
    database's own constraint sees, and does about it what the statement says.

    Returns:
        As :func:`check`.

    Raises:
        IntegrityError: another row holds one of them, and both would stand afterwards.
    """
    sees_less = lock_for(using, [(rule, [row.under for row in rows])])
    by_key = _is_by_key(rule, query)
    takes = by_key and rule.index in query.update_fields
    # What a row holds that is updated by its primary key is nobody's duplicate afterwards.
    gone = {rule.key_of(instance) for instance in query.objs} if takes else set()
    known = [(row, _unlike_own(rule, row)) for row in rows]
    there = _holders(rule, using, [index for _, indexes in known for index in indexes])
    for row, indexes in known:
        own = set(gone)
        if by_key or query.on_conflict is OnConflict.IGNORE:
            own.add(rule.key_of(row.instance))  # it is updated, or the new one is passed over
        if all(pk in own for index in indexes for pk in there.get(str(index), ())):
            continue
        twins = rule.twins(_rows_of(rule, using), indexes, row.beside)
        if twins is None or not rule.applies(row.instance, using):
            continue
        if is_upsert(query):
            own.update(_updated(rule, query, row, twins))
        if any(pk not in own for pk, _ in _found(rule, twins)):
            raise rule.conflict()
    return sees_less


def _unlike_own(rule: Rule, row: Written) -> list[Index]:
    """The indexes of a value that no constraint compares with the one its row is written with."""
    own = row.instance.__dict__.get(rule.index.attname)
    return [index for index in rule.indexes(row.text, row.under) if index != own]


def _updated(
    rule: Rule, query: Any, row: Written, twins: "models.QuerySet[Any]"
) -> "models.QuerySet[Any]":
    """The primary key of the one among these rows that an upsert updates for a new row.

    It is locked: else somebody could move it out of the way until the statement runs, which then
    would insert the new row beside it.
    """
    held = rule.updated_by(query, row.instance)
    rows = twins.none() if held is None else twins.filter(**held).select_for_update()
    return rows.values_list("pk", flat=True)


def check(
    rule: Rule, using: str, rows: Sequence[Written], *, rewritten: Iterable[models.Model] = ()
) -> bool:
    """Look for the values of rows that are about to be updated, under a lock.

    Beside other fields, :func:`check_together` looks for equal ones among these rows.

    Args:
        rewritten: the rows that hold something else afterwards, so that what they hold now is
            nobody's duplicate.

    Returns:
        Whether a row may be there that this transaction does not see: after the write, call
        ``try_other_keys``.

    Raises:
        IntegrityError: another row, or two of these, hold one of them.
    """
    sees_less = lock_for(using, [(rule, [row.under for row in rows])])
    gone = {rule.key_of(instance) for instance in rewritten}
    known = [(row, rule.indexes(row.text, row.under)) for row in rows]
    there = _holders(rule, using, [index for _, indexes in known for index in indexes])
    seen: dict[str, list[Written]] = {}
    for row, indexes in known:
        holders = {pk for index in indexes for pk in there.get(str(index), ())} - gone
        same = [] if rule.names else seen.setdefault(str(indexes[0]), [])
        if holders or same:
            twins = rule.twins(_rows_of(rule, using), indexes, row.beside)
            if twins is None or not rule.applies(row.instance, using):
                continue
            alike = [
                _index_of(rule, one, indexes) for one in same if rule.applies(one.instance, using)
            ]
            alike += [index for pk, index in _found(rule, twins) if pk not in gone]
            if alike:
                raise _conflict(rule, _index_of(rule, row, indexes), alike)
        if not is_absent(indexes[0]):
            same.append(row)
    return sees_less


def _index_of(rule: Rule, row: Written, indexes: Sequence[Index]) -> Index:
    """The one of these that a row is written with: it keeps that of a secret that stays."""
    kept: Index | None = row.instance.__dict__.get(rule.index.attname)
    return kept if kept is not None and kept in indexes else indexes[0]


def _conflict(rule: Rule, own: Index, found: Iterable[Index]) -> IntegrityError:
    """The error of a row with an index, where others with these hold the same value."""
    if any(index != own for index in found):
        return rule.conflict()
    return rule.conflict("another row holds the same value,")


#: Indexes in one query; some databases take no more than a thousand parameters.
_AT_ONCE: Final = 500


def _holders(rule: Rule, using: str, indexes: Iterable[Index]) -> dict[str, list[Any]]:
    """The primary keys of the rows that hold these indexes, whatever stands beside them."""
    wanted = sorted({str(index) for index in indexes if not is_absent(index)})
    found: dict[str, list[Any]] = {}
    name = rule.index.name
    for start in range(0, len(wanted), _AT_ONCE):
        rows = _rows_of(rule, using).filter(**{f"{name}__in": wanted[start : start + _AT_ONCE]})
        for pk, index in _locking(rows).values_list("pk", name):
            found.setdefault(str(index), []).append(pk)
    return found


def _rows_of(rule: Rule, using: str) -> "models.QuerySet[Any]":
    # Not by a manager, which may hide some: the database's own constraint sees them all.
    return models.QuerySet(rule.model, using=using)


def _found(rule: Rule, rows: "models.QuerySet[Any]") -> list[tuple[Any, Index]]:
    """The primary keys and the indexes of rows."""
    return list(_locking(rows).values_list("pk", rule.index.name))


def _locking(rows: "models.QuerySet[Any]") -> "models.QuerySet[Any]":
    if connections[rows.db].vendor == "mysql":
        # A plain SELECT may show what was there when the transaction began. At which isolation
        # level that is, cannot be asked for every way to set it.
        return rows.select_for_update()
    return rows


def check_together(rule: Rule, using: str, rows: Sequence[Written]) -> None:
    """Look once more, after they were written, for rows among these that are duplicates.

    Each keeps the index it had, perhaps under another key than the next, and by some collations
    "a" beside it equals "A" beside that.

    Raises:
        IntegrityError: two of them hold one value.
    """
    alike: dict[Index, list[Written]] = {}
    for row in rows:
        indexes = rule.indexes(row.text, row.under)
        alike.setdefault(indexes[0], []).append(row)
    for same in alike.values():
        for row in same if len(same) > 1 and rule.names else ():
            indexes = rule.indexes(row.text, row.under)
            twins = rule.twins(_rows_of(rule, using), indexes, row.beside)
            if twins is None or not rule.applies(row.instance, using):
                continue
            found = dict(_found(rule, twins))
            own = found.pop(rule.key_of(row.instance), None)
            if found:
                raise _conflict(rule, own or indexes[0], found.values())


def lock_rows(using: str, rows: Sequence[models.Model]) -> None:
    """Take the locks of all rules that new rows are under, in one call and so in one order."""
    rules = rules_of(layout_of(rows[0])) if rows else ()
    lock_for(
        using,
        ((rule, [_sources_of(row) for row in rows if _has_secret(rule, row)]) for rule in rules),
    )


def _has_secret(rule: Rule, row: models.Model) -> bool:
    return rule.index.encrypted.stored_in(row) is not None


def lock_named(layout: Layout, using: str, *named: Mapping[str, Any]) -> None:
    """Take the locks of the tenants that arguments of ``update_or_create`` name.

    Args:
        named: lookups and values of fields, by name; of each the tenant's own stands in it, or
            nobody knows it here.
    """
    under = [Partial.of([_named(source, values) for source in layout.sources]) for values in named]
    lock_for(
        using,
        (
            (rule, [one for one in under if rule.index.knows_salt(one, layout)])
            for rule in rules_of(layout)
        ),
    )


def _named(source: Source, values: Mapping[str, Any]) -> Any:
    field: Any = source.field
    value = values.get(field.name, values.get(field.attname, MISSING))
    if value is MISSING and field is field.model._meta.pk:
        value = values.get("pk", MISSING)
    if isinstance(value, models.Model):
        try:
            return value.prepare_database_save(field)
        except ValueError:
            return MISSING  # it is not saved, and Django says so
    # Called once only, after the row is locked; nor is an expression known before.
    return MISSING if callable(value) or hasattr(value, "resolve_expression") else value


def lock_for(using: str, wanted: Iterable[tuple[Rule, Iterable[Values]]]) -> bool:
    """One writer at a time for each tenant (in the scope "global", for the field).

    Args:
        wanted: rules, and the sources of the rows that are to be written under each. What one
            write needs is best given in one call: see ``locks.lock`` about the order.

    Returns:
        Whether this transaction may see less than what was committed before, see ``locks.lock``.
    """
    rules, names = [], set[str]()
    for rule, under in wanted:
        rules.append(rule)
        place = f"{rule.model._meta.db_table}\0{rule.index.column}"
        for values in under:
            with suppress(MissingSaltError):  # then there is no secret either
                names.add(f"{place}\0{_bucket(rule.index.salt(values, rule.layout) or '')}")
    return bool(names) and lock(connections[using], rules[0].model, names)


def _bucket(salt: str) -> int:
    return hashlib.sha256(salt.encode("utf-8")).digest()[0] % BUCKETS
