"""What SQL may do with an encrypted column: read it, and compare it with NULL."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django.core.exceptions import FieldError
from django.db import models
from django.db.models.expressions import Case, Col, F, Value
from django.db.models.functions import Cast
from django.db.models.lookups import Exact, IsNull

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

    Django asks no field whether it can be ordered by. But whatever orders by a column has to
    compile it, so the query is looked at there: once per query, never per row.
    """

    target: "EncryptedField"

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        query = compiler.query
        for item in (*query.order_by, *query.distinct_fields):
            if any(_is_encrypted(part) for part in _parts(query, item)):
                raise refusal(self.target.label, "order_by() or distinct(field)")
        for lookup in query.where.leaves():
            if isinstance(getattr(lookup, "rhs", None), EncryptedCol):
                raise refusal(self.target.label, "a comparison")
        return super().as_sql(compiler, connection)


def _is_encrypted(part: Any) -> bool:
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
        yield from _parts(query, item.name)
    elif hasattr(item, "flatten"):
        for part in item.flatten():
            if isinstance(part, F):
                yield from _parts(query, part.name)
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
    return isinstance(expression, Case) and all(
        isinstance(case.result, SealedValue) for case in expression.cases
    )
