"""The asynchronous half of the ORM: no `SynchronousOnlyOperation` where a plain field has none."""

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import FieldError, SynchronousOnlyOperation

from encryption import MissingSaltError
from tests.encryption.database import stored
from tests.fieldapp.factories import (
    LateSaltFactory,
    NoteFactory,
    UuidTenantFactory,
    VaultFactory,
)
from tests.fieldapp.models import Holder, LateSalt, Note, Tenant, UuidTenant, Vault

pytestmark = pytest.mark.django_db


@pytest.fixture
def vault(owner: UuidTenant) -> Vault:
    return VaultFactory(tenant=owner, secret="s", data={"a": 1}, host="h")


def test_this_file_runs_in_an_event_loop(vault: Vault) -> None:
    async def inside() -> None:
        asyncio.get_running_loop()
        with pytest.raises(SynchronousOnlyOperation):
            Vault.objects.get()

    asyncio.run(inside())


async def test_acreate_and_aget(tenant: Tenant) -> None:
    note = await Note.objects.acreate(tenant=tenant, secret="s", data=[1])
    assert (note.secret, note.data) == ("s", [1])
    read = await Note.objects.aget(pk=note.pk)
    assert (read.secret, read.data) == ("s", [1])
    assert (await sync_to_async(stored)(note, "secret")).startswith("v2:")


async def test_asave(tenant: Tenant, other_tenant: Tenant) -> None:
    note = Note(tenant=tenant, secret="s", data=[1])
    await note.asave()
    note.secret = "new"
    await note.asave(update_fields=["secret"])
    read = await Note.objects.aget()
    assert (read.secret, read.data) == ("new", [1])
    read.tenant = other_tenant
    await read.asave()
    read = await Note.objects.aget()
    assert (read.secret, read.tenant_id) == ("new", other_tenant.pk)
    with pytest.raises(MissingSaltError):
        await Note(secret="s").asave()


async def test_bulk_operations(owner: UuidTenant, other_owner: UuidTenant) -> None:
    vaults = await Vault.objects.abulk_create(
        [Vault(tenant=owner, secret=f"s{number}") for number in range(3)]
    )
    for vault in vaults:
        vault.secret += "!"
        vault.tenant = other_owner
    await Vault.objects.abulk_update(vaults, ["secret", "tenant"])
    read = await Vault.objects.ain_bulk([vault.pk for vault in vaults])
    assert sorted(vault.secret for vault in read.values()) == ["s0!", "s1!", "s2!"]
    with pytest.raises(FieldError):
        await Vault.objects.aupdate(tenant=owner)


async def test_aget_or_create_and_aupdate_or_create(tenant: Tenant) -> None:
    note, created = await Note.objects.aget_or_create(
        note="n", defaults={"tenant": tenant, "secret": "s"}
    )
    assert created
    assert note.secret == "s"
    note, created = await Note.objects.aupdate_or_create(note="n", defaults={"secret": "t"})
    assert not created
    assert (await Note.objects.aget()).secret == "t"


async def test_iteration(vault: Vault) -> None:
    assert [one.secret async for one in Vault.objects.all()] == ["s"]
    assert [one.secret async for one in Vault.objects.aiterator(chunk_size=1)] == ["s"]
    assert [one["secret"].key_id async for one in Vault.objects.values("secret")] != [None]
    assert (await Vault.objects.afirst()).secret == "s"
    assert (await Vault.objects.alatest("pk")).data == {"a": 1}


QUERYSETS: dict[str, Any] = {
    "all": Vault.objects.all(),
    "only secret": Vault.objects.only("secret", "data"),
    "only": Vault.objects.only("name").only("secret", "data"),
    "defer a name": Vault.objects.defer("name"),
    "defer the tenant": Vault.objects.defer("tenant"),
    "defer the host": Vault.objects.defer("host"),
    "defer both": Vault.objects.defer("host", "tenant"),
    "only and defer": Vault.objects.only("secret", "data").defer("tenant"),
    "select_related": Vault.objects.select_related("tenant").only("secret", "data", "tenant__name"),
}


@pytest.mark.parametrize("queryset", QUERYSETS.values(), ids=list(QUERYSETS))
async def test_what_was_loaded_is_read_without_a_query(vault: Vault, queryset: Any) -> None:
    read = await queryset.all().aget()
    assert (read.secret, read.data) == ("s", {"a": 1})
    (read,) = [one async for one in queryset.all()]
    assert (read.secret, read.data) == ("s", {"a": 1})


async def test_what_was_not_loaded_is_refused_as_it_is_for_any_field(vault: Vault) -> None:
    read = await Vault.objects.defer("secret").aget()
    with pytest.raises(SynchronousOnlyOperation):
        read.secret  # noqa: B018
    assert read.data == {"a": 1}
    await read.arefresh_from_db(fields=["secret"])
    assert read.secret == "s"


@pytest.mark.parametrize(
    "queryset", [Vault.objects.only("name"), Vault.objects.defer("secret")], ids=["only", "defer"]
)
async def test_deferred_secrets_are_saved_and_refreshed(
    vault: Vault, other_owner: UuidTenant, queryset: Any
) -> None:
    read = await queryset.aget()
    read.tenant = other_owner
    await read.asave()
    await read.arefresh_from_db(fields=["secret", "data"])
    assert (read.secret, read.data) == ("s", {"a": 1})
    read = await Vault.objects.aget()
    assert (read.secret, read.tenant_id) == ("s", other_owner.pk)


async def test_prefetches_and_related_rows(vault: Vault, owner: UuidTenant) -> None:
    read = await UuidTenant.objects.prefetch_related("vaults").aget()
    assert [one.secret for one in read.vaults.all()] == ["s"]
    assert [one.secret async for one in owner.vaults.all()] == ["s"]
    made = await owner.vaults.acreate(secret="t")
    assert made.secret == "t"
    holder = await Holder.objects.acreate()
    read = await Holder.objects.select_related("note").aget(pk=holder.pk)
    assert read.note is None


async def test_a_late_salt(tenant: Tenant) -> None:
    row = await sync_to_async(LateSaltFactory)(owner=tenant, secret="s")
    read = await LateSalt.objects.aget(pk=row.pk)
    assert read.secret == "s"


async def test_many_tasks_at_once(db: None) -> None:
    owners = await sync_to_async(UuidTenantFactory.create_batch)(5)

    async def work(owner: UuidTenant, number: int) -> str:
        made = await Vault.objects.acreate(tenant=owner, secret=f"{owner.pk} {number}")
        made.data = {"n": number}
        await made.asave(update_fields=["data"])
        read = await Vault.objects.only("secret").aget(pk=made.pk)
        await read.arefresh_from_db()
        return read.secret

    numbered = [(owner, number) for owner in owners for number in range(4)]
    texts = await asyncio.gather(*[work(owner, number) for owner, number in numbered])
    assert texts == [f"{owner.pk} {number}" for owner, number in numbered]


async def test_notes_with_djangos_own_manager(tenant: Tenant) -> None:
    await sync_to_async(NoteFactory)(tenant=tenant, secret="s")
    read = await Note.objects.only("secret", "tenant").aget()
    assert read.secret == "s"
