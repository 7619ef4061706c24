"""Looking encrypted values up by their blind index; what cannot be looked up is refused."""

import copy
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db import connection, models
from django.db.models import (
    Case,
    Count,
    Exists,
    ExpressionWrapper,
    F,
    FilteredRelation,
    Max,
    OuterRef,
    Prefetch,
    Q,
    QuerySet,
    Subquery,
    TextField,
    Value,
    When,
    Window,
)
from django.db.models.functions import Cast, Coalesce, FirstValue, Left, Length, Lower, RowNumber
from django.db.models.lookups import Exact, GreaterThan
from django.test.utils import isolate_apps
from pytest_django import Settings

from encryption.blindlookups import Sought
from encryption.fields import BlindIndexField, EncryptedTextField
from encryption.managers import EncryptedManager
from tests.encryption.conftest import OTHER_KEY
from tests.encryption.database import refused, tables
from tests.fieldapp.factories import TenantFactory
from tests.fieldapp.models import (
    Indexed,
    IndexedChild,
    IndexedParent,
    IndexedPlainly,
    Note,
    Plain,
    Short,
    Tenant,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def rows(tenant: Tenant, other_tenant: Tenant) -> dict[str, Indexed]:
    """Rows by name: their tenant's number and secret."""
    made = {}
    for number, one in ((1, tenant), (2, other_tenant)):
        for secret in ("a", "A", "b", None):
            name = f"{number}{secret}"
            data = None if secret is None else {"auth": {"key": secret}, "n": number}
            made[name] = Indexed.objects.create(tenant=one, secret=secret, data=data, name=name)
    return made


def names(found: "QuerySet[Indexed]") -> list[str]:
    return sorted(found.values_list("name", flat=True))


# -- what works ---------------------------------------------------------------------------------


def test_a_value_of_a_tenant(
    rows: dict[str, Indexed], tenant: Tenant, other_tenant: Tenant
) -> None:
    objects = Indexed.objects
    for given in (
        {"tenant": tenant},
        {"tenant": tenant.pk},
        {"tenant_id": tenant.pk},
        {"tenant_id": str(tenant.pk)},
        {"tenant__id": tenant.pk},
        {"tenant__pk": tenant.pk},
        {"tenant__exact": tenant},
        {"tenant__in": [tenant]},
        {"tenant_id__in": {tenant.pk}},
    ):
        assert names(objects.filter(secret="a", **given)) == ["1a"]
        assert names(objects.filter(**given).filter(secret="a")) == ["1a"]
        assert names(objects.filter(secret="a").filter(**given)) == ["1a"]
        assert names(objects.filter(Q(**given) & Q(secret="a"))) == ["1a"]
        assert names(objects.filter(secret__exact="a", **given)) == ["1a"]
        assert names(objects.filter(secret__in=["a", "b", "x"], **given)) == ["1a", "1b"]
        assert objects.get(secret="a", **given).pk == rows["1a"].pk
        assert objects.filter(secret="a", **given).count() == 1
        assert not objects.filter(secret="c", **given).exists()
    assert names(objects.filter(secret="a", tenant__in=[tenant, other_tenant])) == ["1a", "2a"]
    assert names(objects.filter(secret__in=("a", None), tenant=tenant)) == ["1a"]
    assert names(objects.filter(secret__in=[], tenant=tenant)) == []
    assert names(objects.filter(secret="a", tenant__in=[])) == []
    assert names(objects.filter(secret=None, tenant=tenant)) == ["1None"]
    assert names(objects.filter(secret__isnull=False, tenant=tenant)) == ["1A", "1a", "1b"]
    assert tenant.indexed.get(secret="b").pk == rows["1b"].pk
    assert names(objects.filter(secret="a", tenant=TenantFactory())) == []


def test_or_and_not(rows: dict[str, Indexed], tenant: Tenant, other_tenant: Tenant) -> None:
    objects, one, two = Indexed.objects, Q(tenant=tenant), Q(tenant=other_tenant)
    assert names(objects.filter((Q(secret="a") & one) | (Q(secret="b") & two))) == ["1a", "2b"]
    assert names(objects.filter(one, Q(secret="a") | Q(secret="b"))) == ["1a", "1b"]
    assert names(objects.filter(one, Q(secret="a") | Q(name="1b"))) == ["1a", "1b"]
    assert names(objects.filter(one & (Q(secret="a") | (Q(name="1b") & Q(secret="b"))))) == [
        "1a",
        "1b",
    ]
    assert names(objects.filter(one).exclude(secret="a")) == ["1A", "1None", "1b"]
    assert names(objects.filter(one, ~Q(secret="a"))) == ["1A", "1None", "1b"]
    assert names(objects.filter(one).exclude(secret__in=["a", "b"])) == ["1A", "1None"]
    assert names(objects.filter(one, ~Q(Q(secret="a") | Q(secret="b")))) == ["1A", "1None"]
    everything = sorted(rows)
    assert names(objects.exclude(secret="a", tenant=tenant)) == [
        name for name in everything if name != "1a"
    ]
    assert names(objects.filter(one, ~Q(~Q(secret="a")))) == ["1a"]


def test_exclude_is_what_it_is_on_a_plain_column(rows: dict[str, Indexed], tenant: Tenant) -> None:
    """``host`` holds the same as the secret: each condition finds the same rows by both."""
    for name, row in rows.items():
        if "A" in name:  # which some databases take for an "a"
            row.secret = "B"
        row.host = row.secret and f"{row.secret}{ord(row.secret)}"
        row.secret = row.host
        row.save()
    ours = Indexed.objects.filter(tenant=tenant)

    a, b = "a97", "b98"

    def both(make: Callable[[str], Q]) -> None:
        assert names(ours.filter(make("secret"))) == names(ours.filter(make("host")))
        assert names(ours.exclude(make("secret"))) == names(ours.exclude(make("host")))

    assert names(ours.filter(secret=a)) == ["1a"]
    both(lambda name: Q(**{name: a}))
    both(lambda name: Q(**{f"{name}__in": [a, b]}))
    both(lambda name: Q(**{f"{name}__in": [a, None]}))
    both(lambda name: Q(**{name: None}))
    both(lambda name: ~Q(**{name: a}))
    both(lambda name: ~Q(~Q(**{name: a}) & Q(name="1b")))
    both(lambda name: Q(**{name: a}) | Q(**{f"{name}__isnull": True}))
    both(lambda name: ~(Q(**{name: a}) | Q(name="1b")))
    both(lambda name: Q(**{f"{name}__in": []}))


def test_across_tenants_and_case(rows: dict[str, Indexed], tenant: Tenant) -> None:
    class_index = Indexed._meta.get_field("early")
    assert class_index.scope == "global"
    plain = IndexedPlainly.objects.create(tenant=tenant, secret="x")
    assert IndexedPlainly.objects.get(secret="x", tenant=tenant) == plain
    # The index of unchanged values is what exact goes by, where there are two.
    assert names(Indexed.objects.filter(secret="a", tenant=tenant)) == ["1a"]
    # Both can be compared with indexes.
    found = Indexed.objects.filter(early=rows["1a"].early)
    assert names(found) == ["1A", "1a", "2A", "2a"]
    assert names(Indexed.objects.filter(secret_index__in=[rows["1a"].secret_index])) == ["1a"]
    groups = Indexed.objects.values("early").annotate(count=Count("pk")).filter(count__gt=3)
    assert groups.get()["early"] == rows["1a"].early


def test_json_paths(rows: dict[str, Indexed], tenant: Tenant, other_tenant: Tenant) -> None:
    objects = Indexed.objects
    assert names(objects.filter(data__auth__key="a", tenant=tenant)) == ["1a"]
    assert names(objects.filter(data__auth__key__in=["a", "b"], tenant=other_tenant)) == [
        "2a",
        "2b",
    ]
    assert names(objects.filter(tenant=tenant).exclude(data__auth__key="a")) == [
        "1A",
        "1None",
        "1b",
    ]
    for value in (1, True, [1, {"x": None}], {"b": 1, "a": 2}, ""):
        row = objects.create(tenant=tenant, data={"auth": {"key": value}})
        assert objects.get(data__auth__key=value, tenant=tenant) == row
        objects.all()._raw_delete("default")


def test_get_or_create(tenant: Tenant, other_tenant: Tenant) -> None:
    objects = Indexed.objects
    first, made = objects.get_or_create(tenant=tenant, secret="x", defaults={"name": "n"})
    assert made
    assert objects.get_or_create(tenant=tenant, secret="x") == (first, False)
    assert objects.get_or_create(tenant=other_tenant, secret="x")[1]
    again, made = objects.update_or_create(
        tenant=tenant, secret="x", defaults={"secret": "y", "name": "m"}
    )
    assert (again, made) == (first, False)
    assert objects.get(tenant=tenant, secret="y").name == "m"
    assert tenant.indexed.update_or_create(secret="z")[1]
    with pytest.raises(Indexed.DoesNotExist):
        objects.get(tenant=tenant, secret="x")


def test_across_relations(rows: dict[str, Indexed], tenant: Tenant) -> None:
    found = Tenant.objects.filter(indexed__secret="a", indexed__tenant=tenant)
    assert found.get() == tenant
    other = Tenant.objects.filter(indexed__secret="nothing", indexed__tenant=tenant)
    assert not other.exists()
    with pytest.raises(FieldError, match="same path"):
        Tenant.objects.filter(indexed__secret="a", pk=tenant.pk).exists()
    # Two joins are two rows.
    with pytest.raises(FieldError):
        Tenant.objects.filter(indexed__secret="a").filter(indexed__tenant=tenant).exists()


def test_in_subqueries(rows: dict[str, Indexed], tenant: Tenant) -> None:
    inner = Indexed.objects.filter(secret="a", tenant=tenant)
    assert Tenant.objects.filter(pk__in=inner.values("tenant")).get() == tenant
    assert names(Indexed.objects.filter(pk__in=inner)) == ["1a"]
    assert Tenant.objects.filter(Exists(inner.filter(tenant=OuterRef("pk")))).get() == tenant
    assert names(inner | Indexed.objects.filter(secret="b", tenant=tenant)) == ["1a", "1b"]
    assert len(inner.union(Indexed.objects.filter(secret="b", tenant=tenant))) == 2
    assert inner.update(name="by its secret") == 1
    assert Indexed.objects.filter(tenant=tenant, secret="a").delete()[0] == 1


def test_inherited_fields(tenant: Tenant, other_tenant: Tenant) -> None:
    child = IndexedChild.objects.create(tenant=tenant, secret="p", inner="c")
    IndexedChild.objects.create(tenant=other_tenant, secret="p", inner="c")
    assert IndexedChild.objects.get(secret="p", tenant=tenant) == child
    assert IndexedChild.objects.get(inner="c", tenant=tenant) == child
    assert IndexedChild.objects.filter(tenant=tenant).exclude(inner="c").count() == 0


def test_from_the_parent_to_a_child(tenant: Tenant, other_tenant: Tenant) -> None:
    child = IndexedChild.objects.create(tenant=tenant, secret="p", inner="c")
    IndexedChild.objects.create(tenant=other_tenant, secret="p", inner="c")
    objects = IndexedParent.objects
    for given in (
        {"indexedchild__tenant": tenant},
        {"tenant": tenant},
        {"indexedchild__indexedparent_ptr__tenant": tenant},
    ):
        for secret in (
            {"indexedchild__inner": "c"},
            {"indexedchild__secret": "p"},
            {"secret": "p"},
        ):
            assert objects.get(**secret, **given).pk == child.pk
            assert objects.filter(**given).get(**secret).pk == child.pk
    found = Tenant.objects.filter(
        indexedparent__indexedchild__inner="c", indexedparent__tenant=tenant
    )
    assert found.get() == tenant
    # Another row of the same table is no part of this one.
    for other in ({"tenant__indexedparent__tenant": tenant}, {"tenant__pk__gt": 0}):
        with pytest.raises(FieldError, match="only together"):
            objects.filter(indexedchild__inner="c", **other).exists()


with isolate_apps("tests.fieldapp"):

    class First(models.Model):
        realm = models.CharField(max_length=20)

        class Meta:
            app_label = "fieldapp"

    class Second(First):
        class Meta:
            app_label = "fieldapp"

    class Third(Second):
        friend = models.ForeignKey(First, models.CASCADE, null=True, related_name="friends")
        twin = models.OneToOneField(First, models.CASCADE, null=True, related_name="twin_of")
        secret = EncryptedTextField(salt_field="realm")
        secret_index = BlindIndexField("secret")

        class Meta:
            app_label = "fieldapp"

    class ShortParent(models.Model):
        realm = models.CharField(max_length=20)
        secret = EncryptedTextField(salt_field="realm")
        secret_index = BlindIndexField("secret", bits=4)
        objects = EncryptedManager()

        class Meta:
            app_label = "fieldapp"

    class ShortChild(ShortParent):
        inner = EncryptedTextField(salt_field="realm", null=True)
        inner_index = BlindIndexField("inner", bits=4)
        objects = EncryptedManager()

        class Meta:
            app_label = "fieldapp"

    class ShortGrandchild(ShortChild):
        objects = EncryptedManager()

        class Meta:
            app_label = "fieldapp"


@pytest.mark.django_db(transaction=True)
def test_a_tenant_two_tables_up() -> None:
    with tables(First, Second, Third):
        row, made = Third.objects.get_or_create(realm="r", secret="S")
        assert made
        assert Third.objects.get_or_create(realm="r", secret="S") == (row, False)
        assert Third.objects.get_or_create(realm="s", secret="S")[1]
        assert Third.objects.get(realm="r", secret="S") == row
        assert Third.objects.filter(realm__in=["r", "s"]).filter(secret="S").count() == 2
        assert Third.objects.get(second_ptr__realm="r", secret="S") == row
        assert Third.objects.get(second_ptr__first_ptr__realm="r", secret="S") == row
        assert Second.objects.get(third__secret="S", realm="r").pk == row.pk
        assert Second.objects.get(third__secret="S", third__realm="r").pk == row.pk
        assert First.objects.get(second__third__secret="S", realm="r").pk == row.pk
        assert First.objects.get(second__third__secret="S", second__realm="r").pk == row.pk
        assert First.objects.filter(realm="r").exclude(second__third__secret="S").count() == 0
        Third.objects.filter(pk=row.pk).update(friend=row.pk, twin=row.pk)
        for other in (
            {"friend__realm": "r"},
            {"twin__realm": "r"},
            {"first_ptr__friends__realm": "r"},
            {"twin_of__realm": "r"},
            {"twin_of__second_ptr__realm": "r"},
        ):
            with pytest.raises(FieldError, match="only together"):
                Third.objects.filter(secret="S", **other).exists()
        assert Third.objects.get(friends__secret="S", friends__realm="r") == row
        assert Third.objects.get(twin_of__secret="S", twin_of__realm="r") == row


@pytest.mark.django_db(transaction=True)
def test_a_truncated_index_in_a_parents_table() -> None:
    with tables(ShortParent, ShortChild, ShortGrandchild):
        made = [ShortGrandchild.objects.create(realm="r", secret=f"s{n}") for n in range(40)]
        for model in (ShortParent, ShortChild, ShortGrandchild):
            (found,) = model.objects.filter(realm="r", secret="s7")
            assert (found.pk, found.secret) == (made[7].pk, "s7")
            assert model.objects.get(realm="r", secret="s8").pk == made[8].pk
            assert not list(model.objects.filter(realm="r", secret="none"))
            with pytest.raises(FieldError, match="bits"):
                model.objects.filter(realm="r", secret="s7").count()
        # A parent's instance has its own secrets, and not those of a child.
        (found,) = ShortParent.objects.filter(shortchild__secret="s7", shortchild__realm="r")
        assert found.pk == made[7].pk
        with pytest.raises(FieldError, match="bits"):
            list(ShortParent.objects.filter(shortchild__inner="s7", realm="r"))


@pytest.mark.parametrize("made_by", ["default manager", "EncryptedManager"])
def test_rows_under_every_key_are_found(tenant: Tenant, settings: Settings, made_by: str) -> None:
    model: Any = Indexed if made_by == "EncryptedManager" else IndexedPlainly
    primary = os.environ["MASTER_ENCRYPTION_KEY"]
    model.objects.create(tenant=tenant, secret="x")
    settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY, "MASTER_KEY_FALLBACKS": [primary]}
    model.objects.create(tenant=tenant, secret="x")
    assert model.objects.filter(tenant=tenant, secret="x").count() == 2
    assert model.objects.filter(tenant=tenant).exclude(secret="x").count() == 0
    settings.ENCRYPTION = {"MASTER_KEY": OTHER_KEY}
    assert model.objects.filter(tenant=tenant, secret="x").count() == 1


