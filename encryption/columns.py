"""An encrypted column in a query: it is read, and asked whether it is NULL.

Django asks no field whether it can be ordered by, compared with or computed with. But whatever
does so has to compile the column, so the query is looked at there: once per query, never per row.
"""

import sys
from collections.abc import Iterator
from datetime import datetime
from types import FrameType
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from django.core.exceptions import FieldError
from django.db import models
from django.db.models.aggregates import Aggregate, Count, Max, Min
from django.db.models.expressions import (
    Case,
    Col,
    CombinedExpression,
    ExpressionWrapper,
    F,
    Func,
    OrderBy,
    OrderByList,
    Window,
)
from django.db.models.functions import Coalesce, FirstValue, Lag, LastValue, Lead, NthValue
from django.db.models.lookups import IsNull, Lookup
from django.db.models.sql.compiler import SQLAggregateCompiler, SQLCompiler
from django.db.models.sql.query import Query

from encryption.lookups import EncryptedIsNull, refusal

if TYPE_CHECKING:
    from encryption.fields import EncryptedField


class EncryptedCol(Col):
    """The column; in ORDER BY, GROUP BY, DISTINCT ON, a comparison or a function: refused."""

    target: "EncryptedField"

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        query = compiler.query
        for part in _ordered_by(query):
            if _holds_column(part):
                raise refusal(self.target.label, "order_by() or distinct(field)")
        for node in (*query.where.children, *query.annotations.values(), *_written(query)):
            if _uses(node, False):
                raise refusal(self.target.label, _USES)
        if _tells_apart(query, self):
            raise refusal(self.target.label, "a group of equal ones, or counting them once,")
        if query.subquery and _is_used(query):
            raise refusal(self.target.label, f"{_USES} of a subquery")
        operation = _set_operation()
        if operation is not None:
            raise refusal(self.target.label, f"{operation}(), unless of whole rows of one model,")
        return super().as_sql(compiler, connection)


_USES: Final = "a comparison, an order or a function"


def _written(query: Query) -> Iterator[Any]:
    """Yield the expressions that an UPDATE writes."""
    for _field, _model, value in getattr(query, "values", ()):
        if hasattr(value, "resolve_expression"):
            yield value


def _ordered_by(query: Any) -> Iterator[Any]:
    """Yield what a query is ordered by, or distinct on."""
    ordering = query.order_by or (query.default_ordering and query.get_meta().ordering) or ()
    for item in (*ordering, *query.distinct_fields):
        yield from _parts(query, item)


def _tells_apart(query: Any, column: EncryptedCol) -> bool:
    """Say whether rows are grouped, or counted once, by the column and not by their keys.

    A distinct() whose rows are looked at is fine: what it gives is ciphertexts.
    """
    told_by: list[Any] = []
    if isinstance(query.group_by, tuple):
        told_by = [*query.group_by]
    elif query.distinct and query.subquery and not query.default_cols:
        told_by = [*query.select, *query.annotation_select.values()]
    if not any(_uses(part, True) for part in told_by):
        return False
    is_own = issubclass(query.model, column.target.model)  # or a parent's: the rows are the same
    return not any(
        isinstance(part, Col) and part.target.primary_key and (is_own or part.alias == column.alias)
        for part in told_by
    )


def _is_used(subquery: Query) -> bool:
    """Say whether the subquery that is being compiled is compared, ordered by or computed with.

    It knows nothing of that, and the outer query may be one of a model without any secret: only
    those who compile it, further up the stack, know.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name != "execute_sql":
        owner = frame.f_locals.get("self")
        if isinstance(owner, (Count, IsNull)):
            return False
        if isinstance(owner, (Lookup, OrderBy)) or _computes(owner):
            return True
        if isinstance(owner, SQLCompiler) and any(
            part is subquery for part in _ordered_by(owner.query)
        ):
            return True
        if isinstance(owner, SQLAggregateCompiler) and any(
            _uses(node, False) for node in owner.query.annotation_select.values()
        ):
            return True
        frame = frame.f_back
    return False


def _set_operation() -> str | None:
    """Name the set operation that would compare ciphertexts, if one is being compiled.

    A query does not know that it is a part of another; only those who compile that do.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name != "execute_sql":
        if frame.f_code.co_name == "get_combinator_sql":
            query = frame.f_locals["self"].query
            if query.combinator in COMPARING_ROWS and not _is_of_rows(query):
                return str(query.combinator)
        frame = frame.f_back
    return None


#: The set operations whose answer is wrong if equal values differ. A union holds them twice.
COMPARING_ROWS: Final = frozenset({"intersection", "difference"})


def _is_of_rows(whole: Query) -> bool:
    """Say whether a set operation compares rows by their keys: the same row has the same token.

    So it is for instances of one model, and where the key stands beside the secret. It is fine,
    too, where secrets are in conditions only.
    """
    parts = [*combined(whole)]
    if not any(_shows_secret(part) for part in parts):
        return True
    lists = [part for part in parts if not part.default_cols]
    return (
        len({part.get_meta().concrete_model for part in parts}) == 1
        and len({tuple(getattr(one, "target", None) for one in part.select) for part in lists}) <= 1
        and all(
            any(isinstance(one, Col) and one.target.primary_key for one in part.select)
            for part in lists
        )
        and all(_is_own(part, one) for part in parts for one in _selected(part))
    )


