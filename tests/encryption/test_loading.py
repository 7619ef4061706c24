"""Rows become instances without `Model.__init__` where that makes no difference; here is where."""

from typing import Any

import pytest
from django.apps import apps
from django.core.exceptions import FieldError
from django.db import connection, models
from django.db.models.signals import ModelSignal, post_init, pre_init
from django.test.utils import isolate_apps

from encryption import encrypt, loading
from encryption.descriptors import Ciphertext
from encryption.fields import EncryptedField, EncryptedTextField
from tests.fieldapp.factories import NoteFactory
from tests.fieldapp.models import Indexed, Note, NoteProxy, Tenant, UuidTenant

ENCRYPTED = [model for model in apps.get_models() if hasattr(model, "_encryption_layout")]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the classes that `Model.__init__` made instances of."""
    names: list[str] = []
    original = models.Model.__init__

    def counted(self: models.Model, *args: Any, **kwargs: Any) -> None:
        names.append(type(self).__name__)
        original(self, *args, **kwargs)

    # Patched where it is compared with, too: the question is who is called.
    monkeypatch.setattr(models.Model, "__init__", counted)
    monkeypatch.setattr(loading, "_MODEL_INIT", counted)
    return names


def from_db(cls: type[models.Model], *values: Any) -> Any:
    return cls.from_db("default", [field.attname for field in cls._meta.concrete_fields], values)


def row_of(cls: type[models.Model]) -> list[Any]:
    """A value for each column, as the database's converters would give it."""
    values: list[Any] = []
    for place, field in enumerate(cls._meta.concrete_fields):
        if isinstance(field, EncryptedField):
            values.append(Ciphertext("v2:00000000:AAAA", field))
        else:
            values.append(None if getattr(field, "is_blind_index", False) else place)
    return values


def test_there_are_models_to_compare() -> None:
    assert {Note, NoteProxy, Indexed} < set(ENCRYPTED)


