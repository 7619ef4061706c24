"""What a secret is bound to is compared and authenticated as the text that the database gives back.

So a value counts as what it becomes on its way through its column, not as what was assigned.
"""

from collections.abc import Iterator
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.exceptions import FieldError
from django.db import models, transaction
from django.db.models import F
from django.test.utils import isolate_apps
from django.utils.safestring import mark_safe

from encryption import EncryptionError, decrypt
from encryption.fields import EncryptedTextField
from encryption.managers import EncryptedManager
from tests.encryption.database import refused, stored, tables
from tests.fieldapp.factories import TextSaltFactory
from tests.fieldapp.models import Note, Tenant, TextSalt, UuidTenant, Vault

pytestmark = pytest.mark.django_db


class LoweringField(models.CharField):
    """Stores another text than it was given, and does not tell the instance."""

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        return value.lower() if isinstance(value, str) else value


class StrippingField(models.CharField):
    """Changes the instance, when it is saved."""

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = getattr(model_instance, self.attname)
        value = value.strip() if isinstance(value, str) else value
        setattr(model_instance, self.attname, value)
        return value


class TrimmingField(models.CharField):
    """Stores another value than the instance has."""

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        return getattr(model_instance, self.attname).strip()


with isolate_apps("tests.fieldapp"):

    class Bound(models.Model):
        """One secret for each type of field that it can be bound to."""

        realm = models.CharField(max_length=20, default="r")
        integer = models.IntegerField(null=True)
        big = models.BigIntegerField(null=True)
        positive = models.PositiveSmallIntegerField(null=True)
        flag = models.BooleanField(null=True)
        uuid = models.UUIDField(null=True)
        text = models.TextField(null=True)
        slug = models.SlugField(null=True)
        ip = models.GenericIPAddressField(null=True)
        lowering = LoweringField(max_length=50, null=True)
        stripping = StrippingField(max_length=50, null=True)

        class Meta:
            app_label = "fieldapp"
            abstract = True

    BOUND: dict[str, Any] = {
        name: type(
            f"Bound{name.title()}",
            (Bound,),
            {
                "__module__": __name__,
                "secret": EncryptedTextField(salt_field="realm", bound_to=[name]),
                "objects": EncryptedManager(),
                "Meta": type("Meta", (), {"app_label": "fieldapp"}),
            },
        )
        for name in (
            "integer",
            "big",
            "positive",
            "flag",
            "uuid",
            "text",
            "slug",
            "ip",
            "lowering",
            "stripping",
        )
    }

    class Stripped(models.Model):
        """The secret stands before the salt that changes when it is saved."""

        secret = EncryptedTextField(salt_field="realm")
        realm = StrippingField(max_length=50)

        class Meta:
            app_label = "fieldapp"

    class Trimmed(models.Model):
        """The same, and the instance is not told of the change."""

        secret = EncryptedTextField(salt_field="realm")
        realm = TrimmingField(max_length=50)

        class Meta:
            app_label = "fieldapp"

    class Dated(models.Model):
        secret = EncryptedTextField(salt_field="realm")
        realm = models.DateTimeField(auto_now=True)

        class Meta:
            app_label = "fieldapp"

    class Lowered(models.Model):
        secret = EncryptedTextField(salt_field="realm")
        realm = LoweringField(max_length=50)

        class Meta:
            app_label = "fieldapp"

    class Defaulting(models.Model):
        realm = models.CharField(max_length=50, db_default="north")
        secret = EncryptedTextField(salt_field="realm", null=True)

        class Meta:
            app_label = "fieldapp"

    class Compound(models.Model):
        pk = models.CompositePrimaryKey("realm", "number")
        realm = models.CharField(max_length=50)
        number = models.IntegerField()
        secret = EncryptedTextField(salt_field="realm", bound_to=["number"], null=True)
        name = models.CharField(max_length=50)
        objects = EncryptedManager()

        class Meta:
            app_label = "fieldapp"

    class Numbered(models.Model):
        realm = models.CharField(max_length=50)
        secret = EncryptedTextField(salt_field="realm", bound_to=["id"])

        class Meta:
            app_label = "fieldapp"

    class Flagged(models.Model):
        flag = models.BooleanField()
        secret = EncryptedTextField(salt_field="flag")

        class Meta:
            app_label = "fieldapp"

    class Region(models.Model):
        code = models.CharField(max_length=10, unique=True)

        class Meta:
            app_label = "fieldapp"

    class Office(models.Model):
        region = models.OneToOneField(Region, models.CASCADE, to_field="code", primary_key=True)

        class Meta:
            app_label = "fieldapp"

    class Desk(models.Model):
        """Its salt is a key to a key to a text."""

        office = models.ForeignKey(Office, models.CASCADE)
        secret = EncryptedTextField(salt_field="office")

        class Meta:
            app_label = "fieldapp"


