from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db import models
from django.test import override_settings

from encryption import DecryptionError, EncryptionError, MissingSaltError, conf
from encryption.managers import EncryptedManager, EncryptedQuerySet
from tests.encryption.database import everything, refused, store, stored
from tests.fieldapp.factories import UuidTenantFactory, VaultFactory
from tests.fieldapp.models import Once, Tenant, UuidTenant, Vault, Watched

pytestmark = pytest.mark.django_db


@pytest.fixture
def vaults(owner: UuidTenant) -> list[Vault]:
    VaultFactory.create_batch(3, tenant=owner, secret="s", data={"a": 1}, host="h", name="n")
    return list(Vault.objects.order_by("name", "pk"))


def _tokens() -> dict[Any, tuple[str, str]]:
    rows = Vault.objects.values_list("pk", "secret", "data")
    return {pk: (secret and secret.token, data and data.token) for pk, secret, data in rows}


def test_the_manager_and_its_related_managers_make_encrypted_querysets(owner: UuidTenant) -> None:
    assert isinstance(Vault.objects, EncryptedManager)
    for queryset in (Vault.objects.all(), owner.vaults.all(), Vault.objects.filter(pk=owner.pk)):
        assert isinstance(queryset, EncryptedQuerySet)


# -- bulk_update --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_bulk_update_encrypts_each_for_its_own_row(
    vaults: list[Vault], other_owner: UuidTenant, batch_size: int | None
) -> None:
    vaults[2].tenant = other_owner
    vaults[2].save()
    for number, vault in enumerate(vaults):
        vault.secret = f"the secret of {number}"
        vault.data = {"number": number}

    count = Vault.objects.bulk_update(vaults, ["secret", "data"], batch_size=batch_size)

    assert count == 3
    for number, vault in enumerate(vaults):
        read = Vault.objects.get(pk=vault.pk)
        assert (read.secret, read.data) == (f"the secret of {number}", {"number": number})
        assert read.name == "n"
        assert stored(vault, "secret").startswith("v2:")
    assert "the secret of" not in everything(Vault)


def test_bulk_update_writes_no_more_than_it_was_asked_to(vaults: list[Vault]) -> None:
    tokens = _tokens()
    for vault in vaults:
        vault.secret, vault.data, vault.name, vault.host = "new", ["new"], "new", "new"
    Vault.objects.bulk_update(vaults, ["name"])
    assert _tokens() == tokens

    Vault.objects.bulk_update(vaults, ["data"])
    for read in Vault.objects.all():
        assert (read.secret, read.data, read.name, read.host) == ("s", ["new"], "new", "h")
    Vault.objects.bulk_update(vaults, ["secret"])
    for read in Vault.objects.all():
        assert (read.secret, read.data, read.host) == ("new", ["new"], "h")
    for vault in vaults:
        vault.save()
    for read in Vault.objects.all():
        assert (read.secret, read.data, read.host) == ("new", ["new"], "new")


def test_bulk_update_keeps_the_tokens_of_what_did_not_change(vaults: list[Vault]) -> None:
    tokens = _tokens()
    assert vaults[0].secret
    vaults[1].secret = "new"
    Vault.objects.bulk_update(vaults, ["secret", "name"])
    after = _tokens()
    assert after[vaults[0].pk] == tokens[vaults[0].pk]
    assert after[vaults[2].pk] == tokens[vaults[2].pk]
    assert after[vaults[1].pk] != tokens[vaults[1].pk]


@pytest.mark.parametrize("fields", [["tenant"], ["tenant", "name"], ["tenant", "secret"]])
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_bulk_update_can_move(
    vaults: list[Vault], other_owner: UuidTenant, fields: list[str], read: bool
) -> None:
    if read:
        assert all(vault.secret and vault.data for vault in vaults)
    for vault in vaults[:2]:
        vault.tenant = other_owner

    Vault.objects.bulk_update(vaults, fields)

    assert Vault.objects.filter(tenant=other_owner).count() == 2
    for one in (*Vault.objects.all(), *vaults):
        assert (one.secret, one.data) == ("s", {"a": 1})
    for vault in vaults:
        vault.save()
        assert Vault.objects.get(pk=vault.pk).secret == "s"


