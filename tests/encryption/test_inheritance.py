"""Abstract, multi-table and proxy inheritance."""

import os
from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db import IntegrityError, models, transaction
from django.test.utils import isolate_apps

from encryption import TamperedError, decrypt
from encryption.fields import BlindIndexField, EncryptedJSONField, EncryptedTextField
from tests.encryption.conftest import OTHER_KEY
from tests.encryption.database import everything, refused, store, stored, tables
from tests.encryption.matching import expect_indexes
from tests.fieldapp.factories import ChildFactory, NoteFactory, ParentFactory, SecretChildFactory
from tests.fieldapp.models import (
    BareParent,
    BrandedOne,
    BrandedTwo,
    Child,
    Cousin,
    Grandchild,
    Note,
    NoteProxy,
    Parent,
    SecretChild,
    Tenant,
)

pytestmark = pytest.mark.django_db


# -- abstract -----------------------------------------------------------------------------------


def test_children_of_an_abstract_class_are_apart(tenant: Tenant, other_tenant: Tenant) -> None:
    one = BrandedOne.objects.create(tenant=tenant, secret="one")
    two = BrandedTwo.objects.create(tenant=tenant, secret="two", extra="extra")
    assert BrandedOne.objects.get().secret == "one"
    assert (BrandedTwo.objects.get().secret, BrandedTwo.objects.get().extra) == ("two", "extra")

    store(one, "secret", stored(two, "secret"))
    with pytest.raises(TamperedError, match=r"fieldapp\.BrandedOne\.secret"):
        BrandedOne.objects.get().secret  # noqa: B018
    two = BrandedTwo.objects.get()
    two.tenant = other_tenant
    two.save(update_fields=["tenant"])
    assert (BrandedTwo.objects.get().secret, BrandedTwo.objects.get().extra) == ("two", "extra")


def test_update_of_their_tenant_is_refused_in_each(tenant: Tenant, other_tenant: Tenant) -> None:
    for model in (BrandedOne, BrandedTwo):
        model.objects.create(tenant=tenant, secret="s")
        with refused(FieldError, match=rf"fieldapp\.{model.__name__}\.secret"):
            model.objects.update(tenant=other_tenant)
        assert model.objects.get().secret == "s"


# -- proxies ------------------------------------------------------------------------------------


def test_a_proxy_reads_and_writes_the_same_rows(tenant: Tenant, other_tenant: Tenant) -> None:
    proxy = NoteProxy.objects.create(tenant=tenant, secret="s", data=[1])
    assert decrypt(stored(proxy, "secret"), tenant.pk, context="fieldapp.note.secret") == "s"
    assert Note.objects.get().secret == NoteProxy.objects.get().secret == "s"

    read = NoteProxy.objects.defer("secret").get()
    read.tenant = other_tenant
    read.save()
    assert Note.objects.get().secret == "s"
    read.refresh_from_db()
    assert (read.secret, read.data) == ("s", [1])
    for values in ({"tenant": tenant}, {"secret": "t"}):
        with refused(FieldError):
            NoteProxy.objects.update(**values)
    with pytest.raises(FieldError):
        NoteProxy.objects.filter(secret="s")
    with pytest.raises(FieldError):
        list(NoteProxy.objects.order_by("secret"))
    assert NoteProxy.objects.only("secret").get().secret == "s"


def test_a_note_read_as_its_proxy(tenant: Tenant) -> None:
    NoteFactory(tenant=tenant, secret="s")
    note = Note.objects.get()
    note.__class__ = NoteProxy
    assert note.secret == "s"


# -- multi-table --------------------------------------------------------------------------------


@pytest.fixture
def child(tenant: Tenant) -> Child:
    return ChildFactory(tenant=tenant, secret="outer", inner="inner", label="l")


