"""Siblings, proxies and links that are no primary key: who writes a table knows of its secrets."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db import models
from django.test.utils import isolate_apps

from encryption.fields import EncryptedTextField
from encryption.managers import EncryptedManager
from tests.encryption.database import refused, tables
from tests.fieldapp.models import Tenant

pytestmark = pytest.mark.django_db


class Living(models.Manager[Any]):
    """Hides the rows that were deleted softly."""

    def get_queryset(self) -> "models.QuerySet[Any]":
        return super().get_queryset().filter(gone=False)


with isolate_apps("tests.fieldapp"):

    class Base(models.Model):
        tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")
        name = models.CharField(max_length=20)

        class Meta:
            app_label = "fieldapp"

    class EarlyProxy(Base):
        class Meta:
            app_label = "fieldapp"
            proxy = True

    class PlainKid(Base):
        """Has no secret, and is there before the one that has."""

        extra = models.CharField(max_length=20)
        extra2 = models.CharField(max_length=20)

        class Meta:
            app_label = "fieldapp"

    class OneKid(Base):
        one = EncryptedTextField(salt_field="tenant", bound_to=["extra"], null=True)
        extra = models.CharField(max_length=20)
        gone = models.BooleanField(default=False)
        objects = Living()

        class Meta:
            app_label = "fieldapp"
            base_manager_name = "objects"

    class OtherKid(Base):
        other = EncryptedTextField(salt_field="tenant", null=True)
        extra = models.CharField(max_length=20)
        objects = EncryptedManager()

        class Meta:
            app_label = "fieldapp"

    class LateKid(Base):
        class Meta:
            app_label = "fieldapp"

    class LateProxy(PlainKid):
        class Meta:
            app_label = "fieldapp"
            proxy = True

    class Safe(models.Model):
        tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")
        name = models.CharField(max_length=20)
        secret = EncryptedTextField(salt_field="tenant")

        class Meta:
            app_label = "fieldapp"

    class SafeProxy(Safe):
        class Meta:
            app_label = "fieldapp"
            proxy = True

    class SafeKid(Safe):
        inner = EncryptedTextField(salt_field="tenant")

        class Meta:
            app_label = "fieldapp"

    class First(models.Model):
        first_id = models.AutoField(primary_key=True)
        tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")

        class Meta:
            app_label = "fieldapp"

    class Second(models.Model):
        second_id = models.AutoField(primary_key=True)
        host = models.CharField(max_length=20)

        class Meta:
            app_label = "fieldapp"

    class Both(First, Second):
        secret = EncryptedTextField(salt_field="tenant", bound_to=["host"])

        class Meta:
            app_label = "fieldapp"

    class Linked(Base):
        """Its link to the parent is not its primary key."""

        id: Any = None
        key = models.IntegerField(primary_key=True)
        link = models.OneToOneField(Base, models.CASCADE, parent_link=True)
        secret = EncryptedTextField(salt_field="tenant")
        objects = EncryptedManager()

        class Meta:
            app_label = "fieldapp"


MODELS = [Base, PlainKid, OneKid, OtherKid, LateKid, Safe, SafeKid, First, Second, Both, Linked]


@pytest.fixture(scope="module", autouse=True)
def family_tables(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock(), tables(*MODELS):
        yield


@pytest.fixture
def kid(tenant: Tenant) -> OneKid:
    return OneKid.objects.create(tenant=tenant, name="n", one="secret", extra="e")


def as_new(model: type[Base]) -> Callable[[int, Tenant], None]:
    """Made a row of this class too, with another tenant."""
    return lambda pk, to: model(base_ptr_id=pk, tenant=to, name="n").save()


def as_it_is(model: type[Base], **options: Any) -> Callable[[int, Tenant], None]:
    """Moved as what the row is too."""

    def move(pk: int, to: Tenant) -> None:
        if not model._meta.proxy:
            tenant_id = Base.objects.get(pk=pk).tenant_id
            model(base_ptr_id=pk, tenant_id=tenant_id, name="n").save()
        loaded = model._default_manager.get(pk=pk)
        loaded.tenant = to
        loaded.save(**options)

    return move


def in_bulk(pk: int, to: Tenant) -> None:
    OtherKid(base_ptr_id=pk, tenant=Base.objects.get(pk=pk).tenant, name="n", other="x").save()
    loaded = OtherKid.objects.get(pk=pk)
    loaded.tenant = to
    OtherKid.objects.bulk_update([loaded], ["tenant", "other"])


MOVES = {
    **{f"new {model.__name__}": as_new(model) for model in (PlainKid, OtherKid, LateKid)},
    **{
        f"{model.__name__} {options}": as_it_is(model, **options)
        for model in (Base, EarlyProxy, PlainKid, OtherKid, LateKid)
        for options in ({}, {"update_fields": ["tenant"]})
        if model is not Base
    },
    "bulk_update": in_bulk,
}


@pytest.mark.parametrize("hidden", [False, True], ids=["seen", "hidden"])
@pytest.mark.parametrize("move", MOVES.values(), ids=list(MOVES))
def test_nobody_moves_a_row_from_under_anothers_secret(
    kid: OneKid,
    tenant: Tenant,
    other_tenant: Tenant,
    move: Callable[[int, Tenant], None],
    hidden: bool,
) -> None:
    models.QuerySet(OneKid).update(gone=hidden)
    with refused(FieldError, match=r"fieldapp\.OneKid\.one"):
        move(kid.pk, other_tenant)
    after = models.QuerySet(OneKid).get()
    assert (after.tenant, after.one) == (tenant, "secret")


def test_a_field_of_the_same_name_is_another(kid: OneKid) -> None:
    """``OneKid.one`` is bound to ``OneKid.extra`` and not to that of a sibling."""
    OtherKid(base_ptr_id=kid.pk, tenant=kid.tenant, name="n", other="x", extra="before").save()
    other = OtherKid.objects.get()
    other.extra = "after"
    other.save()
    OtherKid.objects.update(extra="later")
    assert (OneKid.objects.get().one, OtherKid.objects.get().other) == ("secret", "x")


def test_what_moves_nothing_is_saved(kid: OneKid) -> None:
    for model in (Base, EarlyProxy):
        row = model._default_manager.get(pk=kid.pk)
        row.name = model.__name__
        row.save()
        assert OneKid.objects.get().name == model.__name__
    assert OneKid.objects.get().one == "secret"


def test_partial_rows_of_a_class_without_secrets(tenant: Tenant) -> None:
    PlainKid.objects.create(tenant=tenant, name="n", extra="e", extra2="e2")
    for model in (PlainKid, LateProxy):
        for names in (["tenant", "extra"], ["extra", "extra2"], ["name", "extra2"]):
            read = model._default_manager.only(*names).get()
            read.save()
            found = (read.tenant_id, read.name, read.extra, read.extra2)
            assert found == (tenant.pk, "n", "e", "e2")


@pytest.mark.parametrize("fields", [None, ["tenant"]])
def test_a_proxy_of_a_class_with_a_secret_of_its_own(
    tenant: Tenant, other_tenant: Tenant, fields: list[str] | None
) -> None:
    kid = SafeKid.objects.create(tenant=tenant, secret="s", inner="inner")
    alone = Safe.objects.create(tenant=tenant, secret="s")
    proxy = SafeProxy.objects.get(pk=kid.pk)
    proxy.tenant = other_tenant
    with refused(FieldError, match=r"fieldapp\.SafeKid\.inner"):
        proxy.save(update_fields=fields)
    proxy = SafeProxy.objects.get(pk=kid.pk)
    proxy.name = "new"
    proxy.save()
    assert (SafeKid.objects.get().inner, SafeKid.objects.get().name) == ("inner", "new")
    proxy = SafeProxy.objects.get(pk=alone.pk)
    proxy.tenant = other_tenant
    proxy.save(update_fields=fields)
    assert Safe.objects.get(pk=alone.pk).secret == "s"


@pytest.mark.parametrize("fields", [None, ["host"]])
def test_two_parents_with_keys_of_their_own(
    tenant: Tenant, other_tenant: Tenant, fields: list[str] | None
) -> None:
    First.objects.create(tenant=tenant)  # so that the two keys of the next differ
    both = Both.objects.create(tenant=tenant, host="h", secret="one")
    assert both.first_id != both.second_id
    half = Second.objects.get(second_id=both.second_id)
    half.host = "moved"
    with refused(FieldError, match=r"fieldapp\.Both\.secret"):
        half.save(update_fields=fields)
    loaded = Both.objects.get()
    loaded.host = "new"
    loaded.tenant = other_tenant
    loaded.save(update_fields=fields and ["host", "tenant"])
    after = Both.objects.get()
    assert (after.secret, after.host, after.tenant) == ("one", "new", other_tenant)


@pytest.mark.parametrize("fields", [None, ["tenant"]])
def test_a_link_that_is_no_primary_key(
    tenant: Tenant, other_tenant: Tenant, fields: list[str] | None
) -> None:
    linked = Linked.objects.create(tenant=tenant, name="n", secret="mine", key=600)
    parent = Base.objects.get(pk=linked.link_id)
    parent.tenant = other_tenant
    with refused(FieldError, match=r"fieldapp\.Linked\.secret"):
        parent.save(update_fields=fields)
    # Another row, whose key is that of the first one's parent.
    Linked.objects.create(tenant=other_tenant, name="n", secret="other", key=linked.link_id)
    loaded = Linked.objects.get(key=600)
    loaded.tenant = other_tenant
    loaded.save(update_fields=fields)
    found = {row.key: (row.tenant, row.secret) for row in Linked.objects.all()}
    assert found == {
        600: (other_tenant, "mine"),
        linked.link_id: (other_tenant, "other"),
    }
