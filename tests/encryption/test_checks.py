"""Each system check, by its id: what is refused, and what is not."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models import F
from django.test import override_settings
from django.test.utils import isolate_apps

from encryption.checks import check_fields, check_keys
from encryption.conf import get_keyring
from encryption.fields import EncryptedJSONField, EncryptedTextField

KEY = "a master key for checks, which is long enough"
OTHER = "another master key for checks, which is too"


class NoKeys:
    def __init__(self, settings: object) -> None: ...

    def keys(self) -> None:
        raise ValueError("the key service does not answer")


class StrippingField(models.CharField):
    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        return getattr(model_instance, self.attname).strip()


def text(**options: Any) -> EncryptedTextField:
    return EncryptedTextField(**{"salt_field": "tenant", **options})


def key(**options: Any) -> Any:
    return models.ForeignKey(**{"to": "fieldapp.Owner", "on_delete": models.CASCADE, **options})


def ids(meta: dict[str, Any], **columns: Any) -> list[str]:
    """The ids of what is wrong with a model that has these columns, and a tenant if none."""
    with isolate_apps("tests.fieldapp") as isolated:
        named = {"__module__": __name__, "Meta": type("Meta", (), {"app_label": "fieldapp"})}
        type("Owner", (models.Model,), {**named})
        named["Meta"] = type("Meta", (), {"app_label": "fieldapp", **meta})
        type("Tried", (models.Model,), {**named, "tenant": key(), **columns})
        return [str(message.id) for message in check_fields(list(isolated.get_app_configs()))]


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "unique": ("E010", {"secret": lambda: text(unique=True)}),
    "db_index": ("E011", {"secret": lambda: text(db_index=True)}),
    "primary_key": ("E012", {"secret": lambda: text(primary_key=True)}),
    "no salt": ("E013", {"secret": EncryptedTextField}),
    "unknown salt": ("E013", {"secret": lambda: text(salt_field="nobody")}),
    "salt across a relation": ("E013", {"secret": lambda: text(salt_field="tenant__id")}),
    "encrypted salt": (
        "E013 E020",
        {"first": text, "secret": lambda: text(salt_field="first")},
    ),
    "salt that may be NULL": ("E014", {"tenant": lambda: key(null=True), "secret": text}),
    "numbered salt": ("E015", {"secret": lambda: text(salt_field="id")}),
    "bound to a number": ("E015", {"secret": lambda: text(bound_to=["id"])}),
    "salt of the database": (
        "E015",
        {
            "realm": lambda: models.IntegerField(db_default=1),
            "secret": lambda: text(salt_field="realm"),
        },
    ),
    "bound to nothing": ("E016", {"secret": lambda: text(bound_to=["nobody"])}),
    "bound to its salt": ("E016", {"secret": lambda: text(bound_to=["tenant"])}),
    "bound to a secret": (
        "E016",
        {"first": text, "secret": lambda: text(bound_to=["first"])},
    ),
    "tenant that is set to a default": (
        "E017",
        {"tenant": lambda: key(on_delete=models.SET_DEFAULT, default=1), "secret": text},
    ),
    "tenant that is set": (
        "E017",
        {"tenant": lambda: key(on_delete=models.SET(1)), "secret": text},
    ),
    "bound relation that is set": (
        "E017",
        {
            "other": lambda: key(on_delete=models.SET_NULL, null=True, related_name="+"),
            "secret": lambda: text(bound_to=["other"]),
        },
    ),
    "db_default": ("E018", {"secret": lambda: text(db_default="x")}),
    "choices": ("E019", {"secret": lambda: text(choices=[("a", "A")])}),
    "salt of a date": (
        "E020",
        {"day": models.DateField, "secret": lambda: text(salt_field="day")},
    ),
    "bound to a decimal": (
        "E020",
        {
            "sum": lambda: models.DecimalField(max_digits=5, decimal_places=2),
            "secret": lambda: text(bound_to=["sum"]),
        },
    ),
    "salt that changes when it is saved": (
        "E020",
        {"realm": lambda: StrippingField(max_length=9), "secret": lambda: text(salt_field="realm")},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused(name: str) -> None:
    expected, columns = REFUSED[name]
    found = ids({}, **{column: make() for column, make in columns.items()})
    assert found == [f"encryption.{id_}" for id_ in expected.split()]


NAMED: dict[str, dict[str, Any]] = {
    "constraint": {"constraints": [models.UniqueConstraint(fields=["secret"], name="one")]},
    "index": {"indexes": [models.Index(fields=["secret"], name="two")]},
    "unique_together": {"unique_together": [("secret", "plain")]},
    "ordering": {"ordering": ["-secret"]},
    "ordering by F": {"ordering": [F("secret").desc()]},
}


@pytest.mark.parametrize("name", NAMED)
def test_what_names_it_is_refused(name: str) -> None:
    found = ids(NAMED[name], secret=text(), plain=models.TextField())
    assert found == ["encryption.E021"]


@pytest.mark.parametrize(
    "columns",
    [
        {"secret": text},
        {"secret": lambda: EncryptedJSONField(salt_field="tenant", null=True, default=dict)},
        {
            "id": lambda: models.UUIDField(primary_key=True, default=uuid.uuid4),
            "host": lambda: models.TextField(null=True),
            "secret": lambda: text(bound_to=("id", "host"), blank=True),
        },
        {"tenant": lambda: key(on_delete=models.PROTECT), "secret": text},
    ],
    ids=["text", "JSON", "bound", "protected"],
)
def test_what_works_is_not_refused(columns: dict[str, Any]) -> None:
    assert ids({}, **{column: make() for column, make in columns.items()}) == []


def test_the_models_of_the_tests_and_of_the_product_are_right() -> None:
    assert check_fields(None) == []
    assert check_fields([apps.get_app_config("fieldapp")]) == []


def test_a_refusal_names_the_field_and_the_way_out() -> None:
    with isolate_apps("tests.fieldapp") as isolated:

        class Owner(models.Model):
            class Meta:
                app_label = "fieldapp"

        class Tried(models.Model):
            tenant = models.ForeignKey(Owner, models.CASCADE)
            secret = EncryptedTextField(salt_field="tenant", unique=True)

            class Meta:
                app_label = "fieldapp"

        (message,) = check_fields(list(isolated.get_app_configs()))
        assert "fieldapp.Tried.secret" in message.msg
        assert message.hint
        assert message.obj is Tried._meta.get_field("secret")


@pytest.mark.parametrize(
    ("entries", "id_"),
    [
        ({"MASTER_KEY": "short"}, "E001"),
        ({"MASTER_KEY": 7}, "E001"),
        ({"MASTER_KEY": KEY, "MASTER_KEY_FALLBACKS": ["short"]}, "E001"),
        ({"KEY_PROVIDER": f"{__name__}.NoKeys"}, "E001"),
        ({"MASTER_KEY": KEY, "MASTER_KEY_FALLBACKS": [KEY]}, "E002"),
        ({"MASTER_KEY": KEY, "MASTER_KEY_FALLBACKS": [OTHER, OTHER]}, "E002"),
        ({"MASTERKEY": KEY}, "E003"),
        ({"MASTER_KEY": KEY, "WRITE_FORMAT": "v3"}, "E003"),
        ({"MASTER_KEY": KEY, "READ_FORMATS": []}, "E003"),
        ({"MASTER_KEY": KEY, "KEY_CACHE_SIZE": 0}, "E003"),
        ({"KEY_PROVIDER": "no.such.Provider"}, "E003"),
        ("a text", "E003"),
    ],
    ids=[
        "short", "no text", "short fallback", "provider", "primary twice", "fallback twice",
        "unknown entry", "format", "no formats", "size", "no such provider", "no dict",
    ],
)  # fmt: skip
@pytest.mark.django_db  # JSONField asks the database whether it knows JSON
def test_keys_and_settings_that_cannot_be_used(entries: Any, id_: str) -> None:
    with override_settings(ENCRYPTION=entries):
        (message,) = check_keys(None)
        assert message.id == f"encryption.{id_}"
        assert message in run_checks()
        for secret in (KEY, OTHER, "short"):
            assert f"'{secret}'" not in f"{message.msg} {message.hint}"
            assert len(secret) < 10 or secret not in f"{message.msg} {message.hint}"


def test_no_key_and_an_unreadable_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MASTER_ENCRYPTION_KEY")
    with override_settings(ENCRYPTION={}):
        (message,) = check_keys(None)
        assert message.id == "encryption.E001"
        assert "generate_master_key" in str(message.hint)
    monkeypatch.setenv("MASTER_ENCRYPTION_KEY_FILE", str(tmp_path / "missing"))
    with override_settings(ENCRYPTION={}):
        (message,) = check_keys(None)
        assert message.id == "encryption.E001"


@pytest.mark.parametrize("name", ["MASTER_ENCRYPTION_KEY", "MASTER_ENCRYPTION_KEY_FILE"])
def test_a_key_that_stands_where_it_is_not_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("MASTER_ENCRYPTION_KEY")
    with override_settings(ENCRYPTION={}, **{name: KEY}):
        (message,) = check_keys(None)
        assert message.id == "encryption.E001"
        said = f"Django's settings have {name}, which is not read there"
        assert said in str(message.hint)
        assert "environment variable" in str(message.hint)
        assert KEY not in f"{message.msg} {message.hint}"
        with pytest.raises(ImproperlyConfigured, match=said) as raised:
            get_keyring()
        assert KEY not in str(raised.value)


def test_good_keys_pass() -> None:
    with override_settings(ENCRYPTION={"MASTER_KEY": KEY, "MASTER_KEY_FALLBACKS": [OTHER]}):
        assert check_keys(None) == []
