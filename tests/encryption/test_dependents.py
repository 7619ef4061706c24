"""Secrets of children whose sources stand in a parent's table: nothing moves one away."""

import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db import connection, connections, models, transaction
from django.db.models.signals import post_save, pre_save

from encryption.managers import EncryptedQuerySet
from encryption.saving import Stored
from tests.encryption.database import refused
from tests.fieldapp.factories import ChildFactory, NoteFactory, ParentFactory
from tests.fieldapp.models import Child, Cousin, Grandchild, Note, OwnKey, Parent, Tenant

SECRETS = {"secret": "outer", "inner": "inner", "deepest": "deepest"}


@pytest.fixture
def row(db: None, tenant: Tenant) -> Grandchild:
    return Grandchild.objects.create(tenant=tenant, motto="m", **SECRETS)


def intact(row: Grandchild, tenant: Tenant) -> bool:
    read = Grandchild.objects.get(pk=row.pk)
    assert {name: getattr(read, name) for name in SECRETS} == SECRETS
    return (read.tenant, read.motto) == (tenant, "m")


def bulk_update(model: type[models.Model], row: models.Model, *names: str) -> None:
    EncryptedQuerySet(model).bulk_update([row], names)


def by_hand(pk: int, tenant: Tenant, **options: Any) -> None:
    """An instance that was never loaded, saved over the row."""
    Parent(pk=pk, tenant=tenant, secret="outer").save(**options)


def upsert(row: Parent, *names: str) -> None:
    copy = Parent(pk=row.pk, tenant=row.tenant, secret="outer")
    Parent.objects.bulk_create(
        [copy], update_conflicts=True, unique_fields=["id"], update_fields=names
    )


def moved(model: type[Parent], pk: int, to: Tenant) -> Any:
    loaded = model.objects.get(pk=pk)
    loaded.tenant = to
    return loaded


def renamed(pk: int) -> Child:
    loaded = Child.objects.get(pk=pk)
    loaded.motto = "new"
    return loaded


MOVES: dict[str, Callable[[int, Tenant], object]] = {
    "save of a parent": lambda pk, to: moved(Parent, pk, to).save(),
    "partial save of a parent": lambda pk, to: moved(Parent, pk, to).save(update_fields=["tenant"]),
    "save of the one between": lambda pk, to: moved(Child, pk, to).save(),
    "partial save of it": lambda pk, to: moved(Child, pk, to).save(update_fields=["tenant"]),
    "its other source": lambda pk, to: renamed(pk).save(),
    "bulk_update of a parent": lambda pk, to: bulk_update(Parent, moved(Parent, pk, to), "tenant"),
    "of the one between": lambda pk, to: bulk_update(Child, moved(Child, pk, to), "tenant"),
    "of its other source": lambda pk, to: bulk_update(Child, renamed(pk), "motto"),
    "with a secret": lambda pk, to: bulk_update(Child, renamed(pk), "motto", "inner"),
    "made by hand": by_hand,
    "made by hand, updated": lambda pk, to: by_hand(pk, to, force_update=True),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=list(MOVES))
def test_a_source_is_not_moved_from_under_a_child(
    row: Grandchild, tenant: Tenant, other_tenant: Tenant, move: Callable[[int, Tenant], object]
) -> None:
    with refused(FieldError, match=r"fieldapp\.(Child\.inner|Grandchild\.deepest)"):
        move(row.pk, other_tenant)
    assert intact(row, tenant)


@pytest.mark.parametrize("move", MOVES.values(), ids=list(MOVES))
def test_nothing_is_refused_where_the_child_holds_no_secret(
    row: Grandchild, other_tenant: Tenant, move: Callable[[int, Tenant], object]
) -> None:
    Grandchild.objects.update(inner=None, deepest=None)
    move(row.pk, other_tenant)
    read = Grandchild.objects.get()
    assert (read.secret, read.inner, read.deepest) == ("outer", None, None)


BETWEEN = ("save of the one between", "partial save of it", "of the one between")


@pytest.mark.parametrize("move", [MOVES[name] for name in BETWEEN], ids=BETWEEN)
def test_a_source_two_tables_up(
    tenant: Tenant, other_tenant: Tenant, move: Callable[[int, Tenant], object]
) -> None:
    """The table between holds neither the secret nor what it depends on, and writes the latter."""
    row = Cousin.objects.create(tenant=tenant, **SECRETS)
    with refused(FieldError, match=r"fieldapp\.Cousin\.deepest"):
        move(row.pk, other_tenant)
    assert Cousin.objects.get().deepest == "deepest"


def test_djangos_own_manager_refuses_before_it_begins(row: Grandchild, tenant: Tenant) -> None:
    with refused(FieldError, match=r"fieldapp\.Grandchild\.deepest"):
        Child.objects.bulk_update([renamed(row.pk)], ["motto"])
    assert intact(row, tenant)


def test_an_upsert_takes_no_source_over(
    row: Grandchild, tenant: Tenant, other_tenant: Tenant
) -> None:
    if connection.vendor == "mysql":
        pytest.skip("MariaDB is told no unique_fields")
    parent = Parent.objects.get(pk=row.pk)
    parent.tenant = other_tenant
    with refused(FieldError, match=r"Child.*another table"):
        upsert(parent, "tenant", "secret")
    assert intact(row, tenant)