def test_bulk_update_can_move_to_another_host(vaults: list[Vault]) -> None:
    for host in ("i", None, "", "h"):
        for vault in vaults:
            vault.host = host
        Vault.objects.bulk_update(vaults, ["host"])
        for read in Vault.objects.all():
            assert (read.host, read.secret, read.data) == (host, "s", {"a": 1})


@pytest.mark.parametrize(
    "queryset",
    [
        Vault.objects.only("name"),
        Vault.objects.only("tenant"),
        Vault.objects.only("secret"),
        Vault.objects.defer("secret"),
        Vault.objects.defer("tenant", "host"),
    ],
    ids=["all but name", "all but tenant", "all but secret", "secret", "tenant and host"],
)
@pytest.mark.parametrize("fields", [["tenant"], ["host"], ["name"], ["tenant", "host", "name"]])
def test_bulk_update_of_deferred_rows(
    vaults: list[Vault], other_owner: UuidTenant, queryset: Any, fields: list[str]
) -> None:
    partly = list(queryset.all())
    for vault in partly:
        vault.tenant, vault.host, vault.name = other_owner, "i", "m"
    Vault.objects.bulk_update(partly, fields)
    for read in Vault.objects.all():
        assert (read.secret, read.data) == ("s", {"a": 1})
        assert (read.tenant == other_owner) is ("tenant" in fields)
        assert (read.host == "i") is ("host" in fields)
        assert (read.name == "m") is ("name" in fields)


def test_bulk_update_of_instances_made_by_hand(
    vaults: list[Vault], owner: UuidTenant, other_owner: UuidTenant
) -> None:
    by_hand = [Vault(pk=vault.pk, tenant=other_owner, host="i") for vault in vaults]
    Vault.objects.bulk_update(by_hand, ["tenant"])
    for read in Vault.objects.all():
        assert (read.tenant, read.host) == (other_owner, "h")
        assert (read.secret, read.data) == ("s", {"a": 1})

    by_hand = [Vault(pk=vault.pk, tenant=owner, secret="new") for vault in vaults]
    Vault.objects.bulk_update(by_hand, ["secret"])
    for read in Vault.objects.all():
        assert (read.tenant, read.secret, read.data) == (other_owner, "new", {"a": 1})


@pytest.mark.parametrize("spelling", [str, lambda pk: pk.hex])
@pytest.mark.parametrize("model", [Vault, Watched])
def test_bulk_update_of_a_key_of_another_type(
    owner: UuidTenant, other_owner: UuidTenant, model: Any, spelling: Callable[[Any], Any]
) -> None:
    row = model.objects.create(tenant=owner, secret="s", data={"a": 1})
    moved = model(pk=spelling(row.pk), tenant=other_owner)
    assert model.objects.bulk_update([moved], ["tenant"]) == 1
    read = model.objects.get()
    assert (read.tenant, read.secret, read.data) == (other_owner, "s", {"a": 1})
    edited = model(pk=spelling(row.pk), secret="new")
    assert model.objects.bulk_update([edited], ["secret"]) == 1
    assert model.objects.get().secret == "new"


def test_bulk_update_of_a_numbered_key_as_text(tenant: Tenant, other_tenant: Tenant) -> None:
    row = Once.objects.create(tenant=tenant, secret="s", label="a", code="c")
    Once.objects.bulk_update([Once(pk=str(row.pk), tenant=other_tenant)], ["tenant"])
    read = Once.objects.get(secret="s", tenant=other_tenant)
    assert (read.secret, read.code) == ("s", "c")


