"""What SQL may do with an encrypted column: read it, and compare it with NULL."""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from django.core.exceptions import FieldError
from django.db import models
from django.db.models.aggregates import Count
from django.db.models.expressions import Case, Col, F, OrderBy, OrderByList, Value
from django.db.models.functions import Cast
from django.db.models.lookups import Exact, IsNull, Lookup
from django.db.models.sql.query import Query

if TYPE_CHECKING:
    from encryption.descriptors import Ciphertext
    from encryption.fields import EncryptedField


def refusal(label: str, what: str) -> FieldError:
    """The error for a query that would compare ciphertexts."""
    return FieldError(
        f"{label} is encrypted and equal values have different ciphertexts, so {what} cannot "
        "work on it. Only isnull can. Select the rows by other fields and compare the decrypted "
        "values in Python."
    )


class EncryptedIsNull(IsNull):
    """The lookup that does work: an empty column is NULL and everything else is not."""


class TokenIs(EncryptedIsNull):
    """The column holds this very token, or NULL: for this package's own conditional UPDATEs."""

    lookup_name = "token_is"

    def __init__(self, lhs: Col, token: str | None) -> None:
        super().__init__(lhs, token is None)
        self._token = token

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        sql, params = self.process_lhs(compiler, connection)
        if self._token is None:
            return f"{sql} IS NULL", params
        # Byte for byte, where MariaDB and MySQL would compare by the column's collation.
        binary = "BINARY " if connection.vendor == "mysql" else ""
        return f"{binary}{sql} = %s", [*params, self._token]


class OnlyNone(Exact):
    """``exact``, which Django turns into ``isnull`` for ``None`` and which is refused otherwise."""

    def __init__(self, lhs: Any, rhs: Any) -> None:
        if rhs is not None:
            raise refusal(_label(lhs), "the lookup 'exact'")
        super().__init__(lhs, rhs)


def lookup_for(field: "EncryptedField", name: str) -> "type[models.Lookup[Any]]":
    """Return the lookup class of an encrypted field.

    Raises:
        FieldError: for any but ``isnull`` (and ``exact``, which refuses all but ``None``).
    """
    if name == "isnull":
        return EncryptedIsNull
    if name == "exact":
        return OnlyNone
    raise refusal(field.label, f"the lookup {name!r}")


def _label(expression: Any) -> str:
    return str(getattr(expression.output_field, "label", expression.output_field))


class EncryptedCol(Col):
    """The column in a query; where it stands in ORDER BY, DISTINCT ON or a comparison: refused.

    Django asks no field whether it can be ordered by or compared with. But whatever does so has
    to compile the column, so the query is looked at there: once per query, never per row.
    """

    target: "EncryptedField"

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        query = compiler.query
        ordering = query.order_by or (query.default_ordering and query.get_meta().ordering) or ()
        for item in (*ordering, *query.distinct_fields):
            if any(_holds_column(part) for part in _parts(query, item)):
                raise refusal(self.target.label, "order_by() or distinct(field)")
        for node in (*query.where.children, *query.annotations.values()):
            if _compares(node, False):
                raise refusal(self.target.label, "a comparison or an order")
        return super().as_sql(compiler, connection)


_PLAIN: Final = frozenset({int, str, bool, float, UUID, datetime})


def _compares(node: Any, within: bool) -> bool:
    """Say whether an encrypted column stands below a comparison or an ordering."""
    if isinstance(node, Lookup) and type(node.lhs) is Col and type(node.rhs) in _PLAIN:
        return False  # what most queries consist of: a column and a value
    if isinstance(node, (EncryptedCol, EncryptedIsNull)):
        return within and isinstance(node, EncryptedCol)
    if isinstance(node, Count):  # counting ciphertexts is fine; its filter is a condition
        return _compares(node.filter, within)
    if isinstance(node, (list, tuple)):
        return any(_compares(child, within) for child in node)
    within = within or isinstance(node, (Lookup, OrderBy, OrderByList))
    if isinstance(node, Query):
        return any(_compares(child, within) for child in node.select)
    if hasattr(node, "get_source_expressions"):
        below = [*node.get_source_expressions()]
        if isinstance(node, Lookup):
            below.append(node.rhs)
    else:
        below = [*getattr(node, "children", ())]
    return any(_compares(child, within) for child in below if child is not None)


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


class SealedValue(Value):
    """A token on its way into ``bulk_update``; made by this package only."""

    def __init__(self, secret: "Ciphertext | None", field: "EncryptedField") -> None:
        super().__init__(None if secret is None else secret.token, output_field=field)

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        return "%s", [self.value]


def is_sealed(expression: Any) -> bool:
    """Say whether an expression is what ``EncryptedQuerySet.bulk_update`` builds."""
    if isinstance(expression, Cast):
        (expression,) = expression.get_source_expressions()
    if not isinstance(expression, Case) or not expression.cases:
        return False
    default = expression.default
    return all(isinstance(case.result, SealedValue) for case in expression.cases) and (
        default is None or (type(default) is Value and default.value is None)
    )
