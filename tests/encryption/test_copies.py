"""Copies of an instance, wherever they go: pickles, caches, reprs. None holds a plaintext."""

import copy
import json
import logging
import pickle
import pprint
from collections import Counter
from typing import Any

import pytest
from django.core.cache import caches
from django.core.serializers.json import DjangoJSONEncoder
from django.forms.models import model_to_dict
from django.test import override_settings

from encryption import MissingSaltError, TamperedError
from encryption.descriptors import Ciphertext
from tests.encryption.database import store, stored
from tests.fieldapp.factories import ChildFactory, NoteFactory, TextSaltFactory, VaultFactory
from tests.fieldapp.models import Child, Note, NoteProxy, Tenant, TextSalt, UuidTenant, Vault

pytestmark = pytest.mark.django_db

SECRET = "correct horse battery staple"
DATA = {"token": "correct horse battery staple", "list": [1]}


#: Nothing is being saved, so the error does not say that something was not.
NOT_YET = (
    r"fieldapp\.\w+\.\w+ cannot be copied or pickled yet: .*'tenant', which is not set or not saved"
    r"\. Set that first, or save this row"
)


@pytest.fixture
def note(tenant: Tenant) -> Note:
    NoteFactory(tenant=tenant, secret=SECRET, data=DATA)
    return Note.objects.get()


def _through_pickle(instance: Any) -> Any:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(instance, protocol)
        assert b"correct horse" not in data
    return pickle.loads(data)


COPIES: dict[str, Any] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": _through_pickle,
    "twice": lambda instance: copy.copy(_through_pickle(copy.deepcopy(instance))),
}


def _holds_no_plaintext(instance: Any) -> bool:
    for value in instance.__dict__.values():
        if isinstance(value, Ciphertext):
            slots = [getattr(value, name, None) for name in Ciphertext.__slots__]
            assert SECRET not in map(str, slots)
            assert "correct horse" not in repr(slots)
    return "correct horse" not in repr(instance.__dict__)