def test_bulk_update_of_a_row_that_is_not_there(
    vaults: list[Vault], other_owner: UuidTenant
) -> None:
    missing = Vault(tenant=other_owner, secret="new")
    here = Vault(pk=vaults[0].pk, tenant=other_owner, secret="new")
    assert Vault.objects.bulk_update([missing, here], ["tenant", "secret"]) == 1
    assert Vault.objects.bulk_update([missing], ["tenant"]) == 0
    assert Vault.objects.count() == 3
    assert Vault.objects.get(pk=here.pk).secret == "new"
    missing.save()
    assert Vault.objects.get(pk=missing.pk).secret == "new"


def test_bulk_update_can_clear(vaults: list[Vault]) -> None:
    vaults[0].secret = None
    vaults[1].secret = ""
    Vault.objects.bulk_update(vaults, ["secret"])
    assert [Vault.objects.get(pk=vault.pk).secret for vault in vaults] == [None, "", "s"]
    assert stored(vaults[0], "secret") is None

    for vault in vaults:
        vault.secret = vault.data = None
    Vault.objects.bulk_update(vaults, ["secret", "data"])
    assert set(_tokens().values()) == {(None, None)}


def test_bulk_update_of_json_changed_in_place(vaults: list[Vault]) -> None:
    vaults[0].data["b"] = 2
    Vault.objects.bulk_update(vaults, ["data"])
    assert Vault.objects.get(pk=vaults[0].pk).data == {"a": 1, "b": 2}


def test_bulk_update_of_a_stale_instance(vaults: list[Vault], other_owner: UuidTenant) -> None:
    """Somebody else moved the row and changed its secret meanwhile."""
    moved = Vault.objects.get(pk=vaults[0].pk)
    moved.tenant, moved.host, moved.secret = other_owner, "i", "theirs"
    moved.save()
    vaults[0].data = ["mine"]
    Vault.objects.bulk_update(vaults, ["data"])
    read = Vault.objects.get(pk=vaults[0].pk)
    assert (read.secret, read.data, read.tenant) == ("theirs", ["mine"], other_owner)

    vaults[0].host = "j"
    Vault.objects.bulk_update(vaults, ["host"])
    read = Vault.objects.get(pk=vaults[0].pk)
    assert (read.host, read.secret, read.data) == ("j", "theirs", ["mine"])
    # The instance is still its own: what it shows is what it saves.
    assert vaults[0].secret == "s"
    vaults[0].save()
    assert Vault.objects.get(pk=vaults[0].pk).secret == "s"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"secret": b"bytes"}, TypeError),
        ({"secret": "\ud800"}, ValueError),
        ({"data": float("nan")}, ValueError),
        ({"secret": models.F("name")}, FieldError),
        ({"tenant": None}, MissingSaltError),
        ({"tenant": UuidTenant(pk=None)}, ValueError),
        ({"host": models.F("name")}, FieldError),
    ],
    ids=["bytes", "surrogate", "NaN", "F", "no tenant", "unsaved tenant", "computed host"],
)
def test_one_bad_row_stops_a_bulk_update(
    vaults: list[Vault], change: dict[str, Any], error: type[Exception]
) -> None:
    tokens = _tokens()
    for vault in vaults:
        vault.secret = "new"
    ((name, value),) = change.items()
    setattr(vaults[1], name, value)
    with refused(error):
        Vault.objects.bulk_update(vaults, ["secret", name] if name != "secret" else ["secret"])
    assert _tokens() == tokens
    assert all(vault.secret == "s" for vault in Vault.objects.all())


def test_an_unreadable_row_cannot_be_moved_in_bulk(
    vaults: list[Vault], other_owner: UuidTenant
) -> None:
    store(vaults[1], "secret", "no token")
    rows = list(Vault.objects.all())
    for vault in rows:
        vault.tenant = other_owner
    with refused(DecryptionError):
        Vault.objects.bulk_update(rows, ["tenant"])
    assert not Vault.objects.filter(tenant=other_owner).exists()