def test_selecting_the_secret_along(rows: dict[str, Indexed], tenant: Tenant) -> None:
    (found,) = Indexed.objects.filter(secret="a", tenant=tenant).values("secret", "secret_index")
    assert found["secret"].key_id == found["secret_index"][3:11]
    (row,) = Indexed.objects.filter(secret="a", tenant=tenant).only("secret")
    assert row.secret == "a"
    assert Indexed.objects.annotate(x=F("secret")).filter(x="a", tenant=tenant).get().x is not None


def test_explain_shows_the_index(tenant: Tenant) -> None:
    Indexed.objects.bulk_create(
        [Indexed(tenant=tenant, secret=f"secret {number}") for number in range(2_000)]
    )
    table = Indexed._meta.db_table
    with connection.cursor() as cursor:
        if connection.vendor != "mysql":  # there it would commit
            cursor.execute(f"ANALYZE {table}")
    name = next(
        name
        for name, found in constraints(table).items()
        if found["columns"] == ["secret_index"] and found["index"]
    )
    for rows in (
        Indexed.objects.filter(secret="secret 7", tenant=tenant),
        Indexed.objects.filter(secret__in=["secret 7", "secret 8"], tenant=tenant),
    ):
        assert rows.count() in {1, 2}
        assert name in rows.explain()