@pytest.mark.parametrize("make", COPIES.values(), ids=list(COPIES))
class TestCopies:
    @pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
    def test_a_copy_carries_ciphertext(self, note: Note, make: Any, read: bool) -> None:
        token = stored(note, "secret")
        if read:
            assert (note.secret, note.data) == (SECRET, DATA)

        copied = make(note)

        assert _holds_no_plaintext(copied)
        assert (copied.secret, copied.data) == (SECRET, DATA)
        copied.save()
        assert stored(note, "secret") == token

    def test_no_copy_decrypts(self, note: Note, make: Any, crypto: Counter[str]) -> None:
        make(note)
        assert not crypto
        assert note.secret
        crypto.clear()
        make(note)
        assert not crypto

    def test_a_copy_of_an_edited_row(self, note: Note, make: Any) -> None:
        note.secret = SECRET + "!"
        note.data["list"].append(2)

        copied = make(note)

        assert _holds_no_plaintext(copied)
        assert copied.secret == SECRET + "!"
        assert copied.data["list"] == [1, 2]
        assert Note.objects.get().secret == SECRET
        copied.save()
        assert Note.objects.get().secret == SECRET + "!"
        assert Note.objects.get().data["list"] == [1, 2]

    def test_a_copy_does_not_change_with_the_original(self, note: Note, make: Any) -> None:
        copied = make(note)
        note.secret = "changed"
        note.data["list"].append(2)
        assert (copied.secret, copied.data) == (SECRET, DATA)
        copied.data["list"].append(3)
        assert note.data["list"] == [1, 2]

    def test_a_copy_of_a_moved_row(self, note: Note, other_tenant: Tenant, make: Any) -> None:
        for read in (False, True):
            moved = Note.objects.get()
            if read:
                assert moved.secret
            moved.tenant = other_tenant
            copied = make(moved)
            assert (copied.secret, copied.data) == (SECRET, DATA)
            assert copied.tenant == other_tenant
        copied.save()
        read_again = Note.objects.get()
        assert (read_again.tenant, read_again.secret) == (other_tenant, SECRET)
        moved.save()
        assert Note.objects.get().secret == SECRET

    def test_a_copy_of_a_copied_move_saves_its_secret_alone(
        self, note: Note, other_tenant: Tenant, make: Any
    ) -> None:
        assert note.secret
        note.tenant = other_tenant
        copied = make(note)
        copied.secret = "new"
        copied.save(update_fields=["secret"])
        read = Note.objects.get()
        assert (read.secret, read.data) == ("new", DATA)
        assert read.tenant != other_tenant

    @pytest.mark.parametrize(
        "queryset",
        [Note.objects.defer("secret"), Note.objects.only("note"), Note.objects.only("secret")],
        ids=["secret", "all but a note", "all but secret"],
    )
    def test_a_copy_of_a_deferred_row(self, note: Note, make: Any, queryset: Any) -> None:
        deferred = queryset.get()
        fields = deferred.get_deferred_fields()
        copied = make(deferred)
        assert copied.get_deferred_fields() == fields
        assert (copied.secret, copied.data) == (SECRET, DATA)
        copied.save()
        assert Note.objects.get().secret == SECRET

    def test_a_copy_of_a_new_row(self, tenant: Tenant, make: Any) -> None:
        copied = make(Note(tenant=tenant, secret=SECRET, data=DATA))
        assert _holds_no_plaintext(copied)
        assert (copied.secret, copied.data) == (SECRET, DATA)
        copied.save()
        assert Note.objects.get().secret == SECRET

    def test_a_new_row_without_a_tenant_is_not_copied_in_clear(self, db: None, make: Any) -> None:
        with pytest.raises(MissingSaltError, match=NOT_YET):
            make(Note(secret=SECRET))
        assert make(Note(note="n")).secret is None

    def test_a_copy_of_an_unreadable_row(self, note: Note, make: Any) -> None:
        store(note, "secret", stored(note, "secret")[:-4])
        copied = make(Note.objects.get())
        with pytest.raises(TamperedError):
            copied.secret  # noqa: B018

    def test_a_copy_of_a_null(self, tenant: Tenant, make: Any) -> None:
        copied = make(Note.objects.create(tenant=tenant, secret=None, data=None))
        assert (copied.secret, copied.data) == (None, None)

    def test_a_copy_of_a_bound_row(self, owner: UuidTenant, make: Any) -> None:
        VaultFactory(tenant=owner, secret=SECRET, host="h")
        copied = make(Vault.objects.select_related("tenant").get())
        assert copied.secret == SECRET
        copied.host = "i"
        copied.save()
        assert Vault.objects.get().secret == SECRET

    def test_a_copy_of_a_child_and_a_proxy(self, note: Note, make: Any) -> None:
        ChildFactory(secret=SECRET, inner=SECRET)
        child = Child.objects.get()
        assert (child.secret, child.inner) == (SECRET, SECRET)
        copied = make(child)
        assert _holds_no_plaintext(copied)
        assert (copied.secret, copied.inner) == (SECRET, SECRET)
        assert make(NoteProxy.objects.get()).secret == SECRET

    def test_a_copy_of_a_v1_row(self, tenant: Tenant, make: Any) -> None:
        with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1"}):
            made = NoteFactory(tenant=tenant, secret=SECRET)
        copied = make(Note.objects.get(pk=made.pk))
        assert copied.secret == SECRET


def test_pickled_querysets(note: Note) -> None:
    evaluated = Note.objects.all()
    assert [row.secret for row in evaluated] == [SECRET]
    data = pickle.dumps(evaluated)
    assert b"correct horse" not in data
    assert [row.secret for row in pickle.loads(data)] == [SECRET]

    query = pickle.loads(pickle.dumps(Note.objects.filter(secret__isnull=False).query))
    again = Note.objects.all()
    again.query = query
    assert again.get().secret == SECRET


