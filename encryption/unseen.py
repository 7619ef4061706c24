"""Rows that hold the same value and are not seen, while two keys are live.

A transaction of PostgreSQL at REPEATABLE READ or SERIALIZABLE sees what was there when it began,
whatever lock it takes; but a unique constraint sees what is there now. So after such a transaction
has written a row, the row is given each other index of its value, which the constraint refuses
where another row has that one, and a savepoint takes it back.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, NotSupportedError, connections, transaction

from encryption.core.blindindex import is_absent

if TYPE_CHECKING:
    from encryption.rules import Rule, Written

    Unseen = tuple[Rule, Sequence[Written]]

#: What an INSERT that is under way leaves to try after it.
_to_try: ContextVar["list[Unseen] | None"] = ContextVar("to_try", default=None)


@contextmanager
def trying_later(using: str) -> Iterator[None]:
    """Have the rows of an INSERT tried under the other keys at the end, in its transaction."""
    with transaction.atomic(using=using, savepoint=False):
        unseen: list[Unseen] = []
        token = _to_try.set(unseen)
        try:
            yield
        finally:
            _to_try.reset(token)
        try_other_keys(using, unseen)


def try_later(rule: "Rule", query: Any, rows: "Sequence[Written]", *, by_key: bool) -> None:
    """Leave the rows of an INSERT to :func:`trying_later`.

    Args:
        by_key: it is an upsert that finds the row by its primary key.

    Raises:
        NotSupportedError: nobody knows afterwards which rows these are.
    """
    unseen = _to_try.get()
    if unseen is None or (query.on_conflict is not None and not by_key):
        raise _not_seen(rule)
    unseen.append((rule, rows))


def _not_seen(rule: "Rule") -> NotSupportedError:
    return NotSupportedError(
        f"{rule.index.label} is unique, two master keys are live, and at this transaction's "
        "isolation level the database does not show what others have committed meanwhile. "
        "Nothing was written. save() the rows one by one, or insert them at READ COMMITTED, or "
        "without ignore_conflicts, by a manager of the model, and with the primary key as the "
        "only conflict."
    )


def try_other_keys(using: str, unseen: "Iterable[Unseen]") -> None:
    """Give rows that were written each other index of their values, and take that back.

    Raises:
        IntegrityError: another row holds one of them, and the constraint sees it.
        NotSupportedError: a row is not there with the primary key that it was given.
    """
    connection = connections[using]
    quote = connection.ops.quote_name
    for rule, rows in unseen:
        keys: Any = rule.model._meta.pk_fields
        table, column = quote(rule.model._meta.db_table), quote(str(rule.index.column))
        where = " AND ".join(f"{quote(key.column)} = %s" for key in keys)
        sql = f"UPDATE {table} SET {column} = %s WHERE {where}"  # noqa: S608
        deferred = rule.constraint if getattr(rule.constraint, "deferrable", None) else None
        of_row = [
            (
                [
                    key.get_db_prep_value(getattr(row.instance, key.attname), connection)
                    for key in keys
                ],
                rule.indexes(row.text, row.under),
            )
            for row in rows
        ]
        try:
            with transaction.atomic(using=using), connection.cursor() as cursor:
                if deferred is not None:
                    cursor.execute(f"SET CONSTRAINTS {quote(deferred.name)} IMMEDIATE")
                for under_one_key in zip(*(indexes for _pk, indexes in of_row), strict=True):
                    given = [
                        (str.__str__(index), *pk)
                        for (pk, _), index in zip(of_row, under_one_key, strict=True)
                        if not is_absent(index)
                    ]
                    if given:
                        cursor.executemany(sql, given)
                    if given and cursor.rowcount != len(given):
                        raise _not_seen(rule)
                transaction.set_rollback(True, using=using)
        except IntegrityError:
            raise rule.conflict() from None
