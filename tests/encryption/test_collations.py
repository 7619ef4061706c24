"""Sources in text columns that take "north" and "North" for equal.

MariaDB's do unless told otherwise; the others can be told to. A secret is readable only under the
very text that it was encrypted with.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db import connection, models
from django.test.utils import isolate_apps

from encryption import checks
from encryption.binding import Source
from encryption.collations import compares_exactly
from encryption.fields import EncryptedTextField
from encryption.managers import EncryptedManager
from encryption.registry import EncryptedColumn
from tests.encryption.database import refused, tables

pytestmark = pytest.mark.django_db

FOLDING = {"sqlite": "NOCASE", "postgresql": "folding", "mysql": "utf8mb4_general_ci"}
EXACT = {"sqlite": "binary", "postgresql": "POSIX", "mysql": "utf8mb4_bin"}
COLLATION = FOLDING[connection.vendor]

with isolate_apps("tests.fieldapp"):

    class Folded(models.Model):
        realm = models.CharField(max_length=50, unique=True, db_collation=COLLATION)
        secret = EncryptedTextField(salt_field="realm")
        name = models.CharField(max_length=50)

        objects = EncryptedManager()

        class Meta:
            app_label = "fieldapp"

    class Exact(models.Model):
        code = models.CharField(
            max_length=50, primary_key=True, db_collation=EXACT[connection.vendor]
        )
        realm = models.CharField(max_length=50, default="r")
        secret = EncryptedTextField(salt_field="realm", bound_to=["code"])

        objects = EncryptedManager()

        class Meta:
            app_label = "fieldapp"

    class Coded(models.Model):
        code = models.CharField(max_length=50, primary_key=True, db_collation=COLLATION)
        realm = models.CharField(max_length=50, default="r")
        secret = EncryptedTextField(salt_field="realm", bound_to=["code"])

        objects = EncryptedManager()

        class Meta:
            app_label = "fieldapp"


@pytest.fixture(scope="module", autouse=True)
def folding_tables(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(
                    f"CREATE COLLATION IF NOT EXISTS {COLLATION} "
                    "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
                )
        with tables(Folded, Coded, Exact):
            yield


@pytest.fixture
def folded() -> Folded:
    row = Folded.objects.create(realm="north", secret="s", name="n")
    assert Folded.objects.filter(realm="NORTH").exists()
    return row


@pytest.mark.parametrize("realm", ["North", "norté", "nörth"])
@pytest.mark.parametrize("fields", [["secret"], ["secret", "name"], ["realm"], ["realm", "secret"]])
def test_a_race_with_another_spelling(folded: Folded, realm: str, fields: list[str]) -> None:
    stale = Folded.objects.get()
    folded.realm = realm
    folded.save()
    stale.secret = "edit"
    stale.save(update_fields=fields)
    read = Folded.objects.get()
    assert read.secret == ("edit" if "secret" in fields else "s")
    assert read.realm == ("north" if "realm" in fields else realm)


@pytest.mark.parametrize("realm", ["North", "Ἀθῆναι", "a\\'b", "北", "🔑", "north "])
def test_each_spelling_can_be_saved(folded: Folded, realm: str) -> None:
    folded.realm = realm
    folded.save(update_fields=["realm"])
    read = Folded.objects.get()
    assert (read.realm, read.secret) == (realm, "s")
    for fields in (["secret"], ["realm"]):
        read.secret = f"{fields}"
        read.save(update_fields=fields)
    assert Folded.objects.get().secret == "['secret']"


def test_a_key_of_another_spelling_is_another_row_or_refused() -> None:
    Coded.objects.create(code="a", secret="s")
    other = Coded(code="A", secret="new")
    with refused(FieldError, match="'a'"):
        Coded.objects.bulk_update([other], ["secret"])
    loaded = Coded.objects.get()
    loaded.code = "A"
    loaded.secret = "new"
    with refused(FieldError, match="'a'"):
        loaded.save(update_fields=["secret"])
    with refused(FieldError, match="'a'"):
        loaded.save()
    with refused(FieldError, match="'a'"):
        other.save()
    Coded.objects.update_or_create(code="A", defaults={"secret": "s"})  # loads the row
    assert Coded.objects.get().secret == "s"
    same = Coded(code="a", secret="new")
    same.save()
    Coded(code="b", secret="more").save()
    assert {row.code: row.secret for row in Coded.objects.all()} == {"a": "new", "b": "more"}


def test_nor_does_a_raw_save_take_another_row() -> None:
    Coded.objects.create(code="a", secret="s")
    raw = Coded.objects.get()
    raw.code = "A"
    with refused(FieldError, match="'a'"):
        raw.save_base(raw=True)
    assert Coded.objects.get().secret == "s"


def upsert(model: Any, row: Any, *names: str) -> None:
    unique = next(name for name in ("code", "realm") if hasattr(model, name))
    model.objects.bulk_create(
        [row], update_conflicts=True, unique_fields=[unique], update_fields=names
    )


@pytest.mark.skipif(
    not connection.features.supports_update_conflicts_with_target, reason="no unique_fields"
)
class TestUpserts:
    def test_a_unique_text_is_not_taken_for_the_same(self, folded: Folded) -> None:
        new = Folded(realm="NORTH", secret="new", name="m")
        with refused(FieldError, match="realm"):
            upsert(Folded, new, "secret")
        with refused(FieldError, match="secret"):
            upsert(Folded, new, "realm")
        upsert(Folded, new, "name")
        assert [(row.secret, row.name) for row in Folded.objects.all()] == [("s", "m")]
        upsert(Folded, new, "secret", "realm")
        assert [(row.secret, row.realm) for row in Folded.objects.all()] == [("new", "NORTH")]

    def test_nor_is_a_primary_key(self) -> None:
        Coded.objects.create(code="a", secret="s")
        with refused(FieldError, match="code"):
            upsert(Coded, Coded(code="A", secret="new"), "secret", "realm")
        assert Coded.objects.get().secret == "s"

    def test_one_that_compares_exactly_is(self) -> None:
        Exact.objects.create(code="a", secret="s")
        for code in ("a", "A"):
            upsert(Exact, Exact(code=code, secret="new"), "secret", "realm")
        assert [row.secret for row in Exact.objects.all()] == ["new", "new"]


@pytest.mark.parametrize(("model", "warned"), [(Coded, True), (Folded, False), (Exact, False)])
def test_a_primary_key_that_is_found_by_other_texts(
    monkeypatch: pytest.MonkeyPatch, model: Any, warned: bool
) -> None:
    column = EncryptedColumn(model, model._meta.get_field("secret"))
    monkeypatch.setattr(checks, "encrypted_columns", lambda: [column])
    assert not checks.check_collations(None, databases=None)
    found = checks.check_collations(None, databases=["default"])
    assert [message.id for message in found] == ["encryption.W022"] * warned
    assert all("'code'" in str(message) for message in found)


def test_what_is_asked_of_each_database() -> None:
    made = models.CharField(db_collation=COLLATION)
    assert compares_exactly(Coded._meta.get_field("code"), connection) is False
    assert compares_exactly(Exact._meta.get_field("code"), connection)
    assert compares_exactly(Folded._meta.get_field("id"), connection)
    made.model, made.column = Coded, "a column to come"
    assert compares_exactly(made, connection) is False
    path = models.FilePathField()
    path.set_attributes_from_name("path")
    path.model = Coded
    assert Source(path, False).is_text
    assert compares_exactly(path, connection) is (connection.vendor != "mysql")
    if connection.vendor != "mysql":
        made.db_collation = None
        assert compares_exactly(made, connection)
        made.db_collation = "unheard of"
        assert compares_exactly(made, connection) is None