def constraints(table: str) -> dict[str, dict[str, Any]]:
    with connection.cursor() as cursor:
        return connection.introspection.get_constraints(cursor, table)


def test_one_index_per_column() -> None:
    """PostgreSQL would get a second one for LIKE with an ordinary text column."""
    found = constraints(Indexed._meta.db_table).values()
    assert len([one for one in found if one["columns"] == ["secret_index"]]) == 1


# -- what does not work -------------------------------------------------------------------------

REFUSED: dict[str, Callable[["QuerySet[Any]", Tenant], Any]] = {
    "no tenant": lambda rows, tenant: rows.filter(secret="a"),
    "no tenant, in": lambda rows, tenant: rows.filter(secret__in=["a"]),
    "no tenant, excluded": lambda rows, tenant: rows.exclude(secret="a"),
    "no tenant, counted": lambda rows, tenant: rows.filter(secret="a").count(),
    "no tenant, exists": lambda rows, tenant: rows.filter(secret="a").exists(),
    "no tenant, path": lambda rows, tenant: rows.filter(data__auth__key="a"),
    "tenant beside an or": lambda rows, tenant: rows.filter(Q(secret="a") | Q(tenant=tenant)),
    "another tenant than": lambda rows, tenant: rows.filter(~Q(tenant=tenant), secret="a"),
    "tenant excluded": lambda rows, tenant: rows.exclude(tenant=tenant).filter(secret="a"),
    "tenants above": lambda rows, tenant: rows.filter(tenant__gt=tenant.pk, secret="a"),
    "tenants by name": lambda rows, tenant: rows.filter(tenant__name=tenant.name, secret="a"),
    "tenants of a query": lambda rows, tenant: rows.filter(
        tenant__in=Tenant.objects.all(), secret="a"
    ),
    "tenant of an expression": lambda rows, tenant: rows.filter(
        tenant=Value(tenant.pk), secret="a"
    ),
    "a column": lambda rows, tenant: rows.filter(tenant=tenant, secret=F("name")),
    "the column itself": lambda rows, tenant: rows.filter(tenant=tenant, secret=F("secret")),
    "its index": lambda rows, tenant: rows.filter(tenant=tenant, secret=F("secret_index")),
    "a column in": lambda rows, tenant: rows.filter(tenant=tenant, secret__in=[F("name")]),
    "a query": lambda rows, tenant: rows.filter(tenant=tenant, secret__in=rows.values("name")),
    "a query for one": lambda rows, tenant: rows.filter(tenant=tenant, secret=rows.values("name")),
    "a value expression": lambda rows, tenant: rows.filter(tenant=tenant, secret=Value("a")),
    "compared by another column": lambda rows, tenant: rows.filter(tenant=tenant, name=F("secret")),
    "lower": lambda rows, tenant: rows.annotate(x=Lower("secret")).filter(x="a", tenant=tenant),
    "case": lambda rows, tenant: rows.annotate(x=Case(When(secret="a", then=1), default=0)),
    "case with tenant": lambda rows, tenant: rows.annotate(
        x=Case(When(secret="a", tenant=tenant, then=1), default=0)
    ),
    "filtered aggregate": lambda rows, tenant: rows.aggregate(
        x=Count("pk", filter=Q(secret="a", tenant=tenant))
    ),
    "order": lambda rows, tenant: rows.order_by("secret"),
    "order by a path": lambda rows, tenant: rows.order_by("data__auth__key"),
    "a path's value": lambda rows, tenant: rows.values("data__auth__key"),
    "another path": lambda rows, tenant: rows.filter(tenant=tenant, data__n=1),
    "the path's beginning": lambda rows, tenant: rows.filter(tenant=tenant, data__auth="a"),
    "a longer path": lambda rows, tenant: rows.filter(tenant=tenant, data__auth__key__x="a"),
    "a path that is NULL": lambda rows, tenant: rows.filter(tenant=tenant, data__auth__key=None),
    "the whole JSON": lambda rows, tenant: rows.filter(tenant=tenant, data={"a": 1}),
    "plaintext as an index": lambda rows, tenant: rows.filter(secret_index="a"),
    "plaintext in indexes": lambda rows, tenant: rows.filter(secret_index__in=["a"]),
    "the beginning of an index": lambda rows, tenant: rows.filter(secret_index__startswith="a"),
    **{
        lookup: (
            lambda rows, tenant, lookup=lookup: rows.filter(
                tenant=tenant, **{f"secret__{lookup}": ["a", "b"] if lookup == "range" else "a"}
            )
        )
        for lookup in (
            *("iexact", "contains", "icontains", "startswith", "istartswith", "endswith"),
            *("iendswith", "gt", "gte", "lt", "lte", "range", "regex", "iregex", "search", "year"),
        )
    },
    **{
        f"path {lookup}": (
            lambda rows, tenant, lookup=lookup: rows.filter(
                tenant=tenant, **{f"data__auth__key__{lookup}": "a"}
            )
        )
        for lookup in ("iexact", "contains", "gt", "isnull", "has_key", "regex")
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_raises(rows: dict[str, Indexed], tenant: Tenant, name: str) -> None:
    def ask() -> None:
        found = REFUSED[name](Indexed.objects.all(), tenant)
        if isinstance(found, QuerySet):
            list(found)

    with pytest.raises(FieldError) as caught:
        ask()
    assert "fieldapp.Indexed" in str(caught.value)


@pytest.mark.parametrize("value", [1, b"a", True, ["a"]], ids=repr)
def test_values_of_another_type_raise(tenant: Tenant, value: Any) -> None:
    with pytest.raises(TypeError, match="text"):
        Indexed.objects.filter(tenant=tenant, secret=value)
    with pytest.raises(TypeError, match="text"):
        Indexed.objects.filter(tenant=tenant, secret__in=[value])


def test_a_text_in_place_of_a_list(tenant: Tenant) -> None:
    with pytest.raises((FieldError, TypeError)):
        Indexed.objects.filter(tenant=tenant, secret__in="abc")


def test_without_an_index_the_error_names_the_way_out(tenant: Tenant) -> None:
    with pytest.raises(FieldError, match="BlindIndexField"):
        Note.objects.filter(tenant=tenant, secret="a")


OTHER_THAN_INDEXES: dict[str, Any] = {
    "a column": F("name"),
    "another index": F("early"),
    "the secret": F("secret"),
    "a value": Value("a"),
    "a function of it": Lower("secret_index"),
    "a subquery": Indexed.objects.values("name"),
    "a subquery for one": Indexed.objects.values("name")[:1],
}


@pytest.mark.parametrize("name", OTHER_THAN_INDEXES)
def test_an_index_is_compared_with_its_like_only(rows: dict[str, Indexed], name: str) -> None:
    value = OTHER_THAN_INDEXES[name]
    for lookup in (
        {"secret_index": value},
        {"secret_index__in": value if isinstance(value, QuerySet) else [value]},
    ):
        for query in (Indexed.objects.filter, Indexed.objects.exclude):
            # Django itself wants a slice of a query that stands for one value.
            with pytest.raises((FieldError, ValueError), match=r"fieldapp\.Indexed|slicing"):
                list(query(**lookup))
    folded = Indexed.objects.annotate(x=Lower("secret_index")).filter(x=rows["1a"].secret_index)
    with pytest.raises(FieldError, match="secret_index"):
        list(folded)


def test_an_index_is_compared_with_itself(rows: dict[str, Indexed]) -> None:
    with_one = ["1A", "1a", "1b", "2A", "2a", "2b"]
    objects, indexes = Indexed.objects, Indexed.objects.values("secret_index")
    assert names(objects.filter(secret_index=F("secret_index"))) == with_one
    assert names(objects.filter(secret_index__in=indexes)) == with_one
    assert names(objects.filter(secret_index=indexes.filter(name="1b")[:1])) == ["1b"]
    others = objects.exclude(pk=OuterRef("pk"))
    twins = objects.filter(Exists(others.filter(early=OuterRef("early"))))
    assert names(twins) == with_one
    assert names(objects.filter(tenant__indexed__secret_index=F("secret_index"))) == with_one


#: An index on the other side: nothing equals it, and none of these would find a row.
INDEXES = Indexed.objects.values("secret_index")
IN_OTHER_COMPARISONS: dict[str, Callable[[], Any]] = {
    "F": lambda: Indexed.objects.filter(name=F("secret_index")),
    "exclude": lambda: Indexed.objects.exclude(name=F("secret_index")),
    "or": lambda: Indexed.objects.filter(Q(name="x") | ~Q(name=F("secret_index"))),
    "F over a relation": lambda: Tenant.objects.filter(name=F("indexed__secret_index")),
    "an alias": lambda: Indexed.objects.alias(x=F("secret_index")).filter(name=F("x")),
    "contains": lambda: Indexed.objects.filter(name__contains=F("secret_index")),
    "list": lambda: Indexed.objects.filter(name__in=[F("secret_index")]),
    "longer list": lambda: Indexed.objects.filter(name__in=["x", F("secret_index")]),
    "range": lambda: Indexed.objects.filter(name__range=(F("secret_index"), "x")),
    "OuterRef": lambda: Indexed.objects.filter(
        Exists(Plain.objects.filter(secret=OuterRef("secret_index")))
    ),
    "OuterRef the other way": lambda: Plain.objects.filter(
        Exists(Indexed.objects.filter(secret_index=OuterRef("secret")))
    ),
    "When": lambda: Indexed.objects.annotate(x=Case(When(name=F("secret_index"), then=1))),
    "a filtered aggregate": lambda: [
        Indexed.objects.aggregate(x=Count("pk", filter=Q(name=F("secret_index"))))
    ],
    "a filtered relation": lambda: Tenant.objects.annotate(
        r=FilteredRelation("indexed", condition=Q(indexed__name=F("indexed__secret_index")))
    ).filter(r__name="x"),
    "having": lambda: Tenant.objects.annotate(x=Count("indexed")).filter(
        name=Max("indexed__secret_index")
    ),
    "order": lambda: Indexed.objects.order_by(
        Case(When(name=F("secret_index"), then=1), default=0)
    ),
    "aggregates of distinct rows": lambda: [
        Indexed.objects.annotate(x=F("secret_index"))
        .distinct()
        .aggregate(n=Count("pk", filter=Q(name=F("x"))))
    ],
    "aggregates of a slice": lambda: [
        Indexed.objects.all()[:5].aggregate(n=Count("pk", filter=Q(name=F("secret_index"))))
    ],
    "beside a window": lambda: Indexed.objects.annotate(
        n=Window(RowNumber(), order_by="pk")
    ).filter(Q(n=9) | Q(name=F("secret_index"))),
    "a window's value": lambda: Indexed.objects.annotate(
        x=Window(FirstValue("secret_index"), order_by="pk")
    ).filter(name=F("x")),
    "a picked one": lambda: Indexed.objects.filter(name=Coalesce("secret_index", "name")),
    "a chosen one": lambda: Indexed.objects.filter(
        name=Case(When(host="x", then=F("secret_index")), default=F("name"))
    ),
    "under another type": lambda: Indexed.objects.filter(
        name=ExpressionWrapper(F("secret_index"), output_field=TextField())
    ),
    "in lower case": lambda: Indexed.objects.filter(name=Lower("secret_index")),
    "two indexes": lambda: Indexed.objects.filter(Exact(F("secret_index"), F("early"))),
    "two indexes, picked": lambda: Indexed.objects.filter(
        Exact(Coalesce("secret_index", "early"), F("secret_index"))
    ),
    "a lookup as a value": lambda: Indexed.objects.annotate(x=Exact(F("name"), F("secret_index"))),
    "greater": lambda: Indexed.objects.filter(GreaterThan(F("secret_index"), F("early"))),
    "values": lambda: Plain.objects.filter(secret__in=INDEXES),
    "values_list": lambda: Plain.objects.filter(
        secret__in=Indexed.objects.values_list("secret_index", flat=True)
    ),
    "not in values": lambda: Plain.objects.exclude(secret__in=INDEXES),
    "a union": lambda: Plain.objects.filter(secret__in=INDEXES.union(INDEXES)),
    "a group's": lambda: Plain.objects.filter(
        secret__in=INDEXES.annotate(n=Count("pk")).filter(n__gt=1).values("secret_index")
    ),
    "Subquery": lambda: Plain.objects.filter(secret=Subquery(INDEXES[:1])),
    "Subquery under another type": lambda: Plain.objects.filter(
        secret=Subquery(INDEXES[:1], output_field=TextField())
    ),
    "an annotation": lambda: Plain.objects.annotate(x=Subquery(INDEXES[:1])).filter(secret=F("x")),
    "nested": lambda: Tenant.objects.filter(
        pk__in=Plain.objects.filter(secret__in=INDEXES).values("tenant")
    ),
    "count": lambda: [Plain.objects.filter(secret__in=INDEXES).count()],
    "exists": lambda: [Plain.objects.filter(secret__in=INDEXES).exists()],
    "update": lambda: [Plain.objects.filter(secret__in=INDEXES).update(note="x")],
    "delete": lambda: [Plain.objects.filter(secret__in=INDEXES).delete()],
    "intersection": lambda: INDEXES.intersection(Indexed.objects.values("name")),
    "intersection the other way": lambda: Plain.objects.values("secret").intersection(INDEXES),
    "intersection of two": lambda: INDEXES.intersection(Indexed.objects.values("early")),
    "intersection, crossed": lambda: Indexed.objects.values_list("early", "name").intersection(
        Indexed.objects.values_list("name", "early")
    ),
    "intersection of annotations": lambda: Indexed.objects.values(x=F("secret_index")).intersection(
        Indexed.objects.values(x=F("name"))
    ),
    "intersection of deferred rows": lambda: Indexed.objects.only("early").intersection(
        Indexed.objects.only("name")
    ),
    "difference": lambda: Plain.objects.values("secret").difference(INDEXES),
    "intersection in a subquery": lambda: Indexed.objects.filter(
        secret_index__in=INDEXES.intersection(Indexed.objects.values("early"))
    ),
}


@pytest.mark.parametrize("name", IN_OTHER_COMPARISONS)
def test_other_columns_are_not_compared_with_an_index(
    rows: dict[str, Indexed], tenant: Tenant, name: str
) -> None:
    if name.startswith(("intersection", "difference")) and connection.vendor == "mysql":
        assert connection.features.supports_select_intersection  # MariaDB has them
    Plain.objects.create(tenant=tenant, secret=rows["1a"].secret_index)
    with refused(FieldError, r"fieldapp\.Indexed\.(secret_index|early) holds indexes"):
        list(IN_OTHER_COMPARISONS[name]())
    assert Plain.objects.get().note == ""


TWINS = Indexed.objects.filter(early=OuterRef("early")).exclude(pk=OuterRef("pk"))
#: What an index is for, and how many rows each finds of the eight of ``rows``.
WITH_AN_INDEX: dict[str, tuple[int, Callable[[], Any]]] = {
    "its value": (8, lambda: Indexed.objects.values("secret_index")),
    "as an annotation": (8, lambda: Indexed.objects.annotate(x=F("early"))),
    "as another's annotation": (
        2,
        lambda: Tenant.objects.annotate(x=Subquery(INDEXES.exclude(secret_index=None)[:1])).filter(
            x__isnull=False
        ),
    ),
    "is null": (2, lambda: Indexed.objects.filter(secret_index__isnull=True)),
    "None": (2, lambda: Indexed.objects.filter(secret_index=None)),
    "is not null": (6, lambda: Indexed.objects.exclude(secret_index__isnull=True)),
    "whether it is null": (8, lambda: Indexed.objects.annotate(x=Q(early__isnull=True))),
    "order": (8, lambda: Indexed.objects.order_by("secret_index", "-early")),
    "the order of a slice": (
        1,
        lambda: Indexed.objects.filter(
            pk=Indexed.objects.order_by("-secret_index").values("pk")[:1]
        ),
    ),
    "distinct": (3, lambda: Indexed.objects.values("early").distinct()),
    "groups": (3, lambda: Indexed.objects.values("early").annotate(n=Count("pk"))),
    "a key of each group": (
        1,
        lambda: Tenant.objects.filter(
            pk__in=Indexed.objects.values("early").annotate(x=Max("tenant")).values("x")
        ),
    ),
    "those in large groups": (
        4,
        lambda: Indexed.objects.filter(
            early__in=Indexed.objects.values("early")
            .annotate(n=Count("pk"))
            .filter(n__gt=2)
            .values("early")
        ),
    ),
    "large groups themselves": (
        1,
        lambda: Indexed.objects.values("early").annotate(n=Count("early")).filter(n__gt=2),
    ),
    "count once": (
        1,
        lambda: [
            one
            for one in [Indexed.objects.aggregate(n=Count("early", distinct=True))]
            if one["n"] == 2
        ],
    ),
    "a window's part": (
        8,
        lambda: Indexed.objects.annotate(n=Window(Count("pk"), partition_by="early")),
    ),
    "beside a window": (
        6,
        lambda: Indexed.objects.annotate(n=Window(RowNumber(), order_by="pk")).filter(
            Q(n=9) | Q(early=F("early"))
        ),
    ),
    "a window's value": (
        3,
        lambda: Indexed.objects.annotate(
            n=Window(RowNumber(), order_by="pk"),
            x=Window(Max("early"), partition_by="name"),
            y=Window(Max("early")),
        ).filter(Q(n=0) | Q(x__isnull=True) | Q(name="1b")),
    ),
    "aggregates of a slice": (
        1,
        lambda: Indexed.objects.order_by("early")[:8].aggregate(
            n=Count("early", distinct=True, filter=Q(early=F("early"), name__gt=""))
        ),
    ),
    "a self join": (6, lambda: Indexed.objects.filter(Exists(TWINS))),
    "a self join by hand": (
        6,
        lambda: Indexed.objects.filter(
            Exists(Indexed.objects.filter(Exact(F("early"), OuterRef("early"))))
        ),
    ),
    "to a relation's": (
        6,
        lambda: Indexed.objects.filter(early=F("tenant__indexed__early")).distinct(),
    ),
    "a count of twins": (
        8,
        lambda: Indexed.objects.annotate(
            n=Subquery(TWINS.order_by().values("early").annotate(n=Count("pk")).values("n"))
        ),
    ),
    "in its like": (6, lambda: Indexed.objects.filter(secret_index__in=INDEXES)),
    "in a union": (6, lambda: Indexed.objects.filter(secret_index__in=INDEXES.union(INDEXES))),
    "the greatest": (
        1,
        lambda: Indexed.objects.filter(
            secret_index=Indexed.objects.exclude(secret_index=None)
            .order_by("-secret_index")
            .values("secret_index")[:1]
        ),
    ),
    "an annotation's like": (
        6,
        lambda: Indexed.objects.annotate(x=F("early")).filter(x=F("early")),
    ),
    "a picked one": (
        6,
        lambda: Indexed.objects.filter(early=Case(When(pk__isnull=False, then=F("early")))),
    ),
    "greater than its like": (
        0,
        lambda: Indexed.objects.filter(GreaterThan(F("early"), F("early"))),
    ),
    "what is computed of it": (
        6,
        lambda: Indexed.objects.annotate(n=Length("early")).filter(n__gt=11),
    ),
    "its key": (6, lambda: Indexed.objects.annotate(x=Left("early", 3)).filter(x="b2:")),
    "as text": (
        6,
        lambda: Indexed.objects.annotate(x=Cast("early", TextField())).filter(x__startswith="b2:"),
    ),
    "intersection": (
        3,
        lambda: Indexed.objects.values("early").intersection(Indexed.objects.values("early")),
    ),
    "intersection of rows": (8, lambda: Indexed.objects.all().intersection(Indexed.objects.all())),
    "difference": (
        1,
        lambda: Indexed.objects.values("early").difference(
            Indexed.objects.exclude(early=None).values("early")
        ),
    ),
    "difference of names": (
        2,
        lambda: Indexed.objects.values("name").difference(
            Indexed.objects.exclude(early=None).values("name")
        ),
    ),
}


@pytest.mark.parametrize("name", WITH_AN_INDEX)
def test_what_an_index_is_for_works(rows: dict[str, Indexed], name: str) -> None:
    expected, query = WITH_AN_INDEX[name]
    assert len(query()) == expected


def test_an_index_is_copied_and_its_row_deleted(rows: dict[str, Indexed], tenant: Tenant) -> None:
    Plain.objects.create(tenant=tenant)
    Plain.objects.update(secret=Subquery(INDEXES.filter(pk=rows["1a"].pk)))
    assert Plain.objects.get().secret == rows["1a"].secret_index
    assert pickle.loads(pickle.dumps(Indexed.objects.filter(early=F("early")).query))
    assert Indexed.objects.filter(early=rows["1a"].early).delete()[0] == 4


# -- any shape of a query -----------------------------------------------------------------------

#: ``f`` is the name of the secret, or of a plain column that holds the same.
SHAPES: dict[str, Callable[[str, Tenant, Tenant], Any]] = {
    "xor": lambda f, one, two: names(
        Indexed.objects.filter(Q(**{f: "a1"}) ^ Q(**{f: "b1"}), tenant=one)
    ),
    "xor of three": lambda f, one, two: names(
        Indexed.objects.filter(
            Q(**{f: "a1"}) ^ Q(**{f"{f}__in": ["a1", "b1"]}) ^ Q(name="1None"), tenant=one
        )
    ),
    "not xor": lambda f, one, two: names(
        Indexed.objects.filter(~(Q(**{f: "a1"}) ^ Q(name="1b")), tenant=one)
    ),
    "exclude both": lambda f, one, two: names(
        Indexed.objects.filter(tenant=one).exclude(**{f: "a1", "name": "1a"})
    ),
    "many": lambda f, one, two: names(
        Indexed.objects.filter(tenant=one, **{f"{f}__in": ["a1", *map(str, range(3_000))]})
    ),
    "a generator": lambda f, one, two: names(
        Indexed.objects.filter(tenant__in=(t for t in [one]), **{f"{f}__in": iter(["a1"])})
    ),
    "none of none": lambda f, one, two: names(
        Indexed.objects.filter(tenant=one).exclude(**{f"{f}__in": []})
    ),
    "only None": lambda f, one, two: names(
        Indexed.objects.filter(tenant=one).exclude(**{f"{f}__in": [None]})
    ),
    "a tenant written otherwise": lambda f, one, two: names(
        Indexed.objects.filter(tenant_id__in=[f"0{one.pk}", float(two.pk), None], **{f: "a1"})
    ),
    "having": lambda f, one, two: names(
        Indexed.objects.annotate(n=Count("tenant__note")).filter(
            Q(n__gt=9) | Q(**{f: "a1"}), tenant=one
        )
    ),
    "an alias": lambda f, one, two: names(Indexed.objects.alias(x=F(f)).filter(x="a1", tenant=one)),
    "both sides": lambda f, one, two: names(
        Indexed.objects.filter(**{f: "a1"}) & Indexed.objects.filter(tenant=one)
    ),
    "either side": lambda f, one, two: names(
        Indexed.objects.filter(tenant=one, **{f: "a1"})
        | Indexed.objects.filter(tenant=two, **{f: "b2"})
    ),
    "not in a query": lambda f, one, two: names(
        Indexed.objects.exclude(pk__in=Indexed.objects.filter(tenant=one, **{f: "a1"}))
    ),
    "prefetched": lambda f, one, two: [
        names(tenant.indexed.all())
        for tenant in Tenant.objects.order_by("pk").prefetch_related(
            Prefetch("indexed", Indexed.objects.filter(**{f"{f}__in": ["a1", "a2"]}))
        )
    ],
    "a slice": lambda f, one, two: [
        row.name for row in Indexed.objects.filter(tenant=one, **{f: "a1"})[:1]
    ],
    "in bulk": lambda f, one, two: len(Indexed.objects.filter(tenant=one, **{f: "a1"}).in_bulk()),
    "over a relation": lambda f, one, two: Tenant.objects.filter(
        **{f"indexed__{f}": "a1", "indexed__tenant": one}
    ).count(),
    "there and back": lambda f, one, two: names(
        Indexed.objects.filter(**{f"tenant__indexed__{f}": "a1", "tenant__indexed__tenant": one})
    ),
    "a filtered relation": lambda f, one, two: (
        Tenant.objects.annotate(r=FilteredRelation("indexed", condition=Q(indexed__tenant=one)))
        .filter(**{f"r__{f}": "a1", "r__tenant": one})
        .count()
    ),
    "window": lambda f, one, two: names(
        Indexed.objects.annotate(n=Window(RowNumber(), order_by="name")).filter(
            n=1, tenant=one, **{f"{f}__in": ["a1", "b1"]}
        )
    ),
    # Not for the secret:
    "excluded over a relation": lambda f, one, two: Tenant.objects.exclude(
        **{f"indexed__{f}": "a1", "indexed__tenant": one}
    ).count(),
    "a tenant of the other end": lambda f, one, two: names(
        Indexed.objects.filter(**{f"tenant__indexed__{f}": "a1", "tenant": one})
    ),
    "the condition of a relation": lambda f, one, two: (
        Tenant.objects.annotate(
            r=FilteredRelation("indexed", condition=Q(**{f"indexed__{f}": "a1"}))
        )
        .filter(r__tenant=one)
        .count()
    ),
    "a window's or": lambda f, one, two: names(
        Indexed.objects.annotate(n=Window(RowNumber(), order_by="name")).filter(
            Q(n=1) | Q(**{f: "a1"}), tenant=one
        )
    ),
    "a condition as a value": lambda f, one, two: names(
        Indexed.objects.annotate(x=Q(**{f: "a1", "tenant": one})).filter(x=True)
    ),
    "a lookup as an expression": lambda f, one, two: names(
        Indexed.objects.filter(Exact(F(f), "a1"), tenant=one)
    ),
    "the outer row's tenant": lambda f, one, two: Tenant.objects.filter(
        Exists(Indexed.objects.filter(tenant=OuterRef("pk"), **{f: "a1"}))
    ).count(),
}
NOT_FOR_SECRETS = [*SHAPES][[*SHAPES].index("excluded over a relation") :]


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_finds_what_a_plain_column_finds_or_is_refused(
    rows: dict[str, Indexed], tenant: Tenant, other_tenant: Tenant, name: str
) -> None:
    for key, row in rows.items():
        row.secret = row.host = None if "None" in key else f"{key[1:]}{key[0]}"
        if "A" in key:  # which some databases take for an "a"
            row.secret = row.host = f"c{key[0]}"
        row.save()
    shape, tenants = SHAPES[name], (tenant, other_tenant)
    found = shape("host", *tenants)
    assert found
    if name in NOT_FOR_SECRETS:
        with pytest.raises(FieldError, match=r"fieldapp\.Indexed"):
            shape("secret", *tenants)
    else:
        assert shape("secret", *tenants) == found


# -- the value in the query ---------------------------------------------------------------------

MARK = "PLAINTEXT"


def test_a_query_does_not_show_the_value(tenant: Tenant) -> None:
    found = Indexed.objects.filter(tenant=tenant, secret=MARK, data__auth__key=MARK)
    assert MARK not in str(found.query)
    assert MARK not in repr(found.query.where)
    assert MARK not in repr(vars(found.query))
    assert "b2:" in str(found.query)
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(found.query)
    assert str(copy.deepcopy(found).query) == str(found.query)
    with pytest.raises(Indexed.DoesNotExist) as caught:
        found.get()
    assert MARK not in str(caught.value)


def test_errors_do_not_show_the_value(tenant: Tenant) -> None:
    for rows in (
        lambda: list(Indexed.objects.filter(secret=MARK)),
        lambda: Indexed.objects.filter(secret__gt=MARK),
        lambda: Indexed.objects.filter(secret_index=MARK),
        lambda: Indexed.objects.filter(secret=MARK + "\ud800", tenant=tenant).count(),
        lambda: Indexed.objects.filter(secret={MARK: 1}, tenant=tenant),
    ):
        with pytest.raises((FieldError, TypeError, ValueError)) as caught:
            rows()
        assert MARK not in str(caught.value)
        assert not isinstance(caught.value, UnicodeError)


def test_what_is_sought() -> None:
    one, other = Sought([b"a", b"b", b"a"]), Sought([b"a", b"b"])
    assert one == other
    assert hash(one) == hash(other)
    assert one != Sought([b"a"])
    assert repr(one) == "<2 secret values>"


# -- truncated indexes --------------------------------------------------------------------------


@pytest.fixture
def shorts(tenant: Tenant) -> "QuerySet[Short]":
    Short.objects.bulk_create([Short(tenant=tenant, secret=f"s{number}") for number in range(100)])
    return Short.objects.filter(tenant=tenant)


def test_false_positives_are_sorted_out(shorts: "QuerySet[Short]", tenant: Tenant) -> None:
    sharing = Short.objects.values("secret_index").annotate(count=Count("pk"))
    assert max(row["count"] for row in sharing) > 3
    for number in (0, 7, 99):
        (found,) = shorts.filter(secret=f"s{number}")
        assert found.secret == f"s{number}"
        assert shorts.get(secret=f" s{number} ") == found
        assert list(shorts.filter(secret=f"s{number}").iterator(chunk_size=10)) == [found]
        assert Short.objects.get_or_create(tenant=tenant, secret=f"s{number}") == (found, False)
    many = shorts.filter(secret__in=["s1", "s2", "none"])
    assert sorted(row.secret for row in many) == ["s1", "s2"]
    assert len(many) == 2
    assert bool(shorts.filter(secret="s5"))
    assert not shorts.filter(secret="none")
    assert {row.secret for row in shorts.filter(secret="s3").select_related("tenant")} == {"s3"}
    Short.objects.create(tenant=tenant, secret="s3")
    with pytest.raises(Short.MultipleObjectsReturned):
        shorts.get(secret="s3")
    with pytest.raises(Short.DoesNotExist):
        shorts.get(secret="s100")


TRUNCATED: dict[str, Callable[["QuerySet[Short]"], Any]] = {
    "count": lambda rows: rows.filter(secret="s1").count(),
    "exists": lambda rows: rows.filter(secret="s1").exists(),
    "exclude": lambda rows: list(rows.exclude(secret="s1")),
    "or": lambda rows: list(rows.filter(Q(secret="s1") | Q(secret="s2"))),
    "not": lambda rows: list(rows.filter(~Q(secret="s1"))),
    "values": lambda rows: list(rows.filter(secret="s1").values("pk")),
    "values_list": lambda rows: list(rows.filter(secret="s1").values_list("pk")),
    "slice": lambda rows: list(rows.filter(secret="s1")[:1]),
    "first": lambda rows: rows.filter(secret="s1").first(),
    "update": lambda rows: rows.filter(secret="s1").update(secret=None),
    "delete": lambda rows: rows.filter(secret="s1").delete(),
    "aggregate": lambda rows: rows.filter(secret="s1").aggregate(x=Count("pk")),
    "subquery": lambda rows: list(Short.objects.filter(pk__in=rows.filter(secret="s1"))),
    "window": lambda rows: list(rows.filter(secret="s1").annotate(n=Window(Count("pk")))),
    "union": lambda rows: list(rows.filter(secret="s1").union(rows.filter(secret="s2"))),
    "default manager": lambda rows: list(QuerySet(Short).filter(secret="s1", tenant=1)),
    "relation": lambda rows: list(Tenant.objects.filter(short__secret="s1", short__tenant=1)),
}


@pytest.mark.parametrize("name", TRUNCATED)
def test_what_cannot_be_sorted_out_is_refused(shorts: "QuerySet[Short]", name: str) -> None:
    with refused(FieldError, "bits"):
        TRUNCATED[name](shorts)
    assert Short.objects.count() == 100
