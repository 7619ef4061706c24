"""A blind index in a query: compared with others of its own field, and with nothing else.

As with an encrypted column (``columns.py``), whatever uses the index has to compile its column, so
what it is compared with is looked at there: once per query, never per row.
"""

import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from django.core.exceptions import FieldError
from django.db.models import QuerySet
from django.db.models.expressions import (
    Col,
    Exists,
    ExpressionList,
    Ref,
    Subquery,
    Value,
    When,
    Window,
)
from django.db.models.lookups import Exact, In, IsNull, Lookup, Transform
from django.db.models.sql.compiler import SQLAggregateCompiler
from django.db.models.sql.query import Query

from encryption.columns import COMPARING_ROWS, PICKING, combined

if TYPE_CHECKING:
    from encryption.indexes import BlindIndexField


def refusal(index: "BlindIndexField") -> FieldError:
    """The error for a query that compares an index with something else."""
    return FieldError(
        f"{index.label} holds indexes, and is equal to another index of its own only. "
        f"To look a value up, filter by {index.source!r}."
    )


class IndexCol(Col):
    """The column; on any side of a comparison with something else: refused."""

    target: "BlindIndexField"

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        for name, owner in _compiling():
            if isinstance(owner, Lookup):
                if _mixes(owner):
                    raise refusal(self.target)
                break  # what is around it sees its truth only
            if name == "get_combinator_sql" and _combines_others(owner.query):
                raise refusal(self.target)
            if any(_mixes(lookup) for lookup in _lookups_outside(name, owner)):
                raise refusal(self.target)
        return super().as_sql(compiler, connection)


#: The methods of Django's compiler that put a query into another one.
_OF_SEVERAL_QUERIES: Final = frozenset({"get_combinator_sql", "get_qualify_sql"})


def _compiling() -> Iterator[tuple[str, Any]]:
    """Yield what is being compiled around a column, from within, and by which method.

    A subquery does not know what it is compared with; only those who compile it do.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name != "execute_sql":
        name = frame.f_code.co_name
        if name.startswith("as_") or name in _OF_SEVERAL_QUERIES:
            yield name, frame.f_locals.get("self")
        frame = frame.f_back


def _lookups_outside(name: str, compiler: Any) -> Iterator[Any]:
    """Yield the lookups of a query that has the columns from a subquery, by their names only.

    Django makes it for the aggregates of a query that is sliced, say, and for a filter by a window.
    """
    if name == "get_qualify_sql":
        yield from _lookups_in(compiler.qualify)
    elif isinstance(compiler, SQLAggregateCompiler):
        for annotation in compiler.query.annotation_select.values():
            yield from _lookups_in(annotation)


def _lookups_in(node: Any) -> Iterator[Any]:
    if isinstance(node, Lookup):
        yield node
    below = getattr(node, "children", None) or getattr(node, "get_source_expressions", tuple)()
    for child in below:
        yield from _lookups_in(child)


# -- the lookups of an index --------------------------------------------------------------------


class _OfIndexes:
    """Compares with indexes of the same field: with anything else it would find nothing."""

    def as_sql(self: Any, *args: Any) -> Any:
        field, rhs = self.lhs.output_field, self.rhs
        if isinstance(rhs, ExpressionList):  # what Django makes of some lists
            rhs = rhs.get_source_expressions()
        for side in (self.lhs, *(rhs if isinstance(rhs, (list, tuple, set)) else [rhs])):
            if hasattr(side, "resolve_expression") and (
                isinstance(side, Transform) or side.output_field != field
            ):
                raise refusal(field)
        return super().as_sql(*args)  # type: ignore[misc]


class _Exact(_OfIndexes, Exact):
    pass


class _In(_OfIndexes, In):
    pass


LOOKUPS: Final = {"exact": _Exact, "in": _In, "isnull": IsNull}


# -- what is compared ---------------------------------------------------------------------------


def _mixes(lookup: Any) -> bool:
    """Say whether a lookup compares an index with something else.

    A value is none of its sides: the field that it is compared with has looked at it.
    """
    if isinstance(lookup, _OfIndexes):
        return False  # it looks itself
    return _differ(_indexes_in(side) for side in (*_sides(lookup.lhs), *_sides(lookup.rhs)))


def _combines_others(query: Query) -> bool:
    """Say whether an intersection() or difference() compares an index with another column."""
    if query.combinator not in COMPARING_ROWS:
        return False
    parts = [_columns(_limited(part, query)) for part in combined(query)]
    return any(_differ(map(_indexes_in, together)) for together in zip(*parts, strict=False))


def _differ(sides: Iterable[set[Any]]) -> bool:
    found = [*sides]
    held = set[Any]().union(*found)
    return bool(held) and (len(held) > 1 or not all(found))


def _sides(side: Any) -> Iterator[Any]:
    """Yield the expressions that a side of a lookup is made of."""
    if isinstance(side, ExpressionList):
        side = side.get_source_expressions()
    if isinstance(side, (list, tuple, set)):
        for one in side:
            yield from _sides(one)
    elif hasattr(side, "resolve_expression"):
        yield side


#: What gives an index that stands below it, as it is; a subquery too.
_GIVING: Final = (*PICKING, Ref, When, Window)


def _indexes_in(node: Any) -> set[Any]:
    """The indexes that an expression may be, none for other values.

    What is computed of an index is something of its own, unless it was given another type.
    """
    if isinstance(node, Exists):
        return set()
    if isinstance(node, (Query, QuerySet, Subquery)):
        return _indexes_of_query(getattr(node, "query", node))
    if isinstance(node, _GIVING):
        return _indexes_in_any(_given_by(node))
    column = node.target if isinstance(node, Col) else node
    return {column} if hasattr(column, "is_blind_index") or _is_index(node) else set()


def _given_by(node: Any) -> Any:
    """The expressions of which one gives the value."""
    if isinstance(node, When):
        return [node.result]
    sources = node.get_source_expressions()
    return sources[:1] if isinstance(node, Window) else sources


def _indexes_in_any(nodes: Iterable[Any]) -> set[Any]:
    return set[Any]().union(*(_indexes_in(one) for one in nodes if not isinstance(one, Value)))


def _indexes_of_query(query: Any) -> set[Any]:
    shown = (_columns(part) for part in combined(query) if not part.default_cols)
    return _indexes_in_any(column for columns in shown for column in columns)


def _is_index(node: Any) -> bool:
    try:
        return hasattr(getattr(node, "output_field", None), "is_blind_index")
    except FieldError:  # of several types
        return False


def _columns(query: Any) -> list[Any]:
    """What a query selects, in its order: fields where it selects a whole row."""
    annotations = query.annotation_select
    if query.default_cols:
        only = query.get_select_mask()
        fields = [one for one in query.get_meta().concrete_fields if not only or one in only]
        return [*fields, *annotations.values()]
    if query.selected is None:
        return [*query.select, *annotations.values()]
    return [
        query.select[one] if isinstance(one, int) else annotations.get(one, one)
        for one in query.selected.values()
    ]


def _limited(part: Any, whole: Any) -> Any:
    """A part of a set operation with the columns that Django will give it."""
    if whole.selected is None or part.selected is not None:
        return part
    part = part.clone()
    part.set_values(whole.selected)
    return part
