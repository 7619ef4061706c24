"""Arbitrary values, and arbitrary sequences of what the ORM can do, against a plain dict."""

import copy
import json
import pickle
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from django.core import serializers
from django.core.exceptions import FieldError
from django.db import IntegrityError, models, transaction
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.encryption.database import everything
from tests.fieldapp.factories import TenantFactory, UuidTenantFactory
from tests.fieldapp.models import Note, Tenant, Vault

pytestmark = pytest.mark.django_db

#: Stands in each secret, so that a plaintext in the database is found whatever it says.
MARK = "PLAINTEXT"

texts = st.text(max_size=30)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
#: What the field itself may hold: `None` is NULL and no JSON.
json_fields = json_values.filter(lambda value: value is not None)


def as_json(value: Any) -> str:
    """A text that tells apart what `==` does not: 1, 1.0 and True; 0.0 and -0.0."""
    return json.dumps(value)


quick = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@quick
@given(text=st.text(), value=json_fields)
def test_any_text_and_json_comes_back(tenant: Tenant, text: str, value: Any) -> None:
    made = Note.objects.create(tenant=tenant, secret=text, data=value)
    note = Note.objects.get(pk=made.pk)
    assert note.secret == text
    assert as_json(note.data) == as_json(value)

    copied = pickle.loads(pickle.dumps(note))
    assert copied.secret == text
    assert as_json(copied.data) == as_json(value)

    (fixture,) = serializers.deserialize("json", serializers.serialize("json", [note]))
    fixture.save()
    row = Note.objects.values("secret", "data").get(pk=made.pk)
    assert row["secret"].decrypt(tenant.pk) == text
    assert as_json(row["data"].decrypt(tenant.pk)) == as_json(value)


@quick
@given(values=st.lists(st.tuples(texts, json_fields), min_size=1, max_size=4))
def test_any_values_in_bulk(values: list[tuple[str, Any]]) -> None:
    owner = UuidTenantFactory()
    vaults = [Vault(tenant=owner, secret=MARK + text, data={MARK: value}) for text, value in values]
    Vault.objects.bulk_create(vaults)
    for vault, (text, _) in zip(vaults, reversed(values), strict=True):
        vault.secret = MARK + text
    Vault.objects.bulk_update(vaults, ["secret"])

    read = Vault.objects.in_bulk([vault.pk for vault in vaults])
    for vault, (text, _), (_, value) in zip(vaults, reversed(values), values, strict=True):
        assert read[vault.pk].secret == MARK + text
        assert as_json(read[vault.pk].data) == as_json({MARK: value})
    assert MARK not in everything(Vault)
    owner.delete()


# -- sequences ----------------------------------------------------------------------------------

Row = dict[str, Any]


@dataclass
class Held:
    """An instance, and what each of its loaded fields is to hold."""

    instance: Any
    seen: Row = field(default_factory=dict)