def test_a_foreign_ciphertext_is_refused(vaults: list[Vault]) -> None:
    vaults[0].secret = Vault.objects.values_list("secret", flat=True).get(pk=vaults[1].pk)
    with refused(EncryptionError, match="another row"):
        Vault.objects.bulk_update(vaults, ["secret"])


def test_bulk_update_checks_its_arguments_as_django_does(vaults: list[Vault]) -> None:
    assert Vault.objects.bulk_update([], ["secret"]) == 0
    with refused(ValueError, match="Field names"):
        Vault.objects.bulk_update(vaults, [])
    with refused(ValueError, match="primary key"):
        Vault.objects.bulk_update(vaults, ["id"])
    with refused(ValueError, match="primary key"):
        Vault.objects.bulk_update([Vault(pk=None, tenant=vaults[0].tenant)], ["secret"])
    with refused(ValueError, match="Batch size|batch_size"):
        Vault.objects.bulk_update(vaults, ["secret"], batch_size=-1)
    assert Vault.objects.bulk_update(iter(vaults), ("secret", "name")) == 3


def test_bulk_update_in_another_database(other_database: str, owner: UuidTenant) -> None:
    owner.save(using=other_database)
    vault = Vault(tenant=owner, secret="s")
    vault.save(using=other_database)
    vault.secret = "new"
    Vault.objects.using(other_database).bulk_update([vault], ["secret"])
    assert Vault.objects.using(other_database).get().secret == "new"


def test_bulk_update_through_a_related_manager(vaults: list[Vault], owner: UuidTenant) -> None:
    for vault in vaults:
        vault.secret = "new"
    assert owner.vaults.bulk_update(vaults, ["secret"]) == 3
    assert {vault.secret for vault in Vault.objects.all()} == {"new"}


def test_bulk_update_takes_one_statement_for_rows_that_stay(
    vaults: list[Vault], django_assert_max_num_queries: Any
) -> None:
    for vault in vaults:
        vault.secret = "new"
    with django_assert_max_num_queries(4):
        Vault.objects.bulk_update(vaults, ["secret", "data"])


# -- derive_keys --------------------------------------------------------------------------------


def test_derive_keys_derives_all_v1_keys_ahead(crypto: Counter[str]) -> None:
    with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1"}):
        for owner in UuidTenantFactory.create_batch(4):
            VaultFactory.create_batch(2, tenant=owner, secret="s", data=[1])
    conf.reset()
    crypto.clear()
    queryset = Vault.objects.filter(name__contains="Vault")

    derived = queryset.derive_keys()

    assert isinstance(derived, EncryptedQuerySet)
    assert crypto["derive"] == 4
    rows = list(derived)
    assert len(rows) == 8
    assert all(vault.secret == "s" and vault.data == [1] for vault in rows)
    assert crypto["derive"] == 4


def test_derive_keys_queries_once(vaults: list[Vault], django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(1):
        rows = list(Vault.objects.all().derive_keys())
        assert all(vault.secret == "s" for vault in rows)


def test_derive_keys_survives_rows_that_cannot_be_read(owner: UuidTenant) -> None:
    with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1"}):
        made = VaultFactory.create_batch(3, tenant=owner, secret="s", data=None)
    store(made[0], "secret", "A" * 40)
    store(made[1], "secret", None)
    rows = {vault.pk: vault for vault in Vault.objects.all().derive_keys()}
    with pytest.raises(DecryptionError):
        rows[made[0].pk].secret  # noqa: B018
    assert rows[made[1].pk].secret is None
    assert rows[made[2].pk].secret == "s"
    assert list(Vault.objects.none().derive_keys()) == []


def test_derive_keys_can_be_chained_from_the_manager(vaults: list[Vault]) -> None:
    assert len(Vault.objects.derive_keys()) == 3