def test_a_parent_that_was_loaded_before_the_child_moved(
    row: Grandchild, other_tenant: Tenant
) -> None:
    """It says nothing new, and yet would take the tenant back."""
    stale = Parent.objects.get(pk=row.pk)
    moving = Grandchild.objects.get()
    moving.tenant = other_tenant
    moving.save()
    with pytest.raises(FieldError, match=r"fieldapp\.Child\.inner"):
        stale.save()


def test_a_parent_is_saved_into_another_database(
    row: Grandchild, tenant: Tenant, other_tenant: Tenant
) -> None:
    """What counts is what stands where it is written, not what it was loaded with."""
    elsewhere = Parent.objects.get(pk=row.pk)
    elsewhere._state.db = "other"  # as if it was loaded there
    elsewhere.tenant_id = other_tenant.pk
    elsewhere._state.encrypted_under = (other_tenant.pk,) * len(  # type: ignore[attr-defined]
        Parent._encryption_layout.sources  # type: ignore[attr-defined]
    )
    elsewhere.secret = "outer"
    with refused(FieldError, match=r"fieldapp\.Child\.inner"):
        elsewhere.save(using="default")
    assert intact(row, tenant)


@pytest.mark.parametrize("fields", [None, ["tenant"], ["tenant", "motto"]])
def test_the_row_moves_as_what_it_is(
    row: Grandchild, other_tenant: Tenant, fields: list[str] | None
) -> None:
    loaded = Grandchild.objects.get()
    loaded.tenant = other_tenant
    loaded.save(update_fields=fields)
    assert intact(row, other_tenant)


# -- signals ----------------------------------------------------------------------------------


@pytest.fixture
def handle(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Connect a handler for the time of the test."""

    def connect(signal: Any, sender: Any, handler: Callable[..., None]) -> None:
        signal.connect(handler, sender=sender, weak=False, dispatch_uid="a test")
        request.addfinalizer(lambda: signal.disconnect(sender=sender, dispatch_uid="a test"))

    return connect


@pytest.mark.parametrize("signal", [pre_save, post_save])
def test_a_handler_of_the_save_may_not_do_what_is_refused(
    row: Grandchild, tenant: Tenant, other_tenant: Tenant, handle: Callable[..., None], signal: Any
) -> None:
    victim = NoteFactory(tenant=tenant, secret="victim")
    errors: list[FieldError] = []

    def handler(**kwargs: Any) -> None:
        for model in (Note, Parent):
            try:
                with transaction.atomic():
                    model.objects.update(tenant=other_tenant)
            except FieldError as error:
                errors.append(error)

    handle(signal, Grandchild, handler)
    Grandchild.objects.get().save()
    assert len(errors) == 2
    assert Note.objects.get(pk=victim.pk).secret == "victim"
    assert intact(row, tenant)


@pytest.mark.parametrize("fields", [["tenant", "motto"], ["tenant", "inner"], ["motto"], None])
def test_a_handler_moves_the_row(
    row: Grandchild, other_tenant: Tenant, handle: Callable[..., None], fields: list[str] | None
) -> None:
    def handler(instance: Grandchild, **kwargs: Any) -> None:
        instance.tenant = other_tenant

    handle(pre_save, Grandchild, handler)
    loaded = Grandchild.objects.get()
    loaded.save(update_fields=fields)
    read = Grandchild.objects.get()
    assert {name: getattr(read, name) for name in SECRETS} == SECRETS


# -- primary keys -----------------------------------------------------------------------------


def test_a_key_is_not_updated_under_a_secret(db: None) -> None:
    row = OwnKey.objects.create(secret="s")
    with refused(FieldError, match=r"fieldapp\.OwnKey\.secret is encrypted under 'id'"):
        OwnKey.objects.update(id=uuid.uuid4())
    assert OwnKey.objects.get(pk=row.pk).secret == "s"


def test_the_key_of_a_parent_is_free_where_nothing_depends_on_it(tenant: Tenant) -> None:
    parent = ParentFactory(tenant=tenant, secret="s")
    Parent.objects.filter(pk=parent.pk).update(id=parent.pk + 1_000)
    assert Parent.objects.get().secret == "s"


# -- races ------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no row")
def test_a_parents_row_is_locked_while_the_childs_secret_is_saved(
    monkeypatch: pytest.MonkeyPatch, tenant: Tenant, other_tenant: Tenant
) -> None:
    child = ChildFactory(tenant=tenant, secret="outer", inner="inner")
    original = Stored.read
    moves: list[threading.Thread] = []

    def move() -> None:
        loaded = Child.objects.get(pk=child.pk)
        loaded.tenant = other_tenant
        loaded.save()
        connections.close_all()

    def read_and_let_others_in(*args: Any) -> Any:
        found = original(*args)
        if not moves:
            moves.append(threading.Thread(target=move))
            moves[0].start()
            moves[0].join(1)  # it waits for the row, or is done
        return found

    monkeypatch.setattr(Stored, "read", read_and_let_others_in)
    loaded = Child.objects.get(pk=child.pk)
    loaded.inner = "mine"
    loaded.save(update_fields=["inner"])
    moves[0].join()
    read = Child.objects.get()
    assert read.secret == "outer"
    assert (read.tenant, read.inner) in {(other_tenant, "mine"), (other_tenant, "inner")}
