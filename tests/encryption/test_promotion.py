"""A child of multi-table inheritance that is made of its parent's instance.

The usual way is ``child.__dict__.update(parent.__dict__)``, and Django's state of the parent's
instance comes along with it: what that was loaded with, for another class.
"""

import copy
import pickle
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import models
from django.test.utils import isolate_apps

from encryption import EncryptionError, WrongKeyError
from encryption.fields import BlindIndexField, EncryptedTextField
from tests.encryption.database import store, stored, tables
from tests.fieldapp.factories import ParentFactory
from tests.fieldapp.models import BareParent, Child, Parent, SecretChild, Tenant

with isolate_apps("tests.fieldapp"):

    class Account(models.Model):
        id = models.UUIDField(primary_key=True, default=uuid.uuid4)
        team = models.CharField(max_length=20)
        host = models.CharField(max_length=20, default="h")
        token = EncryptedTextField(salt_field="team", bound_to=("id", "host"), null=True)
        token_index = BlindIndexField("token")

        class Meta:
            app_label = "fieldapp"

    class Keyed(Account):
        """It depends on more than its parent does."""

        label = models.CharField(max_length=20, default="l")
        realm = models.CharField(max_length=20, default="r")
        inner = EncryptedTextField(salt_field="team", bound_to=("label",), null=True)
        other = EncryptedTextField(salt_field="realm", bound_to=("host",), null=True)

        class Meta:
            app_label = "fieldapp"

    class Slight(Account):
        """It depends on nothing more."""

        inner = EncryptedTextField(salt_field="team", null=True)

        class Meta:
            app_label = "fieldapp"

    class Deeper(Keyed):
        floor = models.CharField(max_length=20, default="f")
        deepest = EncryptedTextField(salt_field="floor", bound_to=("realm",), null=True)

        class Meta:
            app_label = "fieldapp"

    class Side(models.Model):
        side_id = models.AutoField(primary_key=True)
        area = models.CharField(max_length=20)
        beside = EncryptedTextField(salt_field="area", null=True)

        class Meta:
            app_label = "fieldapp"

    class Both(Account, Side):
        """The sources of its second parent stand elsewhere among its own."""

        own = EncryptedTextField(salt_field="area", null=True)

        class Meta:
            app_label = "fieldapp"


@pytest.fixture
def accounts(transactional_db: None) -> Iterator[Account]:
    with tables(Account, Slight, Keyed, Deeper, Side, Both):
        yield Account.objects.create(team="north", token="s")


def _loaded(account: Account) -> Account:
    return Account.objects.get()


def _read(account: Account) -> Account:
    loaded = Account.objects.get()
    assert loaded.token == "s"
    return loaded


def _made(account: Account) -> Account:
    return account


def _promoted(cls: Any, parent: Any, **values: Any) -> Any:
    (link,) = [
        field.name
        for field in cls._meta.parents.values()
        if field and issubclass(type(parent), field.remote_field.model)
    ]
    child = cls(**{link: parent})
    child.__dict__.update(parent.__dict__)
    for name, value in values.items():
        setattr(child, name, value)
    return child


@pytest.mark.parametrize("get", [_loaded, _read, _made])
@pytest.mark.parametrize("read_first", [False, True], ids=["unread", "read"])
def test_a_child_that_depends_on_more(
    accounts: Account, get: Callable[[Account], Account], read_first: bool
) -> None:
    token = stored(accounts, "token")
    parent = get(accounts)
    child = _promoted(Keyed, parent, inner="i", other="o")
    if read_first:
        assert (child.token, child.inner, child.other) == ("s", "i", "o")
        assert child.account_ptr.token == "s"
    child.save()
    assert (child.token, child.inner, child.other) == ("s", "i", "o")
    assert (parent.token, parent.team) == ("s", "north")

    after = Keyed.objects.get()
    assert (after.token, after.inner, after.other) == ("s", "i", "o")
    assert stored(after, "token") == token
    assert Account.objects.filter(team="north", token="s").count() == 1
    after.team, after.label, after.realm = "south", "m", "q"
    after.save()
    after = Keyed.objects.get()
    assert (after.token, after.inner, after.other) == ("s", "i", "o")

    # And both instances go on being used.
    child.refresh_from_db()
    child.host = "elsewhere"
    child.save()
    after = Keyed.objects.get()
    assert (after.token, after.inner, after.other) == ("s", "i", "o")


def test_the_parents_instance_goes_its_own_way(accounts: Account) -> None:
    parent = Account.objects.get()
    child = _promoted(Keyed, parent, inner="i")
    child.token = "changed"
    child.save()
    assert Keyed.objects.get().token == "changed"
    assert parent.token in ("s", "changed")
    parent.refresh_from_db()
    assert parent.token == "changed"
    parent.token = "again"
    parent.save()
    assert (Keyed.objects.get().token, Keyed.objects.get().inner) == ("again", "i")


def test_a_move_in_the_same_save(accounts: Account) -> None:
    token = stored(accounts, "token")
    child = _promoted(Keyed, Account.objects.get(), inner="i", team="south", host="there")
    child.save()
    after = Keyed.objects.get()
    assert (after.token, after.inner, after.team) == ("s", "i", "south")
    assert stored(after, "token") != token


