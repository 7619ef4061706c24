"""Lookups of an encrypted field that go through its blind index.

``filter(secret=value)`` becomes ``index IN (the value's index under each key of the keyring)``. In
the scope "tenant" the keys are derived with the tenant, which has to be known when the SQL is
made: it is looked for among the conditions that hold together with this one (see
:func:`_tenants`). What cannot be looked up is refused, and never finds silently nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from django.core.exceptions import EmptyResultSet, FieldError
from django.db import models
from django.db.models.expressions import Col
from django.db.models.fields.related import OneToOneField, OneToOneRel
from django.db.models.lookups import Lookup, Transform
from django.db.models.sql.where import AND, WhereNode

from encryption import columns, lookups
from encryption.binding import layout_of_class
from encryption.conf import get_indexer
from encryption.core.blindindex import TENANT

if TYPE_CHECKING:
    from encryption.fields import EncryptedField
    from encryption.indexes import BlindIndexField

    AnyLookup = Lookup[Any]
else:
    AnyLookup = Lookup

#: The query whose false positives are sorted out by whoever evaluates it.
_sorted_out: ContextVar[Any] = ContextVar("sorted_out", default=None)


@contextmanager
def sorting_out(query: Any) -> Iterator[None]:
    """Let this query find by truncated indexes: its rows are looked at after decryption."""
    token = _sorted_out.set(query)
    try:
        yield
    finally:
        _sorted_out.reset(token)


class Sought:
    """The values that a query looks for: not shown by a repr, and not pickled.

    Iterable, since newer Django asks whether ``None`` is among the values of an ``in``.
    """

    __slots__ = ("has_none", "messages")

    def __init__(self, messages: Iterable[bytes | None]) -> None:
        self.messages: tuple[bytes, ...] = ()  # a traceback shows a repr of what is refused
        found = dict.fromkeys(messages)
        self.has_none = None in found
        self.messages = tuple(message for message in found if message is not None)

    def __iter__(self) -> Iterator[bytes | None]:
        yield from self.messages
        if self.has_none:
            yield None

    def __repr__(self) -> str:
        return f"<{len(self.messages)} secret values>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sought) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a query for a secret value holds that value and is never pickled: pickle its result"
        )


columns.VALUE_TYPES.add(Sought)


class BlindLookup(AnyLookup):
    """What ``exact`` and ``in`` have in common."""

    prepare_rhs = False
    # A traceback shows a repr of the lookup that is refused before it has these.
    lhs: Any = None
    rhs: Any = None

    def __init__(self, lhs: Any, rhs: Any) -> None:
        column, path = _column_of(lhs)
        field: EncryptedField = column.target
        self.index = _index_for(field, path)
        self.encrypted = field
        # None is for Django, which then asks for isnull instead.
        try:
            sought = None if rhs is None else Sought(self._messages(rhs))
        except BaseException:
            del rhs  # a traceback page shows the locals of this frame
            raise
        super().__init__(self.index.get_col(column.alias), sought)

    def _messages(self, rhs: Any) -> Iterator[bytes | None]:
        raise NotImplementedError

    def _message(self, value: Any) -> bytes:
        try:
            if hasattr(value, "resolve_expression") or isinstance(value, models.QuerySet):
                raise FieldError(
                    f"{self.encrypted.label} is encrypted, and the database cannot compute what an "
                    "expression's value would be found by. Give the value itself."
                )
            text, problem = self.index.text_to_find(value)
            if problem is not None:
                raise problem[0](f"{self.encrypted.label}: {problem[1]}")
            message = self.index.message_to_find(text)
            if message is None:
                raise FieldError(
                    f"{self.index.label} leaves this value out (its normalize gives None for "
                    "it), so no row can be found by it."
                )
            return message
        except BaseException:
            del value  # a traceback page shows the locals of this frame
            raise

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[str | int, ...]]:
        if self.index.is_truncated and not self._is_sorted_out(compiler.query):
            raise FieldError(
                f"{self.index.label} keeps {self.index.bits} bits of each digest, so it finds "
                "other values too, which only decrypting can sort out. Evaluate the rows of a "
                "model with `objects = EncryptedManager()`, this condition standing for itself "
                "(not in exclude() or beside an OR) and without a slice: list(), iterator() or "
                "get(). What the database alone would answer, such as count(), exists(), "
                "values() and update(), cannot work on it."
            )
        salts = self._salts(compiler.query)
        found = [
            self.index.of_message(message, salt, master)
            for master in get_indexer().keys
            for salt in salts
            for message in self.rhs.messages
        ]
        if not found:
            raise EmptyResultSet
        # Past what the column looks for around it: here it is compared with indexes of its own.
        sql, params = Col.as_sql(self.lhs, compiler, connection)
        marks = ", ".join(["%s"] * len(found))
        condition = f"= {marks}" if len(found) == 1 else f"IN ({marks})"
        return f"{sql} {condition}", (*params, *map(str.__str__, found))

    def _salts(self, query: Any) -> list[str | None]:
        if self.index.scope != TENANT:
            return [None]
        salts = _tenants(query, self)
        if salts is None:
            name = self.encrypted.salt_field
            raise FieldError(
                f"{self.index.label} is derived for each {name!r}, so a value can be found only "
                f"together with it, in the same filter: filter({self.encrypted.name}=..., "
                f"{name}=...), {name}__in=[...] for several, and with the same path to both "
                "across a relation. To find a value whatever its tenant, the index needs "
                'scope="global".'
            )
        return list(salts)

    def _is_sorted_out(self, query: Any) -> bool:
        return _sorted_out.get() is query and any(one is self for one in conditions_of(query))

    def finds(self, instance: models.Model) -> bool:
        """Say whether a row holds one of the values, after decryption.

        Raises:
            DecryptionError: its value cannot be read.
        """
        message = self.index.message_in(instance)
        return message is not None and message in self.rhs.messages


class BlindExact(BlindLookup):
    """``filter(secret=value)``"""

    lookup_name = "exact"

    def _messages(self, rhs: Any) -> Iterator[bytes | None]:
        yield self._message(rhs)


class BlindIn(BlindLookup):
    """``filter(secret__in=[...])``"""

    lookup_name = "in"

    def _messages(self, rhs: Any) -> Iterator[bytes | None]:
        if hasattr(rhs, "resolve_expression") or isinstance(rhs, (str, bytes, models.QuerySet)):
            yield self._message(None if isinstance(rhs, bytes) else rhs)
            raise FieldError(f"{self.encrypted.label}: in takes a list of values.")
        for value in rhs:
            yield None if value is None else self._message(value)  # IN never finds NULL


class PathTransform(Transform):
    """A key of an encrypted JSON value, of which a blind index may be kept."""

    def __init__(self, key: str, lhs: Any) -> None:
        super().__init__(lhs)
        self.key = key
        self.column, before = _column_of(lhs)
        self.path = (*before, key)

    @property
    def lhs(self) -> Any:
        return self.get_source_expressions()[0]

    def get_lookup(self, lookup: str) -> Any:
        return _lookup_for(self.column.target, self.path, lookup)

    def get_transform(self, name: str) -> Any:
        return _transform_for(self.column.target, self.path, name)

    def as_sql(self, *args: Any, **kwargs: Any) -> Any:
        raise _refusal(self.column.target, f"{'__'.join(self.path)!r} outside of a filter")


def lookup_for(field: "EncryptedField", name: str) -> Any:
    """Return the lookup class of a field with blind indexes, ``None`` for a key of its JSON.

    Raises:
        FieldError: the lookup cannot work.
    """
    if name == "isnull":
        return lookups.EncryptedIsNull
    return _lookup_for(field, (), name)


def transform_for(field: "EncryptedField", name: str) -> Any:
    """Return the transform for a key of a field's JSON.

    Raises:
        FieldError: there is no blind index of it.
    """
    return _transform_for(field, (), name)


def _lookup_for(field: "EncryptedField", path: tuple[str, ...], name: str) -> Any:
    if name in {"exact", "in"}:
        _index_for(field, path)
        return BlindExact if name == "exact" else BlindIn
    if _begins(field, (*path, name)):
        return None  # Django takes it for a transform then
    raise _refusal(field, f"the lookup {'__'.join((*path, name))!r}")


def _transform_for(field: "EncryptedField", path: tuple[str, ...], name: str) -> Any:
    if _begins(field, (*path, name)):
        return partial(PathTransform, name)
    raise _refusal(field, f"{'__'.join((*path, name))!r}")


def _begins(field: "EncryptedField", path: tuple[str, ...]) -> bool:
    return any(index.keys[: len(path)] == path for index in field.indexes)


def _index_for(field: "EncryptedField", path: tuple[str, ...]) -> "BlindIndexField":
    """The index to look up by: one of whole digests if there is any, of unchanged values."""
    chosen: dict[tuple[str, ...], BlindIndexField] = field.__dict__.setdefault("_index_of", {})
    if path in chosen:
        return chosen[path]
    found = [index for index in field.indexes if index.keys == path]
    if not found:
        raise _refusal(field, f"{'__'.join(path)!r}" if path else "the lookup 'exact'")
    best = min(found, key=lambda index: (index.is_truncated, index.normalize is not None))
    chosen[path] = best
    return best


def _refusal(field: "EncryptedField", what: str) -> FieldError:
    known = [f"{'__'.join((field.name, *index.keys))} ({index.name})" for index in field.indexes]
    return FieldError(
        f"{field.label} is encrypted, and {what} cannot work on it. By its blind indexes exact "
        f"and in can: {', '.join(known)}. isnull can too. Select the rows by other fields and "
        "compare the decrypted values in Python."
    )


def _column_of(lhs: Any) -> tuple[Any, tuple[str, ...]]:
    """The encrypted column that a left hand side is, and the path within its JSON."""
    if isinstance(lhs, columns.EncryptedCol):
        return lhs, ()
    if isinstance(lhs, PathTransform):
        return lhs.column, lhs.path
    field = getattr(lhs, "output_field", None)
    raise lookups.refusal(str(getattr(field, "label", field)), "a lookup of an expression")


# -- the tenant of a lookup ---------------------------------------------------------------------


def _tenants(query: Any, lookup: BlindLookup) -> Sequence[str] | None:
    """The salts that conditions beside a lookup leave possible; ``None`` if there are none.

    In ``A AND f(B)`` it makes no difference what B is where A does not hold. So a condition on
    the tenant counts if it stands beside the lookup, or beside an AND, OR or NOT around it.
    """
    around = _nodes_around(query.where, lookup)
    field = lookup.encrypted
    source = layout_of_class(field.model).readers[field.attname][0]
    for node in around:
        if node.connector != AND:
            continue
        for child in node.children:
            values = None if child is lookup else _values_of(query, child, lookup, source)
            if values is not None:
                texts = [source.text(value) for value in values if value is not None]
                return [text for text in dict.fromkeys(texts) if text]
    return None


def _nodes_around(node: Any, lookup: BlindLookup) -> list[Any]:
    """The nodes of a tree from the lookup up to the root; none if it is not in there."""
    for child in node.children:
        if child is lookup:
            return [node]
        if isinstance(child, WhereNode):
            below = _nodes_around(child, lookup)
            if below:
                return [*below, node]
    return []


def _values_of(query: Any, child: Any, lookup: BlindLookup, source: Any) -> list[Any] | None:
    """The values that a condition leaves possible for the salt; ``None`` if it is about others."""
    if isinstance(child, WhereNode):
        inner = [] if child.negated or child.connector != AND else child.children
        found = (_values_of(query, one, lookup, source) for one in inner)
        return next((values for values in found if values is not None), None)
    if (
        not isinstance(child, Lookup)
        or not isinstance(child.lhs, Col)
        or child.lhs.target != source.field
        or not _same_row(query, child.lhs.alias, lookup.lhs.alias)
        or not child.rhs_is_direct_value()
        or child.lookup_name not in {"exact", "in"}
    ):
        return None
    return [child.rhs] if child.lookup_name == "exact" else list(child.rhs)


def _same_row(query: Any, one: str, other: str) -> bool:
    """Say whether two aliases are one row: the same, or tables of one row by inheritance."""
    return (
        _first_table(query, one) == _first_table(query, other)
        or _is_parent(query, one, other)
        or _is_parent(query, other, one)
    )


def _first_table(query: Any, alias: str) -> str:
    """The alias that an alias was joined from, by primary keys that are links to a parent's.

    Up or down: the key stays the same, so whatever was joined by these alone is one row.
    """
    while (link := _link_of(query.alias_map.get(alias))) is not None and link.primary_key:
        alias = query.alias_map[alias].parent_alias
    return alias


def _is_parent(query: Any, alias: str, child: str) -> bool:
    """Say whether an alias is joined to the child's by a link, which need not be its key."""
    join = query.alias_map.get(alias)
    return _link_of(join) is not None and join.parent_alias == child


