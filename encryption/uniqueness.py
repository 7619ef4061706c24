"""Unique blind indexes: found by validation, and while two keys are live by every write.

Under one key the database's own constraint is all that is needed. During a rotation a value has
one index under the old key and another under the new one, which no constraint compares. So each
write then looks for its value under all keys first, in its own transaction and under a lock that
all writers of the same tenant and field take (``locks.py``).

A transaction of PostgreSQL at REPEATABLE READ or SERIALIZABLE does not see what others committed
since it began, whatever it locks; ``unseen.py`` says what is done about that.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import wraps
from typing import Any, NamedTuple

from django.core.exceptions import FieldError, ValidationError
from django.db import IntegrityError, connections, models, router, transaction
from django.db.models import F, Q, Value
from django.db.models.expressions import DatabaseDefault
from django.utils.text import capfirst

from encryption.binding import Layout, Partial, Values, layout_of, layout_of_class
from encryption.conf import get_indexer
from encryption.core.blindindex import is_absent
from encryption.core.errors import EncryptionError
from encryption.descriptors import UNREAD, Ciphertext
from encryption.guards import Beside, guard_beside, vouching
from encryption.indexes import BlindIndexField, Index, under_all_keys
from encryption.locks import lock
from encryption.unseen import try_later, try_other_keys, trying_later


class Rule:
    """One way in which an index is unique: alone, or together with other fields.

    Args:
        model: the class whose table has the constraint.
        names: the other fields.
        constraint: where it is one, for its condition and its message.
    """

    def __init__(
        self,
        model: type[models.Model],
        index: BlindIndexField,
        names: Sequence[str] = (),
        constraint: models.UniqueConstraint | None = None,
    ) -> None:
        self.model = model
        self.index = index
        self.names = tuple(names)
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

    def guard(self) -> None:
        """Have statements checked that write a field beside the index."""
        # Some fields are not there yet: of models without migrations, Django first makes copies
        # without relations.
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
        """Say whether rows with these values, by attname, are not under the condition."""
        condition: Q | None = getattr(self.constraint, "condition", None)
        against = {}
        for name in self.conditions:
            field: Any = self.model._meta.get_field(name)
            value = values.get(field.attname, F(name))
            if hasattr(value, "resolve_expression"):
                return False  # only the database knows it
            against[name] = against[field.attname] = Value(value, field)
        return condition is not None and not condition.check(against, using=using)

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
            return value.expression  # type: ignore[attr-defined]
        if hasattr(value, "resolve_expression") and not isinstance(value, Value):
            raise FieldError(
                f"{self.index.label} is unique together with {name!r} or under a condition on it, "
                f"and {name!r} is an expression here. While two master keys are live, equal values "
                "have different indexes, so the database would not see what this makes a "
                "duplicate. Nothing was written. Save a value, or finish the rotation first and "
                "remove the old key."
            )
        return value

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
        rows = rows.filter(**{f"{self.index.name}__in": kept})
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
        against = instance._get_field_expression_map(meta=self.model._meta)  # type: ignore[attr-defined]
        try:
            return condition.check(against, using=using)
        except FieldError:
            return True  # it compares a secret: the rows are asked, then

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

    def conflict(self) -> IntegrityError:
        """The error of a write, as the database's own."""
        return IntegrityError(
            f"{self.index.encrypted.label}: another row holds the same value, under another master "
            f"key, and {self.index.name} is unique. Nothing was written."
        )


def rules_of(layout: Layout) -> Sequence[Rule]:
    """The unique constraints that a model's blind indexes stand in."""
    found: list[Rule] | None = layout.__dict__.get("unique_rules")
    if found is None:
        found = [Rule(index.model, index) for index in layout.indexes if index.unique]
        for model in (layout.model, *layout.model._meta.all_parents):
            for names, constraint in _constraints(model):
                for index in layout.indexes:
                    if index.name in names and index.model._meta.db_table == model._meta.db_table:
                        others = [name for name in names if name != index.name]
                        found.append(Rule(index.model, index, others, constraint))
        layout.__dict__["unique_rules"] = found
    return found


def _constraints(
    model: type[models.Model],
) -> Iterator[tuple[Sequence[str], models.UniqueConstraint | None]]:
    for constraint in model._meta.constraints:
        if isinstance(constraint, models.UniqueConstraint):
            yield constraint.fields, constraint
    for names in model._meta.unique_together:
        yield tuple(names), None