@pytest.mark.parametrize("get", [_loaded, _read, _made])
def test_a_child_that_depends_on_no_more(
    accounts: Account, get: Callable[[Account], Account]
) -> None:
    token = stored(accounts, "token")
    child = _promoted(Slight, get(accounts), inner="i")
    child.save()
    after = Slight.objects.get()
    assert (after.token, after.inner) == ("s", "i")
    assert stored(after, "token") == token


def test_over_two_tables(accounts: Account) -> None:
    token = stored(accounts, "token")
    keyed = _promoted(Keyed, Account.objects.get(), inner="i", other="o")
    keyed.save()
    deeper = Deeper(keyed_ptr=keyed)
    deeper.__dict__.update(Keyed.objects.get().__dict__)
    deeper.deepest = "d"
    deeper.save()
    after = Deeper.objects.get()
    assert (after.token, after.inner, after.other, after.deepest) == ("s", "i", "o", "d")
    assert stored(after, "token") == token


@pytest.mark.parametrize("read_first", [False, True], ids=["unread", "read"])
def test_of_a_second_parent(accounts: Account, read_first: bool) -> None:
    side = Side.objects.create(area="east", beside="b")
    token = stored(side, "beside")
    both = _promoted(Both, Side.objects.get(), team="north", token="t", own="o")
    if read_first:
        assert (both.token, both.beside, both.own) == ("t", "b", "o")
    both.save()
    after = Both.objects.get()
    assert (after.token, after.beside, after.own) == ("t", "b", "o")
    assert stored(side, "beside") == token


def test_a_parents_secret_that_cannot_be_read_stays(accounts: Account) -> None:
    other = Account.objects.create(team="east", token="x")
    store(accounts, "token", stored(other, "token"))
    parent = Account.objects.get(pk=accounts.pk)
    child = _promoted(Keyed, parent, inner="i")
    child.save()
    after = Keyed.objects.get()
    assert after.inner == "i"
    assert stored(after, "token") == stored(other, "token")
    with pytest.raises(WrongKeyError):
        after.token  # noqa: B018


def test_a_parent_that_is_made_of_its_child(accounts: Account) -> None:
    """The other way round, which leaves the child's own secrets where they are."""
    _promoted(Keyed, accounts, inner="i", other="o").save()
    token = stored(accounts, "token")
    child = Keyed.objects.get()
    assert child.token == "s"
    parent = Account()
    parent.__dict__.update(child.__dict__)
    assert parent.token == "s"
    parent.save()
    assert stored(parent, "token") == token
    parent = Account.objects.get()
    assert parent.token == "s"
    after = Keyed.objects.get()
    assert (after.token, after.inner, after.other) == ("s", "i", "o")


def test_the_dict_of_a_class_that_is_no_relative_is_refused(accounts: Account) -> None:
    side = Side()
    side.__dict__.update(Account.objects.get().__dict__)
    with pytest.raises(EncryptionError, match="the __dict__ of an instance of another class"):
        side.save()
    assert not Side.objects.exists()


def test_a_ciphertext_alone_is_of_another_row(accounts: Account) -> None:
    made = Keyed.objects.create(team="north", token="t")
    for child in (made, Keyed.objects.get(), Keyed(team="north")):
        loaded = Account.objects.get(pk=accounts.pk)
        assert loaded.token == "s"
        for foreign in (copy.copy(loaded.__dict__["token"]), accounts.__dict__["token"]):
            child.__dict__["token"] = foreign
            with pytest.raises(EncryptionError, match="Ciphertext of another row"):
                child.save()
        child.__dict__["token"] = copy.copy(loaded.__dict__["token"])
        with pytest.raises(EncryptionError, match="Ciphertext of another row"):
            child.token  # noqa: B018
    assert Keyed.objects.get().token == "t"


def test_a_copy_of_a_promoted_child(accounts: Account) -> None:
    """Its state, since models of a test cannot be found by their names."""
    for read in (False, True):
        child = _promoted(Keyed, Account.objects.get(), inner="i")
        if read:
            assert child.token == "s"
        state = child.__getstate__()
        assert state["token"]._sources is None or len(state["token"]._sources) == 5
        copied = Keyed()
        copied.__dict__.update(state)
        assert (copied.token, copied.inner) == ("s", "i")
    copied.save()
    assert (Keyed.objects.get().token, Keyed.objects.get().inner) == ("s", "i")


@pytest.mark.django_db
def test_children_that_depend_on_the_same(tenant: Tenant) -> None:
    made = ParentFactory(tenant=tenant, secret="outer")
    token = stored(made, "secret")
    child = _promoted(Child, Parent.objects.get(), inner="inner")
    child.save()
    after = Child.objects.get()
    assert (after.secret, after.inner) == ("outer", "inner")
    assert stored(after, "secret") == token

    promoted = _promoted(Child, Parent.objects.get())
    for copied in (copy.copy(promoted), pickle.loads(pickle.dumps(promoted))):
        assert copied.secret == "outer"

    BareParent.objects.create(tenant=tenant)
    _promoted(SecretChild, BareParent.objects.get(), inner="inner").save()
    assert SecretChild.objects.get().inner == "inner"
