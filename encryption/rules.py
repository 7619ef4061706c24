"""The ways in which blind indexes are unique, and what a row has to do with each."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from django.core.exceptions import FieldError, ValidationError
from django.db import IntegrityError, models
from django.db.models import ExpressionWrapper, F, Func, Q, Value
from django.db.models.expressions import DatabaseDefault
from django.db.models.functions import Coalesce
from django.utils.text import capfirst

from encryption.binding import TEXT_FIELDS, Layout, Values, end_of_relations, layout_of
from encryption.conf import get_indexer
from encryption.core.blindindex import is_absent
from encryption.descriptors import Ciphertext
from encryption.guards import Beside, guard_beside
from encryption.indexes import BlindIndexField, Index, under_all_keys


class Rule:
    """One way in which an index is unique: alone, or together with other fields.

    Args:
        layout: of the class whose rows it is asked about.
        model: the class whose table has the constraint.
        names: the other fields.
        constraint: where it is one, for its condition and its message.
    """

    def __init__(
        self,
        layout: Layout,
        model: type[models.Model],
        index: BlindIndexField,
        names: Sequence[str] = (),
        constraint: models.UniqueConstraint | None = None,
    ) -> None:
        self.layout = layout
        self.model = model
        self.index = index
        # A constraint may name a foreign key's column ("group_id").
        known = {field.attname: field.name for field in model._meta.concrete_fields}
        self.names = tuple(known.get(name, name) for name in names)
        self.constraint = constraint

    @property
    def fields(self) -> set[str]:
        """The names of all fields that decide: the secret, its tenant, those beside it and those
        of the condition."""
        secret = self.index.encrypted
        salt = {secret.salt_field} if self.index.scope == "tenant" else set()
        return {secret.name, *salt, *self.names, *self.conditions}

    @property
    def attnames(self) -> set[str]:
        """The attributes of all these, and of the index."""
        known = self.index.encrypted.model._meta
        return {self.index.attname, *(known.get_field(name).attname for name in self.fields)}  # type: ignore[union-attr]

    @property
    def conditions(self) -> set[str]:
        """The names of the fields that the constraint's condition is about."""
        condition: Q | None = getattr(self.constraint, "condition", None)
        named: set[str] = set() if condition is None else condition.referenced_base_fields
        return {
            field.name
            for field in self.model._meta.concrete_fields
            if not named.isdisjoint((field.name, field.attname))
        }

    def indexes(self, text: str, under: Values) -> list[Index]:
        """The indexes of an encrypted text for a row with these source values, under each key."""
        return under_all_keys(self.index, text, under, self.layout)

    def guard(self) -> None:
        """Have statements checked that write a field beside the index."""
        # Some fields are not there yet: of models without migrations, Django first makes copies
        # without relations.
        self.index.is_in_rule = True
        found = [one for one in self.model._meta.concrete_fields if one.name in self.fields]
        deciding = frozenset(field.attname for field in found)
        distinct = getattr(self.constraint, "nulls_distinct", None) is not False
        for field in found:
            name = field.name
            if name in self.names or name in self.conditions:
                # NULL equals nothing.
                may_be_null = distinct and name not in self.conditions
                key = self.model._meta.db_table, self.index.attname, deciding
                guard_beside(field, key, Beside(self.index, deciding, may_be_null, self._is_left))

    def _is_left(self, values: dict[str, Any], using: str) -> bool:
        """Say whether rows with these values, by attname, are surely not under the condition."""
        condition: Q | None = getattr(self.constraint, "condition", None)
        if condition is None:
            return False
        known: dict[str, Value] = {}
        for name in self.conditions:
            field: Any = self.model._meta.get_field(name)
            value = values.get(field.attname, F(name))
            if hasattr(value, "prepare_database_save"):  # a related object
                value = value.prepare_database_save(field)
            if not hasattr(value, "resolve_expression"):  # else only the database knows it
                known[name] = known[field.attname] = Value(value, field)
        together = condition.connector == Q.AND and not condition.negated
        parts = [Q(part) for part in condition.children] if together else [condition]
        return any(
            part.referenced_base_fields <= known.keys() and not part.check(known, using=using)
            for part in parts
        )

    def beside(self, instance: models.Model) -> dict[str, Any]:
        """The values of the other fields, by name; of a foreign key its id.

        Raises:
            FieldError: one that decides is an expression, which only the database can work out.
        """
        for name in self.conditions:
            self._value(instance, name)
        return {name: self._value(instance, name) for name in self.names}

    def _value(self, instance: models.Model, name: str) -> Any:
        field: Any = self.model._meta.get_field(name)
        value: Any = getattr(instance, field.attname)
        if isinstance(value, DatabaseDefault):
            return AsStored(value.expression, field)  # type: ignore[attr-defined]
        if value is None or isinstance(value, Value):
            return value
        if hasattr(value, "resolve_expression"):
            raise FieldError(
                f"{self.index.label} is unique together with {name!r} or under a condition on it, "
                f"and {name!r} is an expression here. While two master keys are live, equal values "
                "have different indexes, so the database would not see what this makes a "
                "duplicate. Nothing was written. Save a value, or finish the rotation first and "
                "remove the old key."
            )
        if isinstance(field, models.DecimalField) or not _is_djangos(field, "get_db_prep_save"):
            return AsStored(Value(value, field), field)
        return value

    def made_by_saving(self, instance: models.Model) -> dict[str, Any]:
        """What fields make of the values of a new row without noting it there, by attname."""
        fields: list[Any] = [self.model._meta.get_field(name) for name in self.names]
        return {
            field.attname: field.pre_save(instance, True)
            for field in fields
            if not _is_djangos(field, "pre_save")
        }

    def text_of(self, instance: models.Model) -> str | None:
        """What the secret of an instance was encrypted from, or will be; ``None`` for NULL.

        Raises:
            EncryptionError: it cannot be read.
        """
        secret = self.index.encrypted.stored_in(instance)
        return None if secret is None else self.index.text_in(instance, secret)

    def twins(
        self, rows: "models.QuerySet[Any]", indexes: Iterable[Index], beside: dict[str, Any]
    ) -> "models.QuerySet[Any] | None":
        """The rows that hold one of these values and the same beside it; ``None``: surely none."""
        kept = [str(index) for index in indexes if not is_absent(index)]
        if not kept:
            return None
        rows = rows.order_by().filter(**{f"{self.index.name}__in": kept})
        for name in self.names:
            if beside[name] is None:
                if getattr(self.constraint, "nulls_distinct", None) is not False:
                    return None
                rows = rows.filter(**{f"{name}__isnull": True})
            else:
                rows = rows.filter(**{name: beside[name]})
        condition: Q | None = getattr(self.constraint, "condition", None)
        return rows if condition is None else rows.filter(condition)

    def applies(self, instance: models.Model, using: str) -> bool:
        """Say whether a row meets the constraint's condition."""
        condition: Q | None = getattr(self.constraint, "condition", None)
        if condition is None:
            return True
        # An index leaves a row out for which it is unknown; check() would take that for true.
        known = Coalesce(ExpressionWrapper(condition, models.BooleanField()), Value(False))
        against = instance._get_field_expression_map(meta=self.model._meta)  # type: ignore[attr-defined]
        try:
            return Q(known).check(against, using=using)
        except FieldError:
            return True  # it compares a secret: the rows are asked, then

    def key_of(self, instance: models.Model) -> Any:
        """The primary key of an instance in the constraint's table; ``None`` if it has none yet."""
        pk: Any = instance._get_pk_val(self.model._meta)
        parts = pk if isinstance(pk, tuple) else (pk,)
        return None if None in parts else key_of(self.model, pk)

    def error(self, instance: models.Model) -> ValidationError:
        """The error for a form: about the secret, which it does not hold."""
        constraint, field = self.constraint, self.index.encrypted
        if constraint is not None and (
            constraint.violation_error_message != constraint.default_violation_error_message
        ):
            return ValidationError(
                constraint.get_violation_error_message(), code=constraint.violation_error_code
            )
        return ValidationError(
            field.error_messages["unique"],
            code="unique",
            params={
                "model_name": capfirst(self.model._meta.verbose_name),
                "field_label": capfirst(field.verbose_name),
            },
        )

    def conflict(
        self, what: str = "another row holds the same value, under another master key,"
    ) -> IntegrityError:
        """The error of a write, as the database's own."""
        return IntegrityError(
            f"{self.index.encrypted.label}: {what} and {self.index.name} is unique. "
            "Nothing was written."
        )

    def updated_by(self, query: Any, instance: models.Model) -> dict[str, Any] | None:
        """What one row at most holds, by name: that which an upsert then updates for a new one.

        ``None`` where that is not sure. Without a target the database (MariaDB) updates the row
        that it meets first, by any of the unique columns: so it has to be one row in all of them.
        """
        if query.unique_fields:
            fields = set(query.unique_fields)
            sure = all(_is_sure(field, instance) for field in fields)
        else:
            known = self._met_without_target(instance)
            fields, sure = known or set(), known is not None
            # Another row of the statement could give the row that is there other values.
            sure = sure and (len(query.objs) == 1 or fields.isdisjoint(query.update_fields))
        if not sure or any(getattr(instance, field.attname) is None for field in fields):
            return None  # NULL meets nothing
        return {field.name: self._compared(instance, field) for field in fields} or None

    def _met_without_target(self, instance: models.Model) -> "set[models.Field[Any, Any]] | None":
        """The unique fields by which a new row may meet another; ``None``: that is not sure.

        Without the index: while one row holds the value under another key, no other one holds it.
        """
        met: set[models.Field[Any, Any]] = set()
        for unique in unique_fields_of(self.model):
            if {field.name for field in unique} == {self.index.name, *self.names}:
                continue
            # What a constraint of expressions makes of a row, only the database knows.
            if not unique or not all(_is_sure(field, instance) for field in unique):
                return None
            if all(getattr(instance, field.attname) is not None for field in unique):
                met.update(unique)
        return met - {self.index}

    def _compared(self, instance: models.Model, field: "models.Field[Any, Any]") -> Any:
        if hasattr(field, "is_blind_index"):
            return getattr(instance, field.attname)
        return self._value(instance, field.name)