class OrmMachine(RuleBasedStateMachine):
    """Does to a table and to a dict the same, and compares them.

    Any number of instances of one row are held at once, so most saves are stale ones. The dict
    behaves as a table of plain columns would.
    """

    model: ClassVar[type[models.Model]]
    #: Whether its manager's bulk_update() knows of secrets.
    can_bulk_update: ClassVar[bool]
    #: A field that cannot be NULL.
    required: ClassVar[str]
    #: The fields of a row; the first is the tenant.
    names: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.atomic = transaction.atomic()
        self.atomic.__enter__()
        self.rows: dict[Any, Row] = {}
        self.held: list[Held] = []
        self.changed = False

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.atomic.__exit__(None, None, None)

    def make_tenants(self) -> list[Any]:
        raise NotImplementedError

    @initialize(text=texts, value=json_values)
    def start(self, text: str, value: Any) -> None:
        self.tenants = self.make_tenants()
        self._create(self._values(0, text, value), "save")

    def _values(self, tenant: int, text: str | None, value: Any) -> Row:
        return {
            "tenant": self.tenants[tenant].pk,
            "secret": None if text is None else MARK + text,
            "data": None if value is None else {MARK: value},
            self.names[3]: "initial",
        }

    def _create(self, values: Row, how: str) -> None:
        given = copy.deepcopy(values)
        given["tenant_id"] = given.pop("tenant")
        instance = self.model(**given)
        if how == "bulk_create":
            self.model._base_manager.bulk_create([instance])
        elif how == "create":
            instance = self.model._base_manager.create(**given)
        else:
            instance.save()
        self.rows[instance.pk] = copy.deepcopy(values)
        self._hold(instance)
        self.changed = True

    def _hold(self, instance: Any) -> None:
        held = Held(instance)
        self.held.append(held)
        self._notice_loaded(held)
        del self.held[:-6]

    def _notice_loaded(self, held: Held) -> None:
        """What was deferred and is loaded now holds what the row holds now."""
        deferred = held.instance.get_deferred_fields()
        row = self.rows[held.instance.pk]
        for name in self.names:
            attname = self.model._meta.get_field(name).attname
            if attname not in deferred and name not in held.seen:
                held.seen[name] = copy.deepcopy(row[name])

    def _read(self, held: Held, name: str) -> Any:
        attname = self.model._meta.get_field(name).attname
        value = getattr(held.instance, attname)
        self._notice_loaded(held)
        return value

    def _pick(self, number: int) -> Held:
        return self.held[number % len(self.held)]

    numbers = st.integers(0, 5)
    name_sets = st.sets(st.integers(0, 3), min_size=1)

    # Rows come and are loaded.

    @rule(
        tenant=st.integers(0, 2),
        text=st.none() | texts,
        value=json_values,
        how=st.sampled_from(["save", "create", "bulk_create"]),
    )
    def create(self, tenant: int, text: str | None, value: Any, how: str) -> None:
        self._create(self._values(tenant, text, value), how)

    @rule(
        number=numbers,
        how=st.sampled_from(["get", "related", "iterator", "in_bulk", "raw", "raw deferred"]),
    )
    def load(self, number: int, how: str) -> None:
        pk = self._pick(number).instance.pk
        manager = self.model._default_manager
        table = self.model._meta.db_table
        key = self.model._meta.pk.get_db_prep_value(pk, transaction.get_connection())
        if how == "get":
            instance = manager.get(pk=pk)
        elif how == "related":
            instance = manager.select_related("tenant").get(pk=pk)
        elif how == "iterator":
            (instance,) = manager.filter(pk=pk).iterator()
        elif how == "in_bulk":
            instance = manager.in_bulk([pk])[pk]
        else:
            columns = "*" if how == "raw" else "id, tenant_id"
            (instance,) = manager.raw(f"SELECT {columns} FROM {table} WHERE id = %s", [key])
        self._hold(instance)

    @rule(number=numbers, which=name_sets, only=st.booleans())
    def load_a_part(self, number: int, which: set[int], only: bool) -> None:
        rows = self.model._default_manager.filter(pk=self._pick(number).instance.pk)
        names = [self.names[place] for place in which]
        self._hold((rows.only(*names) if only else rows.defer(*names)).get())

    @rule(number=numbers, make=st.sampled_from(["copy", "deepcopy", "pickle"]))
    def copy(self, number: int, make: str) -> None:
        held = self._pick(number)
        if make == "pickle":
            data = pickle.dumps(held.instance)
            assert MARK.encode() not in data
            instance = pickle.loads(data)
        else:
            instance = getattr(copy, make)(held.instance)
        assert MARK not in repr(instance.__dict__)
        copied = Held(instance, copy.deepcopy(held.seen))
        self.held.append(copied)
        self._notice_loaded(copied)
        del self.held[:-6]

    # Instances are read and edited.

    @rule(number=numbers, place=st.integers(0, 3))
    def read(self, number: int, place: int) -> None:
        held, name = self._pick(number), self.names[place]
        value = self._read(held, name)
        assert as_json(str(value) if place == 0 else value) == as_json(
            str(held.seen[name]) if place == 0 else held.seen[name]
        )

    @rule(number=numbers, text=st.none() | texts)
    def edit_the_secret(self, number: int, text: str | None) -> None:
        held = self._pick(number)
        held.instance.secret = held.seen["secret"] = None if text is None else MARK + text

    @rule(number=numbers, value=json_values)
    def edit_the_data(self, number: int, value: Any) -> None:
        held = self._pick(number)
        held.seen["data"] = None if value is None else {MARK: value}
        held.instance.data = copy.deepcopy(held.seen["data"])

    @rule(number=numbers, value=json_values)
    def edit_the_data_in_place(self, number: int, value: Any) -> None:
        held = self._pick(number)
        data = self._read(held, "data")
        if data is not None:
            data[MARK] = copy.deepcopy(value)
            held.seen["data"] = {**held.seen["data"], MARK: value}

    @rule(number=numbers, text=st.sampled_from(["a", "b", ""]))
    def edit_the_other_field(self, number: int, text: str) -> None:
        held = self._pick(number)
        setattr(held.instance, self.names[3], text)
        held.seen[self.names[3]] = text

    @rule(number=numbers, tenant=st.integers(0, 2), by_id=st.booleans())
    def edit_the_tenant(self, number: int, tenant: int, by_id: bool) -> None:
        held, target = self._pick(number), self.tenants[tenant]
        if by_id:
            held.instance.tenant_id = target.pk
        else:
            held.instance.tenant = target
        held.seen["tenant"] = target.pk

    # And written.

    @rule(number=numbers)
    def save(self, number: int) -> None:
        held = self._pick(number)
        held.instance.save()
        self._notice_loaded(held)
        self.rows[held.instance.pk].update(copy.deepcopy(held.seen))
        self.changed = True

    @rule(number=numbers, which=name_sets)
    def save_a_part(self, number: int, which: set[int]) -> None:
        held = self._pick(number)
        names = [self.names[place] for place in which]
        for name in names:
            self._read(held, name)
        held.instance.save(update_fields=names)
        self._notice_loaded(held)
        written = {name: copy.deepcopy(held.seen[name]) for name in names}
        self.rows[held.instance.pk].update(written)
        self.changed = True

    @rule(number=numbers, which=name_sets)
    def bulk_update(self, number: int, which: set[int]) -> None:
        held = self._pick(number)
        others = {one.instance.pk: one for one in self.held} | {held.instance.pk: held}
        chosen = list(others.values())[:3]
        names = [self.names[place] for place in which]
        for one in chosen:
            for name in names:
                self._read(one, name)
        manager = self.model._default_manager
        if self.can_bulk_update or not which.intersection({0, 1, 2}):
            manager.bulk_update([one.instance for one in chosen], names)
            for one in chosen:
                self._notice_loaded(one)
                written = {name: copy.deepcopy(one.seen[name]) for name in names}
                self.rows[one.instance.pk].update(written)
        else:
            with pytest.raises(FieldError), transaction.atomic():
                manager.bulk_update([one.instance for one in chosen], names)
        self.changed = True

    @rule(number=numbers, which=st.none() | name_sets)
    def refresh(self, number: int, which: set[int] | None) -> None:
        held = self._pick(number)
        names = None if which is None else [self.names[place] for place in which]
        deferred = set(self.names) - set(held.seen)
        held.instance.refresh_from_db(fields=names)
        row = self.rows[held.instance.pk]
        for name in self.names if names is None else names:
            if names is not None or name not in deferred:
                held.seen[name] = copy.deepcopy(row[name])
        self._notice_loaded(held)

    @rule(number=numbers, bad=st.sampled_from(["NaN", "surrogate", "NULL"]))
    def save_and_fail(self, number: int, bad: str) -> None:
        held = self._pick(number)
        for name in self.names:
            self._read(held, name)
        name, value = {
            "NaN": ("data", [MARK, float("nan")]),
            "surrogate": ("secret", MARK + "\ud800"),
            "NULL": (self.required, None),
        }[bad]
        before = getattr(held.instance, name)
        setattr(held.instance, name, value)
        with pytest.raises((ValueError, IntegrityError)), transaction.atomic():
            held.instance.save()
        setattr(held.instance, name, before)
        self.changed = True

    @rule(number=numbers, text=st.sampled_from(["c", "d"]))
    def update_what_nothing_depends_on(self, number: int, text: str) -> None:
        if not self.can_bulk_update:
            pk = self._pick(number).instance.pk
            self.model._default_manager.filter(pk=pk).update(**{self.names[3]: text})
            self.rows[pk][self.names[3]] = text
            self.changed = True

    @rule(number=numbers, tenant=st.integers(0, 2))
    def update_the_tenant(self, number: int, tenant: int) -> None:
        rows = self.model._default_manager.filter(pk=self._pick(number).instance.pk)
        with pytest.raises(FieldError), transaction.atomic():
            rows.update(tenant=self.tenants[tenant])
        self.changed = True

    @rule(number=numbers)
    def clear(self, number: int) -> None:
        pk = self._pick(number).instance.pk
        self.model._default_manager.filter(pk=pk).update(secret=None)
        self.rows[pk]["secret"] = None
        self.changed = True

    @precondition(lambda self: len(self.rows) < 8)
    @rule(number=numbers)
    def save_as_a_new_row(self, number: int) -> None:
        held = self._pick(number)
        for attname in held.instance.get_deferred_fields():
            getattr(held.instance, attname)
        self._notice_loaded(held)
        held.instance.pk = uuid4() if self.can_bulk_update else None
        held.instance._state.adding = True
        held.instance.save()
        self.rows[held.instance.pk] = copy.deepcopy(held.seen)
        self.changed = True

    # Whatever was done:

    @invariant()
    def the_table_is_the_dict(self) -> None:
        if not self.changed:
            return
        self.changed = False
        found = self.model._base_manager.in_bulk(list(self.rows))
        assert found.keys() == self.rows.keys()
        for pk, row in self.rows.items():
            instance = found[pk]
            assert instance.tenant_id == row["tenant"]
            assert instance.secret == row["secret"]
            assert as_json(instance.data) == as_json(row["data"])
            assert getattr(instance, self.names[3]) == row[self.names[3]]
        assert MARK not in everything(self.model)


class NoteMachine(OrmMachine):
    model = Note
    names = ("tenant", "secret", "data", "note")
    required = "note"
    can_bulk_update = False

    def make_tenants(self) -> list[Any]:
        return TenantFactory.create_batch(3)


class VaultMachine(OrmMachine):
    """Bound to its id and host, with the manager that knows of it."""

    model = Vault
    names = ("tenant", "secret", "data", "host")
    required = "name"
    can_bulk_update = True

    def make_tenants(self) -> list[Any]:
        return UuidTenantFactory.create_batch(3)


@pytest.mark.parametrize("machine", [NoteMachine, VaultMachine])
def test_any_sequence_of_operations(machine: type[OrmMachine], db: None) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
            phases=[phase for phase in Phase if phase is not Phase.explain],
        ),
    )