def test_the_secrets_of_both_tables(child: Child, tenant: Tenant) -> None:
    read = Child.objects.get()
    assert (read.secret, read.inner) == ("outer", "inner")
    assert Parent.objects.get().secret == "outer"
    assert Parent.objects.get().child.inner == "inner"
    assert decrypt(stored(child, "secret"), tenant.pk, context="fieldapp.parent.secret") == "outer"
    assert decrypt(stored(child, "inner"), tenant.pk, context="fieldapp.child.inner") == "inner"
    assert "inner" not in everything(Child).replace(stored(child, "inner"), "")


LOADS = {
    "loaded": lambda: Child.objects.get(label="l"),
    "only a label": lambda: Child.objects.only("label").get(),
    "only the tenant": lambda: Child.objects.only("tenant").get(),
    "only inner": lambda: Child.objects.only("inner").get(),
    "no secrets": lambda: Child.objects.defer("secret", "inner").get(),
    "no tenant": lambda: Child.objects.defer("tenant").get(),
    "from the parent": lambda: Parent.objects.get().child,
    "related": lambda: Parent.objects.select_related("child").get().child,
}


@pytest.mark.parametrize("load", LOADS.values(), ids=list(LOADS))
@pytest.mark.parametrize("fields", [None, ["tenant"], ["tenant", "label"], ["tenant", "inner"]])
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_a_child_moves(
    child: Child, other_tenant: Tenant, load: Any, fields: list[str] | None, read: bool
) -> None:
    instance = load()
    if read:
        assert (instance.secret, instance.inner) == ("outer", "inner")
    instance.tenant = other_tenant
    instance.save(update_fields=fields)
    after = Child.objects.get()
    assert (after.secret, after.inner, after.tenant) == ("outer", "inner", other_tenant)
    assert (instance.secret, instance.inner) == ("outer", "inner")


@pytest.mark.parametrize("fields", [None, ["secret"], ["inner"], ["secret", "inner"]])
def test_a_child_is_edited(child: Child, fields: list[str] | None) -> None:
    for load in LOADS.values():
        child.save()
        instance = load()
        instance.secret, instance.inner = "new outer", "new inner"
        instance.save(update_fields=fields)
        after = Child.objects.get()
        assert after.secret == ("outer" if fields == ["inner"] else "new outer")
        assert after.inner == ("inner" if fields == ["secret"] else "new inner")


def test_deferred_reads_of_a_child_take_one_query(
    child: Child, django_assert_num_queries: Any
) -> None:
    for queryset in (Child.objects.only("label"), Child.objects.defer("inner")):
        instance = queryset.get()
        with django_assert_num_queries(1):
            assert instance.inner == "inner"
    with django_assert_num_queries(1):
        assert Child.objects.get().inner == "inner"


def test_update_of_a_childs_tenant_is_refused(
    child: Child, tenant: Tenant, other_tenant: Tenant
) -> None:
    for model in (Child, Parent):
        for values in ({"tenant": other_tenant}, {"secret": "x"}):
            with refused(FieldError):
                model.objects.update(**values)
    with refused(FieldError):
        Child.objects.update(inner="x")
    after = Child.objects.get()
    assert (after.secret, after.inner, after.tenant) == ("outer", "inner", tenant)
    Child.objects.update(label="new")
    assert Child.objects.get().label == "new"


def test_a_parent_with_a_child_does_not_move_alone(
    child: Child, tenant: Tenant, other_tenant: Tenant
) -> None:
    for fields in (None, ["tenant"]):
        parent = Parent.objects.get()
        parent.tenant = other_tenant
        with refused(FieldError, match=r"fieldapp\.Child\.inner.*Child"):
            parent.save(update_fields=fields)
    after = Child.objects.get()
    assert (after.secret, after.inner, after.tenant) == ("outer", "inner", tenant)

    parent = Parent.objects.get()
    parent.secret = "new"
    parent.save()
    assert (Child.objects.get().secret, Child.objects.get().inner) == ("new", "inner")


def test_a_parent_without_a_child_moves(tenant: Tenant, other_tenant: Tenant) -> None:
    ParentFactory(tenant=tenant, secret="s")
    parent = Parent.objects.get()
    parent.tenant = other_tenant
    parent.save()
    assert Parent.objects.get().secret == "s"


