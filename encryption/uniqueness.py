"""Unique blind indexes while two keys are live, when each write looks for what it would double.

Under one key the database's own constraint is all that is needed. During a rotation a value has
one index under the old key and another under the new one, which no constraint compares. So each
write then looks for its value under all keys first, in its own transaction and under a lock that
all writers of the same tenant and field take (``locks.py``).

A transaction of PostgreSQL at REPEATABLE READ or SERIALIZABLE does not see what others committed
since it began, whatever it locks; ``unseen.py`` says what is done about that.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from typing import Any

from django.db import connections, models, router, transaction

from encryption.binding import Partial, Values, layout_of
from encryption.core.errors import EncryptionError
from encryption.guards import vouching
from encryption.indexes import BlindIndexField, Index, under_all_keys
from encryption.locks import lock
from encryption.rules import Rule, Written, row_after, rules_for, rules_of, two_keys_live
from encryption.unseen import try_later, try_other_keys, trying_later


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
            for rule in rules:
                lock_for(rule, using, [_sources_of(self)])
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
            unseen = [
                (rule, [written])
                for rule, written in _of_update(self, using, rules, given, whole=names is None)
                if check(rule, using, [written])
            ]
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
    for rule in rules:  # before the row is read, which then stays what it is
        lock_for(rule, using, [_sources_of(instance)])
    if not whole and any(not given.keys() >= rule.attnames for rule in rules):
        rows = type(instance)._base_manager.using(using).filter(pk=instance.pk)
        stored = rows.select_for_update().first()
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
    done.add(index.attname)
    for rule in rules_of(layout_of(rows[0])):
        if rule.index == index:
            texts = [(row, rule.text_of(row)) for row in rows]
            written = [
                Written(row, text, _sources_of(row), rule.beside(row))
                for row, text in texts
                if text is not None
            ]
            if check(rule, using, written):
                try_later(rule, query, written)


def check(rule: Rule, using: str, rows: Sequence[Written]) -> bool:
    """Look for the values of rows that are about to be written, under a lock.

    Returns:
        Whether a row may be there that this transaction does not see: after the write, call
        ``try_other_keys``.

    Raises:
        IntegrityError: another row, or two of these, hold one of them.
    """
    sees_less = lock_for(rule, using, [row.under for row in rows])
    base = rule.model._base_manager.using(using)
    written = [row.instance.pk for row in rows if row.instance._is_pk_set()]  # type: ignore[attr-defined]
    others = base.exclude(pk__in=written) if written else base.all()
    seen = set()
    for row in rows:
        indexes = under_all_keys(rule.index, row.text, row.under)
        twins = rule.twins(others, indexes, row.beside)
        if twins is None or not rule.applies(row.instance, using):
            continue
        mine = (indexes[0], *row.beside.values())
        if mine in seen or _is_there(twins):
            raise rule.conflict()
        seen.add(mine)
    return sees_less


def check_together(rule: Rule, using: str, rows: Sequence[Written]) -> None:
    """Look once more, after they were written, for rows among these that are duplicates.

    Each keeps the index it had, perhaps under another key than the next, and by some collations
    "a" beside it equals "A" beside that.

    Raises:
        IntegrityError: two of them hold one value.
    """
    alike: dict[Index, list[Written]] = {}
    for row in rows:
        indexes = under_all_keys(rule.index, row.text, row.under)
        alike.setdefault(indexes[0], []).append(row)
    base = rule.model._base_manager.using(using)
    for same in alike.values():
        for row in same if len(same) > 1 and rule.names else ():
            indexes = under_all_keys(rule.index, row.text, row.under)
            twins = rule.twins(base.exclude(pk=row.instance.pk), indexes, row.beside)
            if twins is not None and rule.applies(row.instance, using) and _is_there(twins):
                raise rule.conflict()


def _is_there(rows: "models.QuerySet[Any]") -> bool:
    if connections[rows.db].vendor == "mysql":
        # A plain SELECT may show what was there when the transaction began. At which isolation
        # level that is, cannot be asked for every way to set it.
        rows = rows.select_for_update()
    return bool(rows.order_by().values_list("pk", flat=True)[:1])


def lock_for(rule: Rule, using: str, under: Iterable[Values]) -> bool:
    """One writer at a time for each tenant (in the scope "global", for the field).

    Returns:
        Whether this transaction may see less than what was committed before, see ``locks.lock``.
    """
    place = f"{rule.model._meta.db_table}\0{rule.index.column}"
    salts = {rule.index.salt(values) or "" for values in under}
    return lock(connections[using], rule.model, [f"{place}\0{salt}" for salt in salts])
