"""Somebody else changes the row after a save has taken its values and before its UPDATE is run.

The change is made at that very moment, from a hook on the connection: what it does to the save is
what another process's commit would do. Whatever it was, the row can be read afterwards, and holds
what a table of plain columns would hold: the save's value in each column that the save writes, the
other's in the rest.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db import DatabaseError, connection

from encryption.conf import get_keyring
from tests.encryption.conftest import OTHER_KEY
from tests.encryption.database import refused, store
from tests.fieldapp.factories import VaultFactory
from tests.fieldapp.models import UuidTenant, Vault

pytestmark = pytest.mark.django_db

Row = dict[str, Any]
OURS: Row = {"secret": "our secret", "host": "our.example", "data": {"is": "ours"}, "name": "ours"}
THEIRS: Row = {"secret": "their secret", "host": "their.example", "data": {"is": "theirs"}}


@contextmanager
def meanwhile(change: Callable[[], object], times: int = 1) -> Iterator[list[str]]:
    """Make the change just before each of the next UPDATEs of a vault is executed."""
    seen: list[str] = []

    def before(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("UPDATE") and "vault" in sql and len(seen) < times and not changing:
            seen.append(sql)
            changing.append(True)
            change()
            changing.pop()
        return execute(sql, params, many, context)

    changing: list[bool] = []
    with connection.execute_wrapper(before):
        yield seen


def content(pk: Any) -> Row:
    row = Vault.objects.get(pk=pk)
    return {name: getattr(row, name) for name in ("tenant_id", *OURS)}


@pytest.fixture
def vault(owner: UuidTenant) -> Vault:
    return VaultFactory(
        tenant=owner, secret="first", host="first.example", data={"is": "first"}, name="first"
    )


def others(change: str, pk: Any, tenant: UuidTenant) -> Row:
    """Do to the row what somebody else does, with an instance of their own; what it changes."""
    row = Vault.objects.get(pk=pk)
    new: Row = {
        "secret": {"secret": THEIRS["secret"]},
        "no secret": {"secret": None},
        "data": {"data": THEIRS["data"]},
        "host": {"host": THEIRS["host"]},
        "tenant": {"tenant_id": tenant.pk},
        "host and secret": {"host": THEIRS["host"], "secret": THEIRS["secret"]},
        "all": {"tenant_id": tenant.pk, **THEIRS},
        "rotation": {},
    }[change]
    if change == "rotation":
        ring = get_keyring()
        text = ring.encrypt("first", str(row.tenant_id), Vault.secret.field.aad_context, bound(row))
        store(row, "secret", text)
    for name, value in new.items():
        setattr(row, name, value)
    row.save(update_fields=[name.removesuffix("_id") for name in new]) if new else None
    return new


def bound(row: Vault) -> list[str | None]:
    return [str(row.pk), row.host]


OTHERS = ["secret", "no secret", "data", "host", "tenant", "host and secret", "all", "rotation"]
PARTS = [
    ["secret"],
    ["data"],
    ["name"],
    ["host"],
    ["tenant_id"],
    ["host", "secret"],
    ["tenant_id", "secret"],
    ["tenant_id", "host", "data"],
    ["tenant_id", "host", "secret", "data", "name"],
]


def ours(row: Vault, names: list[str], tenant: UuidTenant) -> Row:
    new = {name: tenant.pk if name == "tenant_id" else OURS[name] for name in names}
    for name, value in new.items():
        setattr(row, name, value)
    return new


@pytest.mark.parametrize("change", OTHERS)
@pytest.mark.parametrize("names", PARTS, ids="+".join)
@pytest.mark.parametrize(("how", "times"), [("some", 3), ("deferred", 1)], ids=["some", "deferred"])
def test_a_part_of_a_row_is_saved(
    vault: Vault, other_owner: UuidTenant, names: list[str], change: str, how: str, times: int
) -> None:
    third = UuidTenant.objects.create()
    first = content(vault.pk)
    loaded = Vault.objects.all() if how == "some" else Vault.objects.only(*names)
    row = loaded.get(pk=vault.pk)
    new = ours(row, names, other_owner)
    if how == "deferred":  # what a secret is read under is loaded with it, and all that is is saved
        sources = {"secret": ["tenant_id", "host"], "data": ["tenant_id"]}
        along = {source for name in names for source in sources.get(name, [])}
        new = {name: first[name] for name in along} | new
    theirs: Row = {}
    with meanwhile(lambda: theirs.update(others(change, vault.pk, third)), times) as seen:
        if how == "some":
            row.save(update_fields=[name.removesuffix("_id") for name in names])
        else:
            row.save()
    assert 1 <= len(seen) <= times
    assert content(vault.pk) == first | theirs | new
    # The instance goes on with what it wrote.
    row.name = "again"
    row.save(update_fields=["name", "secret"] if "secret" in names else ["name"])
    assert content(vault.pk) == first | theirs | new | {"name": "again"}


@pytest.mark.parametrize("change", OTHERS)
@pytest.mark.parametrize("names", PARTS, ids="+".join)
def test_a_whole_row_is_saved(
    vault: Vault, other_owner: UuidTenant, names: list[str], change: str
) -> None:
    third = UuidTenant.objects.create()
    first = content(vault.pk)
    row = Vault.objects.get(pk=vault.pk)
    new = ours(row, names, other_owner)
    with meanwhile(lambda: others(change, vault.pk, third)) as seen:
        row.save()
    assert len(seen) == 1
    assert content(vault.pk) == first | new  # a whole save writes every column


@pytest.mark.parametrize("names", [["tenant_id"], ["host"], ["secret"]], ids=lambda names: names[0])
def test_a_row_that_changes_each_time_is_given_up(
    vault: Vault, owner: UuidTenant, other_owner: UuidTenant, names: list[str]
) -> None:
    owners = [owner, UuidTenant.objects.create()]
    first = content(vault.pk)
    row = Vault.objects.get(pk=vault.pk)
    ours(row, names, other_owner)
    count = [0]

    def change() -> None:
        count[0] += 1
        other = Vault.objects.get(pk=vault.pk)
        other.tenant, other.host = owners[count[0] % 2], f"host-{count[0]}.example"
        other.secret = f"secret {count[0]}"
        other.save()

    with meanwhile(change, 1000), refused(FieldError, "was changed by others in each of 10"):
        row.save(update_fields=[name.removesuffix("_id") for name in names])
    assert count == [10]
    assert content(vault.pk) == first | {
        "tenant_id": owners[0].pk,
        "host": "host-10.example",
        "secret": "secret 10",
    }


@pytest.mark.parametrize("names", PARTS, ids="+".join)
def test_a_row_that_is_deleted_meanwhile(
    vault: Vault, other_owner: UuidTenant, names: list[str]
) -> None:
    row = Vault.objects.get(pk=vault.pk)
    ours(row, names, other_owner)
    with (
        meanwhile(lambda: Vault.objects.filter(pk=vault.pk).delete()),
        refused(DatabaseError, "did not affect any rows"),
    ):
        row.save(update_fields=[name.removesuffix("_id") for name in names])
    assert not Vault.objects.exists()


def test_a_row_whose_key_is_unknown_by_then(vault: Vault, other_owner: UuidTenant) -> None:
    """A move has to decrypt what is there now; what it cannot decrypt is left alone."""
    from encryption import UnknownKeyError  # noqa: PLC0415
    from encryption.core.derivation import MasterKey  # noqa: PLC0415
    from encryption.core.keyring import Keyring  # noqa: PLC0415

    token = Keyring(MasterKey(OTHER_KEY)).encrypt(
        "x", str(vault.tenant_id), Vault.secret.field.aad_context, bound(vault)
    )
    row = Vault.objects.get(pk=vault.pk)
    row.tenant = other_owner
    with meanwhile(lambda: store(vault, "secret", token)), refused(UnknownKeyError):
        row.save(update_fields=["tenant"])
    assert Vault.objects.values_list("tenant_id", flat=True).get() == vault.tenant_id
