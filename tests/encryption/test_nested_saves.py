"""Saves by handlers of a save, and by instances that do not know what became of their row."""

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

import pytest
from django.db import transaction
from django.db.models.signals import post_save, pre_save

from encryption import EncryptionError
from tests.encryption.matching import expect_indexes
from tests.fieldapp.models import (
    Child,
    Cousin,
    Grandchild,
    Indexed,
    IndexedChild,
    Note,
    SecretChild,
    Tenant,
)

pytestmark = pytest.mark.django_db

FAMILY = [Child, SecretChild, IndexedChild, Grandchild, Cousin]
WITH_A_PARENTS_SECRET = [Child, IndexedChild, Grandchild, Cousin]


def secret_of(cls: type[Any]) -> str:
    return "secret" if cls in (Note, Indexed) else "inner"


def made(cls: type[Any], tenant: Tenant, value: str = "one") -> Any:
    more = {"secret": "the parent's"} if cls in WITH_A_PARENTS_SECRET else {}
    return cls.objects.create(tenant=tenant, **{secret_of(cls): value}, **more)


def expect_readable(cls: type[Any], pk: object, tenant: Tenant, value: str) -> None:
    row = cls.objects.get(pk=pk)
    assert (row.tenant, getattr(row, secret_of(cls))) == (tenant, value)
    if cls in WITH_A_PARENTS_SECRET:
        assert row.secret == "the parent's"
    if cls in (Indexed, IndexedChild):
        expect_indexes(cls)


# -- what became of a row meanwhile ---------------------------------------------------------------


@pytest.mark.parametrize("cls", [Note, Indexed, *FAMILY])
@pytest.mark.parametrize("change", [True, False])
def test_a_stale_instance_saves_a_part_of_a_row_that_moved(
    cls: type[Any], change: bool, tenant: Tenant, other_tenant: Tenant
) -> None:
    pk = made(cls, tenant).pk
    stale, mover = cls.objects.get(pk=pk), cls.objects.get(pk=pk)
    mover.tenant = other_tenant
    mover.save()
    if change:
        setattr(stale, secret_of(cls), "two")
    stale.save(update_fields=[secret_of(cls)])
    expect_readable(cls, pk, other_tenant, "two" if change else "one")


@pytest.mark.parametrize("cls", [Note, Indexed, *FAMILY])
def test_an_instance_whose_move_was_rolled_back_saves_a_part(
    cls: type[Any], tenant: Tenant, other_tenant: Tenant
) -> None:
    row = made(cls, tenant)
    with transaction.atomic():
        row.tenant = other_tenant
        row.save()
        transaction.set_rollback(True)
    setattr(row, secret_of(cls), "two")
    row.save(update_fields=[secret_of(cls)])
    expect_readable(cls, row.pk, tenant, "two")


@pytest.mark.parametrize("cls", FAMILY)
def test_an_instance_made_by_hand_saves_a_part_under_the_rows_own_tenant(
    cls: type[Any], tenant: Tenant, other_tenant: Tenant
) -> None:
    row = made(cls, tenant)
    by_hand = cls(pk=row.pk, **{cls._meta.pk.attname: row.pk}, tenant=other_tenant, inner="two")
    by_hand.save(update_fields=["inner"])
    expect_readable(cls, row.pk, tenant, "two")


# -- a save within a save -------------------------------------------------------------------------


class Handler:
    """Moves the row, changes its secret or both, and saves it once more."""

    def __init__(self, fields: Iterable[str] | None, values: dict[str, Any]) -> None:
        self.fields, self.values, self.ran = fields, values, False

    def __call__(self, instance: Any, **kwargs: Any) -> None:
        if not self.ran:
            self.ran = True
            for name, value in self.values.items():
                setattr(instance, name, value)
            instance.save(update_fields=self.fields)


def combinations(secret: str) -> Iterator[tuple[Any, Any, list[str]]]:
    parts = [None, ["tenant"], [secret], ["tenant", secret]]
    return product(parts, parts, [["tenant"], [secret], ["tenant", secret]])


@pytest.mark.parametrize("cls", [Note, Indexed, Child, IndexedChild, SecretChild])
@pytest.mark.parametrize("signal", [pre_save, post_save], ids=["pre_save", "post_save"])
def test_whatever_a_handler_saves_stays_readable(
    cls: type[Any], signal: Any, tenant: Tenant, other_tenant: Tenant
) -> None:
    secret, broken = secret_of(cls), []
    for outer, inner, changed in combinations(secret):
        row = cls.objects.get(pk=made(cls, tenant).pk)
        row.tenant, values = other_tenant, {"tenant": tenant, secret: "three"}
        setattr(row, secret, "two")
        handler = Handler(inner, {name: values[name] for name in changed})
        signal.connect(handler, sender=cls)
        try:
            row.save(update_fields=outer)
        finally:
            signal.disconnect(handler, sender=cls)
        assert handler.ran
        try:
            found = cls.objects.get(pk=row.pk)
            assert getattr(found, secret) in {"one", "two", "three"}
            assert secret == "secret" or cls is SecretChild or found.secret == "the parent's"
            row.save()  # and the instance is usable
            expect_readable(cls, row.pk, row.tenant, getattr(row, secret))
        except EncryptionError as error:
            broken.append((outer, inner, changed, type(error).__name__))
    assert broken == []


@pytest.mark.parametrize("cls", [Note, Indexed, Child, IndexedChild])
@pytest.mark.parametrize("outer", [["tenant"], ["tenant", "secret"]])
def test_a_handlers_save_that_fails_leaves_the_outer_one_as_it_was(
    cls: type[Any], outer: list[str], tenant: Tenant, other_tenant: Tenant
) -> None:
    row = cls.objects.get(pk=made(cls, tenant).pk)
    failed: list[str] = []

    def fail(instance: Any, **kwargs: Any) -> None:
        if not failed:
            failed.append("once")
            setattr(instance, secret_of(cls), 5)
            with pytest.raises(TypeError), transaction.atomic():
                instance.save(update_fields=[secret_of(cls)])
            setattr(instance, secret_of(cls), "two")

    post_save.connect(fail, sender=cls)
    try:
        row.tenant = other_tenant
        row.save(update_fields=[secret_of(cls) if name == "secret" else name for name in outer])
    finally:
        post_save.disconnect(fail, sender=cls)
    assert failed
    expect_readable(cls, row.pk, other_tenant, "one")
    row.save(update_fields=[secret_of(cls)])
    expect_readable(cls, row.pk, other_tenant, "two")


@pytest.mark.parametrize("outer", [None, ["tenant"]])
def test_a_handler_completes_a_child_that_has_just_moved(
    outer: list[str] | None, tenant: Tenant, other_tenant: Tenant
) -> None:
    row = IndexedChild.objects.get(pk=made(IndexedChild, tenant).pk)
    handler: Callable[..., None] = Handler(["inner"], {"inner": "two"})
    post_save.connect(handler, sender=IndexedChild)
    try:
        row.tenant = other_tenant
        row.save(update_fields=outer)
    finally:
        post_save.disconnect(handler, sender=IndexedChild)
    expect_readable(IndexedChild, row.pk, other_tenant, "two")