# -- validation ---------------------------------------------------------------------------------


def duplicates(
    instance: models.Model, exclude: Iterable[str] = (), *, of_constraints: bool | None = None
) -> dict[str, list[ValidationError]]:
    """Find the secrets of an instance that another row holds too, under any key.

    Args:
        exclude: names of fields that are not to be looked at.
        of_constraints: look at constraints only, or at ``unique=True`` only; by default at both.

    Returns:
        Errors by the name of the encrypted field; they do not hold the value.
    """
    exclude = set(exclude)
    using = router.db_for_write(type(instance), instance=instance)
    errors: dict[str, list[ValidationError]] = {}
    for rule in rules_of(layout_of(instance)):
        if of_constraints is not None and of_constraints is (rule.constraint is None):
            continue
        if exclude.intersection((rule.index.source, *rule.names)):
            continue
        try:
            beside = rule.beside(instance)
        except FieldError:
            continue  # the write will say so, if it has to
        rows = rule.twins(
            rule.model._default_manager.using(using), _indexes_now(rule.index, instance), beside
        )
        if rows is None or not rule.applies(instance, using):
            continue
        if instance.pk is not None and not instance._state.adding:
            rows = rows.exclude(pk=instance.pk)
        if rows.exists():
            errors.setdefault(rule.index.source, []).append(rule.error(instance))
    return errors


def _indexes_now(index: BlindIndexField, instance: models.Model) -> list[Index]:
    """The indexes of what an instance holds, under every key; none where that cannot be told."""
    layout, field = layout_of(instance), index.encrypted
    secret = instance.__dict__.get(field.attname)
    if secret is None:
        return []
    under = layout.current(instance)
    try:
        if type(under) is Partial:
            under = under.filled(layout.loaded(instance) or under)
        if secret._value is UNREAD:
            return under_all_keys(index, index.text_in(instance, secret), under)
        text, problem = field.to_text(secret._value)
        return [] if problem is not None else under_all_keys(index, text, under)
    except EncryptionError:
        return []  # unreadable, or without a tenant: other checks and the save say so


# -- writes while two keys are live -------------------------------------------------------------


def two_keys_live() -> bool:
    """Say whether a value can have more than one index."""
    return len(get_indexer().keys) > 1


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


def _sources_of(instance: models.Model) -> Values:
    layout = layout_of(instance)
    under: Values = instance._state.__dict__.get("encrypt_under") or layout.current(instance)
    return under.filled(layout.loaded(instance) or under) if type(under) is Partial else under


def _is_named(rule: Rule, name: str, written: Collection[str]) -> bool:
    field: Any = rule.model._meta.get_field(name)
    return field.name in written or field.attname in written


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


def rules_for(layout: Layout, names: Iterable[str]) -> Iterator[Rule]:
    """The rules that a write of these fields may break."""
    written = set(names)
    for rule in rules_of(layout):
        if any(_is_named(rule, name, written) for name in rule.fields):
            yield rule


def wrap_validation(cls: Any) -> None:
    """Have a class with unique blind indexes find duplicates when it is validated, and have
    statements refused that nobody can look for duplicates of."""
    for rule in rules_of(layout_of_class(cls)):
        rule.guard()
    for name, of_constraints in (("validate_unique", False), ("validate_constraints", True)):
        original = getattr(cls, name)
        if not hasattr(original, "_encryption_wrapper"):
            setattr(cls, name, _validating(original, of_constraints))


def _validating(original: Callable[..., None], of_constraints: bool) -> Callable[..., None]:
    def validate(self: models.Model, exclude: Any = None) -> None:
        own = {index.name for index in layout_of(self).indexes}
        errors: Any = {}
        try:
            original(self, exclude=own.union(exclude or ()))
        except ValidationError as error:
            errors = error.update_error_dict(errors)
        for name, found in duplicates(self, exclude or (), of_constraints=of_constraints).items():
            errors.setdefault(name, []).extend(found)
        if errors:
            raise ValidationError(errors)

    validate.__name__ = original.__name__
    validate._encryption_wrapper = True  # type: ignore[attr-defined]
    return validate