def test_a_parent_whose_child_has_no_secret_moves(child: Child, other_tenant: Tenant) -> None:
    Child.objects.update(inner=None)
    parent = Parent.objects.get()
    parent.tenant = other_tenant
    parent.save()
    after = Child.objects.get()
    assert (after.secret, after.inner) == ("outer", None)


def test_a_childs_tenant_in_a_table_without_secrets(tenant: Tenant, other_tenant: Tenant) -> None:
    SecretChildFactory(tenant=tenant, inner="s")
    assert SecretChild.objects.get().inner == "s"
    for fields in (None, ["tenant"], ["tenant", "inner"]):
        child = SecretChild.objects.defer("inner").get()
        child.tenant = other_tenant if child.tenant == tenant else tenant
        child.save(update_fields=fields)
        assert SecretChild.objects.get().inner == "s"
        assert SecretChild.objects.get().tenant == child.tenant

    before = SecretChild.objects.get().tenant
    target = other_tenant if before == tenant else tenant
    for model in (SecretChild, BareParent):
        with refused(FieldError, match=r"fieldapp\.SecretChild\.inner"):
            model.objects.update(tenant=target)
    for fields in (None, ["tenant"]):
        parent = BareParent.objects.get()
        parent.tenant = target
        with refused(FieldError, match="SecretChild"):
            parent.save(update_fields=fields)
    with refused(FieldError):
        parents = list(BareParent.objects.all())
        parents[0].tenant = target
        BareParent.objects.bulk_update(parents, ["tenant"])
    read = SecretChild.objects.get()
    assert (read.tenant, read.inner) == (before, "s")