@pytest.mark.parametrize("make", COPIES.values(), ids=list(COPIES))
def test_copies_of_a_ciphertext(note: Note, make: Any) -> None:
    value = Note.objects.values_list("secret", flat=True).get()
    assert value.decrypt(note.tenant_id) == SECRET
    copied = make(value)
    assert copied == value
    assert copied.decrypt(note.tenant_id) == SECRET
    assert copied.key_id == value.key_id


@override_settings(CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}})
def test_a_cache_holds_no_plaintext(note: Note) -> None:
    assert note.secret
    cache = caches["default"]
    cache.clear()
    cache.set("note", note)
    cache.set("values", list(Note.objects.values("secret", "data")))
    assert b"correct horse" not in b"".join(cache._cache.values())
    assert cache.get("note").secret == SECRET
    assert cache.get("values")[0]["data"].decrypt(note.tenant_id) == DATA
    cache.clear()


# -- what can be printed ------------------------------------------------------------------------


def test_nothing_that_is_printed_holds_the_plaintext(
    note: Note, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert note.secret
    assert note.data
    fresh = Note(tenant=note.tenant, secret=SECRET, data=DATA)
    token = stored(note, "secret")
    with caplog.at_level(logging.DEBUG):
        for one in (note, fresh):
            logging.getLogger("a").warning("%s %r %r", one, one, one.__dict__)
            print(vars(one), pprint.pformat(vars(one)))  # noqa: T201
    seen = [caplog.text, *capsys.readouterr()]
    for one in (note, fresh):
        seen += [repr(one), str(one), repr(vars(one)), repr(one.__reduce_ex__(2))]
        seen += [repr(one.__getstate__()), repr(model_to_dict(one)), repr(one._state.__dict__)]
    seen += [repr(list(Note.objects.values())), str(Note.objects.values_list("secret").get())]
    text = " ".join(seen)
    assert "correct horse" not in text
    assert token[12:] not in text


def test_a_masked_repr_tells_the_key_and_no_more(note: Note) -> None:
    token = stored(note, "secret")
    assert repr(note.__dict__["secret"]) == f"<Ciphertext {token[3:11]}>"
    assert str(note.__dict__["secret"]) == f"<Ciphertext {token[3:11]}>"
    assert repr(Note(secret="s").__dict__["secret"]) == "<Ciphertext>"


def test_what_serialises_anything_gets_no_plaintext(note: Note) -> None:
    assert note.secret
    values = Note.objects.values("secret").get()
    with pytest.raises(TypeError):
        json.dumps(values, cls=DjangoJSONEncoder)
    assert "correct horse" not in json.dumps(values, default=str)
    with pytest.raises(TypeError):
        json.dumps(model_to_dict(note, ["secret", "data"]))


def test_value_from_object_gives_ciphertext_of_every_row(note: Note, tenant: Tenant) -> None:
    assert note.secret
    fresh = Note(tenant=tenant, secret=SECRET, data=DATA)
    deferred = Note.objects.defer("secret").get()
    for one in (note, fresh, deferred):
        for name in ("secret", "data"):
            value = Note._meta.get_field(name).value_from_object(one)
            assert type(value) is Ciphertext
            assert "correct horse" not in repr([value, value._value, value._text])
    assert Note._meta.get_field("secret").value_from_object(Note()) is None


def test_no_display_method_shows_the_value(note: Note) -> None:
    field = Note._meta.get_field("secret")
    assert field.value_to_string(note) == stored(note, "secret")
    assert not hasattr(note, "get_secret_display")


def test_text_salts_survive_a_pickle(db: None) -> None:
    TextSaltFactory(secret=SECRET, realm="north")
    row = _through_pickle(TextSalt.objects.only("secret").get())
    assert (row.secret, row.realm) == (SECRET, "north")
