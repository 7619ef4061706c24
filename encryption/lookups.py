"""The lookups of an encrypted column: whether it is NULL, and no other.

And what this package's own UPDATEs rest on: a row's token, and the texts that it is sealed under.
"""

from typing import TYPE_CHECKING, Any

from django.core.exceptions import FieldError
from django.db import models
from django.db.models.expressions import Case, Col, Value
from django.db.models.functions import Cast
from django.db.models.lookups import Exact, IsNull

if TYPE_CHECKING:
    from encryption.descriptors import Ciphertext
    from encryption.fields import EncryptedField
    from encryption.indexes import BlindIndexField


def refusal(label: str, what: str) -> FieldError:
    """The error for a query that would compare ciphertexts."""
    return FieldError(
        f"{label} is encrypted and equal values have different ciphertexts, so {what} cannot "
        "work on it. Only isnull can, and with a BlindIndexField beside it exact and in. Select "
        "the rows by other fields and compare the decrypted values in Python."
    )


def taken_for_equal(model: type[models.Model], key: Any) -> FieldError:
    """The error for a row that was found by another text than its primary key.

    Args:
        key: what the row holds.
    """
    return FieldError(
        f"A row of {model._meta.label} was found by a primary key that is not the same text as its "
        f"own, {key!r}: the collation of the column takes them for equal. Nothing was written. "
        "Load the row and save that, or give the column a db_collation that compares byte for byte."
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


class SameText(Exact):
    """The column holds this very text, whatever its collation takes for equal; as TokenIs."""

    lookup_name = "same_text"

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        column, params = self.process_lhs(compiler, connection)
        text, more = self.process_rhs(compiler, connection)
        if connection.vendor == "mysql":
            # In the connection's character set, which the column need not have.
            column = f"BINARY CONVERT({column} USING utf8mb4)"
        elif connection.vendor == "postgresql":
            column = f'{column} COLLATE "C"'
        elif connection.vendor == "sqlite":
            column = f"{column} COLLATE BINARY"
        return f"{column} = {text}", [*params, *more]


class OnlyNone(Exact):
    """``exact``, which Django turns into ``isnull`` for ``None`` and which is refused otherwise."""

    def __init__(self, lhs: Any, rhs: Any) -> None:
        super().__init__(lhs, None)  # before it is refused: a traceback shows it with its repr
        if rhs is not None:
            del rhs  # and the locals of this frame
            raise refusal(_label(lhs), "the lookup 'exact'")


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


class SealedValue(Value):
    """A token on its way into ``bulk_update``; made by this package only."""

    def __init__(self, secret: "Ciphertext | None", field: "EncryptedField") -> None:
        super().__init__(None if secret is None else secret.token, output_field=field)

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        return "%s", [self.value]


class SealedIndex(SealedValue):
    """A blind index on its way into ``bulk_update``; made by this package only."""

    def __init__(self, index: "str | None", field: "BlindIndexField") -> None:
        Value.__init__(self, index, output_field=field)


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