def combined(query: Query) -> Iterator[Query]:
    """Yield the queries that a set operation is made of, or the query itself."""
    if not query.combinator:
        yield query
    for part in query.combined_queries:
        yield from combined(part)


def _selected(part: Query) -> tuple[Any, ...]:
    return (*part.select, *part.annotation_select.values())


def _shows_secret(part: Query) -> bool:
    if part.default_cols and (
        part.select_related or any(map(_holds_column, part.get_meta().concrete_fields))
    ):
        return True
    return any(_uses(one, True) for one in _selected(part))


def _is_own(part: Any, selected: Any) -> bool:
    """Say whether what is selected is no secret, or one of the row itself."""
    if isinstance(selected, EncryptedCol):
        return issubclass(part.model, selected.target.model)
    return not _uses(selected, True)


#: What compares what stands below it.
_COMPARING: Final = (Lookup, OrderBy, OrderByList)

#: What gives another value than those that stand below it, unless it is one of the next.
_COMPUTING: Final = (Func, CombinedExpression, ExpressionWrapper, Case)

#: What gives one of the values that stand below it, as it is: a ciphertext stays one.
PICKING: Final = (
    *(Case, Coalesce, ExpressionWrapper, Max, Min),
    *(FirstValue, LastValue, NthValue, Lag, Lead),  # in a window
    *filter(None, [getattr(models, "AnyValue", None)]),  # newer Django has it
)


def _computes(node: Any) -> bool:
    """Say whether an expression makes something else of ciphertexts that stand below it."""
    if not isinstance(node, _COMPUTING):
        return False
    return not (isinstance(node, PICKING) or _is_list(node)) or not _gives_secret(node)


def _is_list(node: Any) -> bool:
    """Say whether it is PostgreSQL's ``ArrayAgg``, known without importing its driver."""
    return isinstance(node, Aggregate) and node.function == "ARRAY_AGG"


def _gives_secret(node: Any) -> bool:
    try:
        field = node.output_field
    except FieldError:  # of several types
        return False
    return hasattr(getattr(field, "base_field", field), "salt_field")


#: Types of what a column is compared with, below which there is no expression.
VALUE_TYPES: Final[set[type]] = {int, str, bool, float, UUID, datetime}


def _uses(node: Any, within: bool) -> bool:
    """Say whether an encrypted column stands below a comparison, an ordering or a function."""
    if isinstance(node, Lookup) and type(node.rhs) in VALUE_TYPES and _is_other_column(node.lhs):
        return False  # what most queries consist of: a column and a value
    if isinstance(node, (EncryptedCol, EncryptedIsNull)):
        return within and isinstance(node, EncryptedCol)
    if isinstance(node, Count) and not _is_distinct(node):
        return _uses(node.filter, within)  # counting ciphertexts is fine
    if isinstance(node, (list, tuple)):
        return any(_uses(child, within) for child in node)
    within = within or isinstance(node, _COMPARING) or _is_distinct(node) or _computes(node)
    if isinstance(node, Query):
        return any(_uses(child, within) for child in node.select)
    if hasattr(node, "get_source_expressions"):
        below = [*node.get_source_expressions()]
        if isinstance(node, Lookup):
            below.append(node.rhs)
        if isinstance(node, Window) and _uses(node.partition_by, True):
            within = True
    else:
        below = [*getattr(node, "children", ())]
    return any(_uses(child, within) for child in below if child is not None)


def _is_other_column(node: Any) -> bool:
    return isinstance(node, Col) and not isinstance(node, EncryptedCol)


def _is_distinct(node: Any) -> bool:
    return isinstance(node, Aggregate) and bool(getattr(node, "distinct", False))


def _holds_column(part: Any) -> bool:
    return isinstance(part, EncryptedCol) or hasattr(part, "salt_field")


def _parts(query: Any, item: Any) -> Iterator[Any]:
    """Yield the fields and columns that an entry of ``order_by`` is made of."""
    if isinstance(item, str):
        name = item.lstrip("-+")
        if name in query.annotations:
            yield from query.annotations[name].flatten()
        elif name != "?":
            yield from _named(query, name)
    elif isinstance(item, F):
        yield from _parts(query, item.name)  # type: ignore[attr-defined]
    elif hasattr(item, "flatten"):
        for part in item.flatten():
            if isinstance(part, F):
                yield from _parts(query, part.name)  # type: ignore[attr-defined]
            else:
                yield part


def _named(query: Any, name: str) -> Iterator[Any]:
    try:
        yield query.names_to_path(name.split("__"), query.get_meta())[1]
    except FieldError:  # a name that Django itself will complain about, or an alias
        return