MODELS = [
    *BOUND.values(),
    Trimmed,
    Dated,
    Numbered,
    Stripped,
    Lowered,
    Defaulting,
    Compound,
    Flagged,
    Region,
    Office,
    Desk,
]


@pytest.fixture(scope="module", autouse=True)
def odd_tables(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock(), tables(*MODELS):
        yield


SPELLINGS: list[tuple[str, list[Any]]] = [
    ("integer", [7, "7", " 7 ", 7.0, "007"]),
    ("integer", [0, "0", False]),
    ("integer", [1, True, "1"]),
    ("big", [2**62, str(2**62)]),
    ("positive", [5, "5"]),
    ("flag", [True, "True", "t", 1, "1"]),
    ("flag", [False, "False", "f", 0, "0"]),
    ("text", ["a", mark_safe("a")]),
    ("text", ["7", 7]),
    ("text", [""]),
    ("text", [" a "]),
    ("slug", ["A"]),
    ("lowering", ["host.example", "HOST.example", "Host.Example"]),
    ("stripping", ["host", " host "]),
    ("uuid", [UUID(int=5), str(UUID(int=5)), UUID(int=5).hex, str(UUID(int=5)).upper(), 5]),
]


@pytest.mark.parametrize(
    ("name", "spellings"), SPELLINGS, ids=[f"{name} {values[0]!r}" for name, values in SPELLINGS]
)
class TestSpellings:
    def test_each_can_be_written_and_read(self, name: str, spellings: list[Any]) -> None:
        model = BOUND[name]
        for _ in range(2):  # the first time and every other
            for value in spellings:
                row = model.objects.create(**{name: value}, secret="s")
                (bulk,) = model.objects.bulk_create([model(**{name: value}, secret="s")])
                assert row.secret == "s"
                for made in (row, bulk):
                    read = model.objects.filter(pk=made.pk).first() or model.objects.last()
                    assert read.secret == "s"

    def test_another_spelling_is_no_change(self, name: str, spellings: list[Any]) -> None:
        model = BOUND[name]
        row = model.objects.create(**{name: spellings[0]}, secret="s")
        token = stored(row, "secret")
        for value in spellings:
            for fields in (None, [name]):
                row = model.objects.get(pk=row.pk)
                setattr(row, name, value)
                row.save(update_fields=fields)
                assert model.objects.get(pk=row.pk).secret == "s"
        if name != "stripping":  # that one changes the instance
            assert stored(row, "secret") == token

    def test_it_can_change_to_any(self, name: str, spellings: list[Any]) -> None:
        model = BOUND[name]
        for value in spellings:
            row = model.objects.create(secret="s")
            setattr(row, name, value)
            row.save(update_fields=[name])
            read = model.objects.get(pk=row.pk)
            assert read.secret == "s"
            setattr(read, name, None)
            read.save()
            read = model.objects.get(pk=row.pk)
            assert read.secret == "s"
            setattr(read, name, value)
            model.objects.bulk_update([read], [name])
            assert model.objects.get(pk=row.pk).secret == "s"


class Realm(str, Enum):  # noqa: UP042  # str() of a member is not its value
    NORTH = "north"


class Choice(models.TextChoices):
    NORTH = "north", "The North"


class Strict(StrEnum):
    NORTH = "north"


@pytest.mark.parametrize(
    "realm",
    [Realm.NORTH, Choice.NORTH, Strict.NORTH, mark_safe("north")],
    ids=["Enum", "TextChoices", "StrEnum", "SafeString"],
)
def test_an_enum_is_the_text_that_is_stored(realm: Any) -> None:
    made = TextSaltFactory(realm=realm, secret="s")
    read = TextSalt.objects.get()
    assert (read.realm, read.secret) == ("north", "s")
    assert decrypt(stored(made, "secret"), "north", context="fieldapp.textsalt.secret") == "s"
    token = stored(made, "secret")
    read.realm = realm
    read.save()
    assert stored(made, "secret") == token


@pytest.mark.parametrize(
    ("model", "realms"),
    [
        (Lowered, {"NORTH": "north", "South": "south", "east": "east"}),
        (Stripped, {" north": "north", "south ": "south", "east": "east"}),
        (Trimmed, {" north": "north", "south ": "south", "east": "east"}),
    ],
    ids=["in get_prep_value", "in pre_save", "behind the instance"],
)
def test_a_salt_that_changes_on_its_way(model: Any, realms: dict[str, str]) -> None:
    for realm, becomes in realms.items():
        row = model.objects.create(realm=realm, secret="s")
        model.objects.bulk_create([model(realm=realm, secret="t")])
        assert [read.secret for read in model.objects.order_by("pk")] == ["s", "t"]
        assert {read.realm for read in model.objects.all()} == {becomes}
        row.realm = realm
        row.save()
        row.realm = f"x{realm}"
        row.save(update_fields=["realm"])
        assert [read.secret for read in model.objects.order_by("pk")] == ["s", "t"]
        model.objects.all().delete()


@pytest.mark.parametrize(
    "write",
    [
        lambda: Dated(secret="s").save(),
        lambda: Dated.objects.create(secret="s"),
        lambda: Dated.objects.bulk_create([Dated(secret="s")]),
    ],
    ids=["save", "create", "bulk_create"],
)
def test_a_salt_that_changes_each_time_is_refused(write: Any) -> None:
    with refused(FieldError, match="changes each time"):
        write()
    assert not Dated.objects.exists()


def test_a_salt_that_the_database_would_choose_has_to_be_given() -> None:
    for write in (
        lambda: Defaulting(secret="s").save(),
        lambda: Defaulting.objects.bulk_create([Defaulting(secret="s")]),
    ):
        with pytest.raises((FieldError, EncryptionError), match="realm"):
            write()


def test_the_same_salt_given_is_fine() -> None:
    row = Defaulting.objects.create(realm="north", secret="s")
    assert Defaulting.objects.get(pk=row.pk).secret == "s"
    row = Defaulting.objects.create()
    assert Defaulting.objects.get(pk=row.pk).secret is None


def test_an_id_as_text(tenant: Tenant, other_tenant: Tenant, owner: UuidTenant) -> None:
    note = Note.objects.create(tenant_id=str(tenant.pk), secret="s")
    assert Note.objects.get().secret == "s"
    note.tenant_id = str(other_tenant.pk)
    note.save(update_fields=["tenant"])
    assert Note.objects.get().secret == "s"
    pk = uuid4()
    Vault.objects.create(pk=str(pk), tenant_id=str(owner.pk), secret="s")
    Vault.objects.bulk_create([Vault(pk=uuid4().hex, tenant_id=owner.pk.hex, secret="t")])
    assert {vault.secret for vault in Vault.objects.all()} == {"s", "t"}
    vault = Vault.objects.get(pk=pk)
    token = stored(vault, "secret")
    vault.tenant_id, vault.pk = str(owner.pk), str(pk)
    vault.save()
    assert stored(vault, "secret") == token


def test_a_key_to_a_key_to_a_text() -> None:
    for code in ("eu", "us"):
        Office.objects.create(region=Region.objects.create(code=code))
    desk = Desk.objects.create(office=Office.objects.get(pk="eu"), secret="s")
    assert Desk.objects.get().secret == "s"
    assert decrypt(stored(desk, "secret"), "eu", context="fieldapp.desk.secret") == "s"
    desk.office_id = "us"
    desk.save()
    assert Desk.objects.get().secret == "s"


def test_an_id_that_the_database_gives_cannot_be_bound_to() -> None:
    """A system check says so, and a process that runs no checks is not left with dead rows."""
    for write in (
        lambda: Numbered.objects.create(realm="north", secret="s"),
        lambda: Numbered.objects.bulk_create([Numbered(realm="north", secret="s")]),
    ):
        with pytest.raises((FieldError, EncryptionError), match="id"), transaction.atomic():
            write()
    assert not Numbered.objects.exists()
    row = Numbered.objects.create(pk=5, realm="north", secret="s")
    assert Numbered.objects.get(pk=row.pk).secret == "s"


class TestCompositeKeys:
    @pytest.fixture(autouse=True)
    def row(self) -> Any:
        return Compound.objects.create(realm="north", number=1, secret="s")

    def test_it_is_read(self, django_assert_num_queries: Any) -> None:
        for queryset, reads in (
            (Compound.objects.all(), 0),
            (Compound.objects.only("secret"), 0),
            (Compound.objects.only("name"), 1),
            (Compound.objects.defer("secret"), 1),
        ):
            read = queryset.get()
            with django_assert_num_queries(reads):
                assert read.secret == "s"
        assert Compound.objects.get(pk=("north", 1)).secret == "s"

    @pytest.mark.parametrize("fields", [None, ["secret"], ["secret", "name"]])
    def test_it_is_saved(self, fields: list[str] | None) -> None:
        read = Compound.objects.get()
        read.secret = "new"
        read.save(update_fields=fields)
        assert Compound.objects.get().secret == "new"

    def test_it_is_updated_in_bulk(self) -> None:
        read = Compound.objects.get()
        read.secret = "new"
        Compound.objects.bulk_update([read], ["secret"])
        assert Compound.objects.get().secret == "new"

    def test_a_part_of_another_type(self) -> None:
        for key in (["north", "1"], ("north", 1.0)):
            made = Compound(pk=key, secret="new")
            assert Compound.objects.bulk_update([made], ["secret"]) == 1
            assert Compound.objects.get().secret == "new"

    @pytest.mark.parametrize("change", [{"number": F("number") + 1}, {"realm": "south"}])
    def test_its_key_is_not_updated_under_the_secret(self, change: dict[str, Any]) -> None:
        with refused(FieldError, match="encrypted under"):
            Compound.objects.update(**change)
        assert Compound.objects.get(pk=("north", 1)).secret == "s"
        Compound.objects.update(secret=None, **change)
        assert Compound.objects.get().secret is None

    def test_it_is_refreshed(self) -> None:
        read = Compound.objects.get()
        read.secret = "edited"
        read.refresh_from_db(fields=["secret"])
        assert read.secret == "s"

    def test_another_key_is_another_row(self) -> None:
        read = Compound.objects.get()
        assert read.secret
        read.realm = "south"
        read.save()
        assert [row.secret for row in Compound.objects.all()] == ["s", "s"]
        assert len({stored_token(row) for row in Compound.objects.all()}) == 2


def stored_token(row: Compound) -> str:
    return Compound.objects.values_list("secret", flat=True).get(pk=row.pk).token


def test_a_whole_number_for_a_salt_of_another_type() -> None:
    """Django stores UUID(int=6) for 6, and True for 1."""
    tenant = UuidTenant.objects.create(id=6)
    Vault.objects.create(tenant=tenant, secret="s", host="a")
    Vault.objects.bulk_create([Vault(tenant_id=6, secret="t", host="b")])
    made = Vault.objects.create(tenant_id=6, host="c")
    made.secret = "u"
    assert made.secret == "u"
    made.save(update_fields=["secret"])
    assert [read.secret for read in Vault.objects.order_by("host")] == ["s", "t", "u"]
    Flagged.objects.create(flag=1, secret="s")
    Flagged.objects.create(flag=0, secret="s")
    assert [read.secret for read in Flagged.objects.all()] == ["s", "s"]