def _link_of(join: Any) -> Any:
    """The field by which a join goes from a child's table to its parent's, or back."""
    field = getattr(join, "join_field", None)
    if isinstance(field, OneToOneRel):
        field = field.field
    if isinstance(field, OneToOneField) and field in field.model._meta.parents.values():
        return field
    return None


# -- truncated indexes --------------------------------------------------------------------------


def truncated_of(query: Any) -> list[BlindLookup]:
    """The lookups of which a query finds too much, if that can be sorted out; none otherwise."""
    if query.is_sliced or query.combinator or query.distinct_fields or query.group_by:
        return []
    if any(one.contains_over_clause for one in query.annotations.values()):
        return []  # a window sees the rows that are sorted out later
    alias = query.get_initial_alias()
    return [
        lookup
        for lookup in conditions_of(query)
        if lookup.index.is_truncated
        and issubclass(query.model, lookup.index.model)  # whose instances have the secret
        and _same_row(query, lookup.lhs.alias, alias)
    ]


def conditions_of(query: Any) -> list[BlindLookup]:
    """The lookups by index that every row of a query has to meet, each for itself."""
    found: list[BlindLookup] = []
    nodes = [query.where]
    while nodes:
        node = nodes.pop()
        if node.negated or (node.connector != AND and len(node.children) > 1):
            continue
        for child in node.children:
            if isinstance(child, WhereNode):
                nodes.append(child)
            elif isinstance(child, BlindLookup):
                found.append(child)
    return found