@pytest.mark.parametrize("cls", ENCRYPTED, ids=lambda cls: cls.__name__)
def test_an_instance_is_as_django_makes_it(
    cls: type[models.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = row_of(cls)
    loaded = from_db(cls, *row)
    monkeypatch.setattr(loading, "_MODEL_INIT", None)  # no class has this one
    expected = from_db(cls, *row)

    assert list(vars(loaded)) == list(vars(expected))
    states = [vars(vars(one).pop("_state")) for one in (loaded, expected)]
    # A foreign key's attribute looks into the cache, which makes one; else the first look does.
    assert [state.pop("fields_cache", {}) for state in states] == [{}, {}]
    assert list(states[0]) == list(states[1])
    assert states[0] == states[1]
    assert vars(loaded) == vars(expected)


@pytest.mark.django_db
def test_rows_of_a_query_need_no_init(made: list[str]) -> None:
    note = NoteFactory(secret="s")
    made.clear()
    assert [one.secret for one in Note.objects.all()] == ["s"]
    assert [one.secret for one in NoteProxy.objects.all()] == ["s"]
    assert Note.objects.get(pk=note.pk).secret == "s"
    assert made == []
    assert Note.objects.select_related("tenant").get().secret == "s"
    assert made == ["Tenant"]
    assert Note.objects.only("secret").get().secret == "s"
    assert made == ["Tenant", "Note"]


@pytest.mark.django_db
def test_what_from_db_is_given_by_hand_goes_past_the_attribute(tenant: Tenant) -> None:
    row = {"id": 1, "tenant_id": tenant.pk, "secret": "in the clear"}
    values = [row.get(field.attname) for field in Note._meta.concrete_fields]
    note = from_db(Note, *values)
    assert note.secret == "in the clear"
    assert "in the clear" not in map(str, vars(note).values())
    values = row_of(Indexed)
    place = [field.attname for field in Indexed._meta.concrete_fields].index("secret_index")
    values[place] = "b2:00000000:made-up"
    with pytest.raises(FieldError, match="computed from 'secret'"):
        from_db(Indexed, *values)


@pytest.mark.django_db
@pytest.mark.parametrize("signal", [pre_init, post_init], ids=["pre_init", "post_init"])
def test_who_listens_hears_of_each_instance(signal: ModelSignal) -> None:
    heard: list[Any] = []

    def listen(sender: Any, **kwargs: Any) -> None:
        heard.append(sender)

    def listen_to_another(sender: Any, **kwargs: Any) -> None:
        """No affair of a note."""

    NoteFactory()
    signal.connect(listen_to_another, sender=UuidTenant)
    signal.connect(listen, sender=Note)
    try:
        list(Note.objects.all())
        assert heard == [Note]
        list(NoteProxy.objects.all())
    finally:
        signal.disconnect(listen, sender=Note)
        signal.disconnect(listen_to_another, sender=UuidTenant)
    assert heard == [Note]


@pytest.mark.django_db
def test_a_listener_to_another_class_costs_no_init(made: list[str]) -> None:
    def listen(sender: Any, **kwargs: Any) -> None:
        """No affair of a note."""

    NoteFactory()
    made.clear()
    post_init.connect(listen, sender=UuidTenant)
    try:
        list(Note.objects.all())
    finally:
        post_init.disconnect(listen, sender=UuidTenant)
    assert made == []


class Upper(models.CharField):  # type: ignore[type-arg]
    """A column whose attribute changes what is set."""

    class Attribute:
        def __init__(self, field: Any) -> None:
            self.field = field

        def __get__(self, instance: Any, cls: Any = None) -> Any:
            return self if instance is None else instance.__dict__[self.field.attname]

        def __set__(self, instance: Any, value: str) -> None:
            instance.__dict__[self.field.attname] = value.upper()

    descriptor_class = Attribute  # type: ignore[assignment]


class Before:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.before = True
        super().__init__(*args, **kwargs)


class After:
    def __init__(self) -> None:
        self.after = True
        super().__init__()


class Making:
    def __new__(cls, *_args: Any, **_kwargs: Any) -> Any:
        made = super().__new__(cls)
        made.made = True  # type: ignore[attr-defined]
        return made


class Setting:
    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "realm":
            self.__dict__["was_set"] = True


@isolate_apps("tests.fieldapp")
def model_of(*bases: type, realm: type = models.CharField) -> type[models.Model]:
    body = {
        "__module__": __name__,
        "realm": realm(max_length=50),
        "secret": EncryptedTextField(salt_field="realm"),
        "Meta": type("Meta", (), {"app_label": "fieldapp"}),
    }
    return type("Made", bases, body)


@pytest.mark.parametrize(
    ("bases", "realm", "attname", "value"),
    [
        ((models.Model,), Upper, "realm", "NORTH"),
        ((Before, models.Model), models.CharField, "before", True),
        ((models.Model, After), models.CharField, "after", True),
        ((Making, models.Model), models.CharField, "made", True),
        ((Setting, models.Model), models.CharField, "was_set", True),
    ],
    ids=["attribute", "init before", "init after", "new", "setattr"],
)
def test_a_class_that_makes_its_instances_in_another_way_does_so(
    bases: tuple[type, ...], realm: type, attname: str, value: Any
) -> None:
    cls = model_of(*bases, realm=realm)
    field: Any = cls._meta.get_field("secret")
    token = encrypt("s", "north", context=field.aad_context)
    row = from_db(cls, 1, "north", field.from_db_value(token, None, connection))
    assert vars(row)[attname] == value
    if realm is not Upper:
        assert row.secret == "s"


@pytest.mark.django_db
def test_an_init_that_is_put_on_a_class_later_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    NoteFactory(secret="s")
    assert Note.objects.get().secret == "s"
    seen: list[Any] = []

    def patched(self: Any, *args: Any, **kwargs: Any) -> None:
        models.Model.__init__(self, *args, **kwargs)
        seen.append(self.secret)

    monkeypatch.setattr(Note, "__init__", patched)
    assert Note.objects.get().secret == "s"
    assert seen == ["s"]