class AsStored(Func):
    """A value, or a default of the database, as a column makes of it what it then holds."""

    template = "%(expressions)s"

    def __init__(self, value: Any, field: "models.Field[Any, Any]") -> None:
        super().__init__(value, output_field=field)

    def as_sql(self, compiler: Any, connection: Any, **options: Any) -> Any:  # type: ignore[override]
        """The value as Django saves it; of a number or a time, cast to the column's type."""
        field, [source] = self.output_field, self.get_source_expressions()
        if isinstance(source, Value):
            sql, params = "%s", [field.get_db_prep_save(source.value, connection)]
        else:
            sql, params = compiler.compile(source)
        # SQLite keeps what it is given, and a cast to a text has a collation of its own.
        if connection.vendor == "sqlite" or isinstance(field, TEXT_FIELDS):
            return sql, params
        return f"CAST({sql} AS {field.cast_db_type(connection)})", params


def _is_djangos(field: "models.Field[Any, Any]", method: str) -> bool:
    return str(getattr(type(field), method).__module__).startswith("django.")


def _is_sure(field: "models.Field[Any, Any]", instance: models.Model) -> bool:
    """Say whether an INSERT certainly writes what a new row holds in a field."""
    if hasattr(field, "is_blind_index"):
        return True  # it was computed a moment ago, and noted on the instance
    value = getattr(instance, field.attname)
    return (
        not hasattr(field, "salt_field")  # no two tokens are equal
        and _is_djangos(field, "pre_save")
        and not hasattr(value, "resolve_expression")
    )


