"""Unique blind indexes: found by validation, and while two keys are live by every write.

Under one key the database's own constraint is all that is needed. During a rotation a value has
one index under the old key and another under the new one, which no constraint compares. So each
write then looks for its value under all keys first, in its own transaction and under a lock that
all writers of the same tenant and field take (``locks.py``).

A transaction of PostgreSQL at REPEATABLE READ or SERIALIZABLE does not see what others committed
since it began, whatever it locks; ``unseen.py`` says what is done about that.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

from django.core.exceptions import FieldError, ValidationError
from django.db import IntegrityError, connections, models, router, transaction
from django.db.models import Q
from django.utils.text import capfirst

from encryption.binding import Layout, Partial, Values, layout_of, layout_of_class
from encryption.conf import get_indexer
from encryption.core.blindindex import is_absent
from encryption.core.errors import EncryptionError
from encryption.descriptors import UNREAD
from encryption.guards import Beside, guard_beside, looked_at
from encryption.indexes import BlindIndexField, Index, under_all_keys
from encryption.locks import lock
from encryption.unseen import try_later, try_other_keys


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
                guard_beside(field, key, Beside(self.index, deciding, may_be_null))

    def value(self, instance: models.Model, name: str) -> Any:
        """The value of another field, of a foreign key its id."""
        return getattr(instance, self.model._meta.get_field(name).attname)  # type: ignore[union-attr]

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
        rows = rule.twins(
            rule.model._default_manager.using(using),
            _indexes_now(rule.index, instance),
            {name: rule.value(instance, name) for name in rule.names},
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


def guarded(original: Callable[..., Any]) -> Callable[..., Any]:
    """Django's ``save_base`` in a transaction that first looks for the values under all keys.

    It raises an ``IntegrityError`` if another row holds one of them.
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
        using = using or router.db_for_write(type(self), instance=self)
        if raw or not two_keys_live():
            return original(self, raw, force_insert, force_update, using, update_fields)
        with looking(using, self, lambda: _of_save(self, using, update_fields)):
            return original(self, raw, force_insert, force_update, using, update_fields)

    save_base._looks_for_duplicates = True  # type: ignore[attr-defined]
    return save_base


@contextmanager
def looking(
    using: str, instance: models.Model, of_save: "Callable[[], Iterator[tuple[Rule, Written]]]"
) -> Iterator[None]:
    """A transaction for a save, in which the values are looked for first."""
    with transaction.atomic(using=using, savepoint=False):
        unseen = [(rule, [written]) for rule, written in of_save() if check(rule, using, [written])]
        token = looked_at.set(instance)
        try:
            yield
        finally:
            looked_at.reset(token)
        try_other_keys(using, unseen)


@contextmanager
def looking_for_fixture(instance: models.Model, using: str) -> Iterator[None]:
    """The same for a raw save, of one table, which does not come by ``save_base``."""
    table = instance._meta.db_table
    if not rules_of(layout_of(instance)) or not two_keys_live():
        yield
        return
    own = (one for one in _of_save(instance, using, None) if one[0].model._meta.db_table == table)
    with looking(using, instance, lambda: own):
        yield


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


def _of_save(
    instance: models.Model, using: str, update_fields: Any
) -> Iterator[tuple[Rule, Written]]:
    """Each rule that a save may break, and what the row will hold after it."""
    layout = layout_of(instance)
    written = None if update_fields is None else set(update_fields)
    concerned = rules_of(layout) if written is None else list(rules_for(layout, written))
    stored: Any = None
    for rule in concerned:
        names = {name for name in rule.fields if written is None or _is_named(rule, name, written)}
        if names != rule.fields and stored is None:
            for one in concerned:  # before the row is read, which then stays what it is
                lock_for(one, using, [_sources_of(instance)])
            rows = type(instance)._base_manager.using(using).filter(pk=instance.pk)
            stored = rows.select_for_update().first()
            if stored is None:
                return  # there is no row to save a part of, and Django says so
            _overlay(stored, instance, concerned, written or ())
        holders = {name: instance if name in names else stored for name in rule.fields}
        holder = holders[rule.index.source]
        try:
            text = rule.text_of(holder)
        except EncryptionError:
            continue  # what nobody can read equals nothing
        if text is not None:
            beside = {name: rule.value(holders[name], name) for name in rule.names}
            after = instance if stored is None else stored
            yield rule, Written(after, text, _sources_of(instance), beside)


def _overlay(
    stored: models.Model,
    instance: models.Model,
    rules: Iterable[Rule],
    written: Collection[str],
) -> None:
    """Make of a row what it will be after the save of a part, as conditions ask for it."""
    for rule in rules:
        for name in rule.conditions:
            attname: str = rule.model._meta.get_field(name).attname  # type: ignore[union-attr]
            if _is_named(rule, name, written) and attname in instance.__dict__:
                stored.__dict__[attname] = instance.__dict__[attname]


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
    if len(rows) == 1 and rows[0] is looked_at.get():
        return
    for rule in rules_of(layout_of(rows[0])):
        if rule.index == index:
            texts = [(row, rule.text_of(row)) for row in rows]
            written = [
                Written(
                    row,
                    text,
                    _sources_of(row),
                    {name: rule.value(row, name) for name in rule.names},
                )
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