def test_a_parents_row_whose_child_holds_no_secret_moves_by_a_save_alone(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    SecretChildFactory(tenant=tenant, inner=None)
    parent = BareParent.objects.get()
    parent.tenant = other_tenant
    with refused(FieldError, match=r"SecretChild\.inner"):
        BareParent.objects.update(tenant=other_tenant)
    with refused(FieldError, match=r"SecretChild\.inner"):
        BareParent.objects.bulk_update([parent], ["tenant"])
    assert BareParent.objects.get().tenant == tenant
    parent.save()
    assert SecretChild.objects.get().tenant == other_tenant


def test_a_bare_parent_without_a_child_is_free(tenant: Tenant, other_tenant: Tenant) -> None:
    parent = BareParent.objects.create(tenant=tenant)
    parent.tenant = other_tenant
    parent.save()
    assert BareParent.objects.get().tenant == other_tenant
    parent.tenant = tenant
    parent.save(update_fields=["tenant"])
    parent.refresh_from_db()
    assert parent.tenant == tenant


def test_a_child_is_made_for_a_parent_that_exists(tenant: Tenant) -> None:
    parent = ParentFactory(tenant=tenant, secret="outer")
    child = Child(parent_ptr=parent, tenant=tenant, secret="outer", inner="inner")
    child.save()
    after = Child.objects.get()
    assert (after.secret, after.inner) == ("outer", "inner")


def test_a_child_is_deleted_and_its_parent_kept(child: Child, other_tenant: Tenant) -> None:
    Child.objects.get().delete(keep_parents=True)
    parent = Parent.objects.get()
    parent.tenant = other_tenant
    parent.save()
    assert Parent.objects.get().secret == "outer"


def test_queries_over_the_tables(child: Child) -> None:
    assert Child.objects.filter(secret__isnull=False, inner__isnull=False).count() == 1
    for condition in ({"secret": "outer"}, {"inner": "inner"}):
        with pytest.raises(FieldError):
            Child.objects.filter(**condition)
    with pytest.raises(FieldError):
        Parent.objects.filter(child__inner="inner")
    for order in ("secret", "inner", "parent_ptr__secret"):
        with pytest.raises(FieldError):
            list(Child.objects.order_by(order))
    row = Child.objects.values("secret", "inner").get()
    assert row["inner"].decrypt(child.tenant_id) == "inner"
    assert row["secret"].decrypt(child.tenant_id) == "outer"


# -- families of three generations ----------------------------------------------------------------


@pytest.fixture(params=[Grandchild, Cousin])
def deep(request: pytest.FixtureRequest, tenant: Tenant) -> Any:
    row = request.param.objects.create(
        tenant=tenant, secret="the parent's", inner="the child's", motto="m", deepest="its own"
    )
    return request.param.objects.get(pk=row.pk)


@pytest.mark.parametrize("read", [False, True])
def test_each_ancestor_of_a_row_is_read_through_it(deep: Any, read: bool) -> None:
    if read:
        assert (deep.secret, deep.inner, deep.deepest) == (
            "the parent's",
            "the child's",
            "its own",
        )
    child = deep.child_ptr
    assert (type(child), child.secret, child.inner) == (Child, "the parent's", "the child's")
    parent = child.parent_ptr
    assert (type(parent), parent.secret) == (Parent, "the parent's")
    child.label = "x"
    child.save()
    parent.save()
    again = type(deep).objects.get(pk=deep.pk)
    assert (again.label, again.secret, again.inner) == ("x", "the parent's", "the child's")
    assert again.deepest == "its own"


@pytest.mark.parametrize("how", ["row", "query", "ancestor"])
def test_a_row_of_the_third_generation_is_deleted(deep: Any, how: str) -> None:
    if how == "row":
        deep.delete()
    elif how == "query":
        type(deep).objects.all().delete()
    else:
        Parent.objects.get().delete()
    assert not Parent.objects.exists()
    assert not type(deep).objects.exists()


# -- a parent and its child of one row -----------------------------------------------------------


@pytest.mark.parametrize("only", [(), ("secret", "child__inner", "child__label")])
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_a_child_that_came_with_its_parent_is_saved(
    child: Child, only: tuple[str, ...], read: bool
) -> None:
    parent = Parent.objects.select_related("child").only(*only).get()
    assert parent.secret == "outer"
    together = parent.child
    if read:
        assert together.secret == "outer"
    together.label = "x"
    together.save()
    after = Child.objects.get()
    assert (after.secret, after.inner, after.label) == ("outer", "inner", "x")
    assert (parent.secret, together.secret) == ("outer", "outer")


def test_a_parent_that_came_with_its_child_is_saved(child: Child) -> None:
    parent = Parent.objects.select_related("child").get()
    assert parent.child.secret == "outer"
    parent.save()
    assert Child.objects.get().secret == Parent.objects.get().secret == "outer"


def test_a_grandchild_that_came_with_both_is_saved(tenant: Tenant) -> None:
    Grandchild.objects.create(tenant=tenant, secret="s", inner="i", deepest="d", motto="m")
    parent = Parent.objects.select_related("child__grandchild").get()
    three = parent, parent.child, parent.child.grandchild
    assert [one.secret for one in three] == ["s"] * 3
    assert [one.inner for one in three[1:]] == ["i"] * 2
    for one in reversed(three):
        one.save()
    after = Grandchild.objects.get()
    assert (after.secret, after.inner, after.deepest) == ("s", "i", "d")


def test_a_move_of_one_leaves_the_other_what_it_was_loaded_with(
    child: Child, other_tenant: Tenant
) -> None:
    parent = Parent.objects.select_related("child").get()
    together = parent.child
    together.tenant = other_tenant
    together.save()
    with refused(FieldError):  # it would move the row back, over the child's secret
        parent.save()
    assert parent.secret == "outer"
    after = Child.objects.get()
    assert (after.secret, after.inner, after.tenant) == ("outer", "inner", other_tenant)


@pytest.mark.django_db(transaction=True)
def test_json_of_one_that_is_changed_in_place_is_not_the_others() -> None:
    with isolate_apps("tests.fieldapp"):

        class Kept(models.Model):
            realm = models.CharField(max_length=10)
            data = EncryptedJSONField(salt_field="realm")

            class Meta:
                app_label = "fieldapp"

        class KeptMore(Kept):
            class Meta:
                app_label = "fieldapp"

    with tables(Kept, KeptMore):
        KeptMore.objects.create(realm="r", data=[1])
        kept = Kept.objects.select_related("keptmore").get()
        kept.data.append(2)
        assert kept.keptmore.data == [1]
        kept.keptmore.save()
        assert KeptMore.objects.get().data == [1]
        kept.save()
        assert KeptMore.objects.get().data == [1, 2]


def test_a_missing_child_of_a_parent(tenant: Tenant) -> None:
    ParentFactory(tenant=tenant)
    parent = Parent.objects.select_related("child__grandchild").get()
    with pytest.raises(Child.DoesNotExist):
        parent.child  # noqa: B018


# -- two parents, each with a tenant of its own ---------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("two_keys", [False, True])
@isolate_apps("tests.fieldapp")
def test_a_row_of_two_parents_has_each_secret_under_its_own_tenant(
    two_keys: bool, settings: Any
) -> None:
    def parent(name: str) -> Any:
        columns = {
            f"{name}_id": models.AutoField(primary_key=True),
            f"{name}_realm": models.CharField(max_length=10),
            f"{name}_secret": EncryptedTextField(salt_field=f"{name}_realm", null=True),
            f"{name}_index": BlindIndexField(f"{name}_secret", unique=True),
        }
        meta = type("Meta", (), {"app_label": "fieldapp"})
        return type(name, (models.Model,), {"__module__": __name__, "Meta": meta, **columns})

    one, two = parent("one"), parent("two")
    meta = type("Meta", (), {"app_label": "fieldapp"})
    both: Any = type("Both", (one, two), {"__module__": __name__, "Meta": meta})
    with tables(one, two, both):
        both.objects.create(one_realm="a", one_secret="S", two_realm="w", two_secret="S")
        if two_keys:
            primary = os.environ["MASTER_ENCRYPTION_KEY"]
            settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY, "MASTER_KEY_FALLBACKS": [primary]}
        row = both.objects.create(one_realm="b", one_secret="S", two_realm="x", two_secret="S")
        row.one_secret = row.two_secret = "T"
        row.save()
        both.objects.update_or_create(two_realm="x", defaults={"two_secret": "U"})
        for name, realm, secret in (("one", "b", "T"), ("two", "x", "U"), ("two", "w", "S")):
            found = both.objects.get(**{f"{name}_realm": realm, f"{name}_secret": secret})
            assert getattr(found, f"{name}_secret") == secret
        expect_indexes(both)
        with pytest.raises(IntegrityError), transaction.atomic():
            both.objects.create(one_realm="c", one_secret="S", two_realm="w", two_secret="S")
        both.objects.create(one_realm="w", one_secret="S", two_realm="a", two_secret="S")
        assert both.objects.count() == 3


@pytest.mark.django_db(transaction=True)
@isolate_apps("tests.fieldapp")
def test_a_deferred_grandchild_of_two_parents_is_saved_into_its_own_rows() -> None:
    """Django takes the first parent's key for the second one's, where that is deferred."""

    def cls(name: str, *bases: Any, **columns: Any) -> Any:
        meta = type("Meta", (), {"app_label": "fieldapp"})
        return type(name, bases, {"__module__": __name__, "Meta": meta, **columns})

    left = cls("Left", models.Model, left_id=models.AutoField(primary_key=True))
    right = cls(
        "Right",
        models.Model,
        right_id=models.AutoField(primary_key=True),
        realm=models.CharField(max_length=10),
        secret=EncryptedTextField(salt_field="realm"),
    )
    both = cls("LeftAndRight", left, right)
    kid = cls("Kid", both)
    with tables(left, right, both, kid):
        other = right.objects.create(realm="r", secret="other")
        kid.objects.create(realm="r", secret="mine")
        row = kid.objects.only("secret").get()
        row.secret = "new"
        row.save()
        assert right.objects.get(pk=other.pk).secret == "other"
        assert kid.objects.get().secret == "new"