def key_of(model: type[models.Model], pk: Any) -> Any:
    """A primary key as its columns give it back: "7" and 7 are one row."""
    ends = [end_of_relations(field) for field in model._meta.pk_fields]
    parts = pk if isinstance(model._meta.pk, models.CompositePrimaryKey) else (pk,)
    key = tuple(
        end.to_python(end.get_prep_value(part)) for end, part in zip(ends, parts, strict=True)
    )
    return key if len(key) > 1 else key[0]


def rules_of(layout: Layout) -> Sequence[Rule]:
    """The unique constraints that a model's blind indexes stand in."""
    found: list[Rule] | None = layout.__dict__.get("unique_rules")
    if found is None:
        found = [Rule(layout, index.model, index) for index in layout.indexes if index.unique]
        for model in (layout.model, *layout.model._meta.all_parents):
            for names, constraint in _constraints(model):
                for index in layout.indexes:
                    if index.name in names and index.model._meta.db_table == model._meta.db_table:
                        others = [name for name in names if name != index.name]
                        found.append(Rule(layout, index.model, index, others, constraint))
        layout.__dict__["unique_rules"] = found
    return found


def rules_for(layout: Layout, names: Iterable[str]) -> Iterator[Rule]:
    """The rules that a write of these fields may break."""
    written = set(names)
    for rule in rules_of(layout):
        if any(_is_named(rule, name, written) for name in rule.fields):
            yield rule


def _constraints(
    model: type[models.Model],
) -> Iterator[tuple[Sequence[str], models.UniqueConstraint | None]]:
    for constraint in model._meta.constraints:
        if isinstance(constraint, models.UniqueConstraint):
            yield constraint.fields, constraint
    for names in model._meta.unique_together:
        yield tuple(names), None


def unique_fields_of(model: type[models.Model]) -> "Iterator[list[models.Field[Any, Any]]]":
    """The fields of each unique constraint that is under no condition; none of expressions."""
    named = {
        name: field for field in model._meta.concrete_fields for name in (field.name, field.attname)
    }
    yield list(model._meta.pk_fields)
    for field in model._meta.concrete_fields:
        if field.unique and not field.primary_key:
            yield [field]
    for names, constraint in _constraints(model):
        if constraint is None or constraint.condition is None:
            yield [named[name] for name in names]


def _is_named(rule: Rule, name: str, written: Collection[str]) -> bool:
    field: Any = rule.model._meta.get_field(name)
    return field.name in written or field.attname in written


class Written(NamedTuple):
    """What a row will hold after a write.

    Args:
        instance: the row, for the condition of a constraint.
        text: what its secret was encrypted from.
        under: the values of its sources.
        beside: the values of the other fields of a rule, by name.
    """

    instance: models.Model
    text: str
    under: Values
    beside: dict[str, Any]


def row_after(row: models.Model, given: dict[str, Any]) -> models.Model:
    """A row as it will be after a write, for :class:`Written`; it is not to be saved.

    Args:
        given: what is written, by attname. A fixture's tokens, which are texts, are passed over:
            its instance holds them as what they are.
    """
    secrets = {field.attname for field in layout_of(row).fields}
    after = row.__class__.__new__(row.__class__)
    after.__dict__.update(row.__dict__)
    after.__dict__.update(
        (attname, value)
        for attname, value in given.items()
        if attname not in secrets or value is None or isinstance(value, Ciphertext)
    )
    return after


def two_keys_live() -> bool:
    """Say whether a value can have more than one index."""
    return len(get_indexer().keys) > 1
