import base64
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, models
from django.db.models import Case, Count, F, Max, OuterRef, Prefetch, Subquery, Value, When
from django.db.models.functions import Coalesce
from django.db.models.signals import post_init
from django.test import override_settings
from django.test.utils import isolate_apps

from encryption import (
    DecryptionError,
    MalformedTokenError,
    TamperedError,
    UnknownKeyError,
    UnsupportedFormatError,
    WrongKeyError,
    conf,
    decrypt,
    encrypt,
)
from encryption.core.derivation import MasterKey
from encryption.descriptors import Ciphertext
from encryption.fields import EncryptedTextField
from tests.encryption.database import store, stored
from tests.fieldapp.factories import (
    LateSaltFactory,
    NoteFactory,
    TextSaltFactory,
    UuidTenantFactory,
    VaultFactory,
)
from tests.fieldapp.models import Holder, LateSalt, Note, Tenant, TextSalt, UuidTenant, Vault

pytestmark = pytest.mark.django_db


# -- lazily, and once ---------------------------------------------------------------------------


def test_loading_derives_no_key_and_decrypts_nothing(
    tenant: Tenant, crypto: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    NoteFactory.create_batch(3, tenant=tenant)
    VaultFactory.create_batch(3)
    monkeypatch.setattr(conf, "_master_keys", {})
    conf.reset()
    crypto.clear()

    for model in (Note, Vault):
        manager = model._base_manager
        rows = [
            *manager.all(),
            *manager.iterator(chunk_size=2),
            *manager.only("tenant"),
            *manager.in_bulk().values(),
            *manager.select_related("tenant"),
        ]
        assert len(rows) == 15
        assert [str(row) for row in rows]
        list(manager.values())
        list(manager.values_list("secret", "data"))
        rows[0].refresh_from_db()
        rows[0].save()

    assert not crypto


def test_a_value_is_decrypted_when_it_is_read_and_only_once(
    tenant: Tenant, crypto: Counter[str]
) -> None:
    NoteFactory.create_batch(2, tenant=tenant)
    first, second = Note.objects.all()
    conf.reset()
    crypto.clear()

    text = first.secret
    assert first.secret is text
    assert first.data is first.data
    assert (crypto["decrypt"], crypto["encrypt"]) == (2, 0)
    assert second.secret != text
    assert crypto["decrypt"] == 3
    assert crypto["derive"] == 1


def test_the_key_of_each_tenant_is_derived_once(crypto: Counter[str]) -> None:
    for tenant in UuidTenantFactory.create_batch(3):
        VaultFactory.create_batch(2, tenant=tenant)
    conf.reset()
    crypto.clear()
    for vault in Vault.objects.all():
        assert vault.secret
        assert vault.data
    assert (crypto["decrypt"], crypto["derive"]) == (12, 3)


def test_the_class_attribute_is_the_descriptor() -> None:
    assert Note.secret.field is Note._meta.get_field("secret")


def test_the_salt_may_come_after_the_secret() -> None:
    made = LateSaltFactory(secret="s")
    assert LateSalt.objects.get().secret == "s"
    assert LateSalt.objects.only("secret").get().secret == "s"
    assert LateSalt.objects.defer("code").get().secret == "s"
    assert LateSalt.objects.defer("owner", "secret").get().secret == "s"
    assert made.secret == "s"


# -- what cannot be read ------------------------------------------------------------------------


def _flip(token: str, place: int) -> str:
    head, payload = token[:12], token[12:]
    data = bytearray(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    data[place] ^= 1
    return head + base64.urlsafe_b64encode(bytes(data)).rstrip(b"=").decode()


DAMAGE: dict[str, tuple[Callable[[str], str], type[DecryptionError]]] = {
    "cut at the end": (lambda token: token[:-1], DecryptionError),
    "cut by four": (lambda token: token[:-4], TamperedError),
    "cut to the prefix": (lambda token: token[:12], MalformedTokenError),
    "cut at the front": (lambda token: token[1:], MalformedTokenError),
    "cut inside of the key id": (lambda token: token[:7], MalformedTokenError),
    "only the version": (lambda token: "v2:", MalformedTokenError),
    "empty": (lambda token: "", MalformedTokenError),
    "blank": (lambda token: " ", MalformedTokenError),
    "upper-cased": (str.upper, MalformedTokenError),
    "payload lower-cased": (lambda token: token[:12] + token[12:].lower(), DecryptionError),
    "upper-cased version": (lambda token: "V2" + token[2:], MalformedTokenError),
    "padded": (lambda token: token + "=", MalformedTokenError),
    "padded twice": (lambda token: token + "==", MalformedTokenError),
    "newline behind": (lambda token: token + "\n", MalformedTokenError),
    "space behind": (lambda token: token + " ", MalformedTokenError),
    "space before": (lambda token: " " + token, MalformedTokenError),
    "quoted": (lambda token: f'"{token}"', MalformedTokenError),
    "other alphabet": (lambda token: token[:20] + "+" + token[21:], MalformedTokenError),
    "no ASCII": (lambda token: token[:20] + "\u00e9" + token[21:], MalformedTokenError),
    "more behind": (lambda token: token + "AAAA", TamperedError),
    "commitment flipped": (lambda token: _flip(token, 0), WrongKeyError),
    "iv flipped": (lambda token: _flip(token, 16), TamperedError),
    "ciphertext flipped": (lambda token: _flip(token, 28), TamperedError),
    "tag flipped": (lambda token: _flip(token, -1), TamperedError),
    "unknown key": (lambda token: "v2:00000000:" + token[12:], UnknownKeyError),
    "unknown version": (lambda token: "v3" + token[2:], UnsupportedFormatError),
    "version 10": (lambda token: "v10" + token[2:], UnsupportedFormatError),
    "plaintext": (lambda token: "the password itself", MalformedTokenError),
    "short base64": (lambda token: "c2VjcmV0", MalformedTokenError),
    "base64 as long as v1": (lambda token: "A" * 40, TamperedError),
}


@pytest.mark.parametrize(("damage", "error"), DAMAGE.values(), ids=list(DAMAGE))
class TestDamage:
    def test_only_that_attribute_of_that_row_raises(
        self, tenant: Tenant, damage: Callable[[str], str], error: type[DecryptionError]
    ) -> None:
        notes = NoteFactory.create_batch(3, tenant=tenant, secret="0123456789", data=[1])
        poisoned = notes[1]
        content = damage(stored(poisoned, "secret"))
        assert content != stored(poisoned, "secret")
        store(poisoned, "secret", content)

        for note in Note.objects.order_by("pk"):
            assert note.data == [1]
            assert repr(note.__dict__)
            if note.pk != poisoned.pk:
                assert note.secret == "0123456789"
                continue
            with pytest.raises(error) as caught:
                note.secret  # noqa: B018
            if error is not DecryptionError:
                assert type(caught.value) is error
            message = str(caught.value)
            assert message.startswith(f"fieldapp.Note.secret (pk={note.pk}): ")
            assert "0123456789" not in message
            assert len(content) < 15 or content not in message
            with pytest.raises(error) as again:
                note.secret  # noqa: B018
            assert str(again.value) == message

    def test_an_unread_secret_is_saved_as_it_is(
        self, tenant: Tenant, damage: Callable[[str], str], error: type[DecryptionError]
    ) -> None:
        made = NoteFactory(tenant=tenant, secret="0123456789")
        content = damage(stored(made, "secret"))
        store(made, "secret", content)
        note = Note.objects.get()
        note.note = "changed"
        note.save()
        note.save(update_fields=["note"])
        Note.objects.update(note="again")
        assert stored(made, "secret") == content

    def test_after_a_failed_read_nothing_else_is_saved(
        self, tenant: Tenant, damage: Callable[[str], str], error: type[DecryptionError]
    ) -> None:
        made = NoteFactory(tenant=tenant, secret="0123456789")
        content = damage(stored(made, "secret"))
        store(made, "secret", content)
        note = Note.objects.get()
        with pytest.raises(error):
            note.secret  # noqa: B018
        note.save()
        assert stored(made, "secret") == content

    def test_a_new_value_can_be_written(
        self, tenant: Tenant, damage: Callable[[str], str], error: type[DecryptionError]
    ) -> None:
        made = NoteFactory(tenant=tenant, secret="0123456789")
        store(made, "secret", damage(stored(made, "secret")))
        note = Note.objects.get()
        note.secret = "new"
        note.save()
        assert Note.objects.get().secret == "new"


@pytest.mark.skipif(connection.vendor != "sqlite", reason="other databases hold text as text")
def test_bytes_in_the_column_are_no_token(tenant: Tenant) -> None:
    store(NoteFactory(tenant=tenant), "secret", b"\x80\x00secret bytes")
    note = Note.objects.get()
    assert "secret bytes" not in repr(note.__dict__)
    with pytest.raises(MalformedTokenError):
        note.secret  # noqa: B018
    assert list(Note.objects.values_list("secret"))


def test_with_another_master_key_only_new_rows_are_read(tenant: Tenant, other_key: str) -> None:
    old = NoteFactory(tenant=tenant, secret="old")
    with override_settings(ENCRYPTION={"MASTER_KEY": other_key}):
        new = NoteFactory(tenant=tenant, secret="new")
        assert Note.objects.get(pk=new.pk).secret == "new"
        with pytest.raises(UnknownKeyError, match="MASTER_ENCRYPTION_KEY_FALLBACKS"):
            Note.objects.get(pk=old.pk).secret  # noqa: B018
        note = Note.objects.get(pk=old.pk)
        token = stored(old, "secret")
        note.save()
        assert stored(old, "secret") == token

    assert Note.objects.get(pk=old.pk).secret == "old"
    with pytest.raises(UnknownKeyError):
        Note.objects.get(pk=new.pk).secret  # noqa: B018


def test_a_fallback_reads_and_the_primary_writes(tenant: Tenant, other_key: str) -> None:
    with override_settings(ENCRYPTION={"MASTER_KEY": other_key}):
        made = NoteFactory(tenant=tenant, secret="old")
    token = stored(made, "secret")

    with override_settings(ENCRYPTION={"MASTER_KEY_FALLBACKS": [other_key]}):
        note = Note.objects.get()
        assert note.secret == "old"
        note.save()
        assert stored(made, "secret") == token
        note.secret = "new"
        note.save()
    assert Note.objects.get().secret == "new"
    assert stored(made, "secret")[3:11] != MasterKey(other_key).key_id


def test_a_format_that_is_no_longer_read(tenant: Tenant) -> None:
    with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1"}):
        NoteFactory(tenant=tenant, secret="s")
    assert Note.objects.get().secret == "s"
    with (
        override_settings(ENCRYPTION={"READ_FORMATS": ["v2"]}),
        pytest.raises(UnsupportedFormatError, match="READ_FORMATS"),
    ):
        Note.objects.get().secret  # noqa: B018


def test_a_v1_token_under_another_tenant_or_key(
    tenant: Tenant, other_tenant: Tenant, other_key: str
) -> None:
    with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1"}):
        made = NoteFactory(tenant=tenant, secret="s")
        store(NoteFactory(tenant=other_tenant), "secret", stored(made, "secret"))
    with pytest.raises(TamperedError, match="v1"):
        Note.objects.get(tenant=other_tenant).secret  # noqa: B018
    with (
        override_settings(ENCRYPTION={"MASTER_KEY": other_key}),
        pytest.raises(TamperedError, match="master key"),
    ):
        Note.objects.get(tenant=tenant).secret  # noqa: B018


@pytest.mark.parametrize("place", ["key id", "commitment", "iv", "ciphertext", "tag"])
def test_a_changed_token_is_an_error_and_breaks_no_list(tenant: Tenant, place: str) -> None:
    bad, good = NoteFactory(tenant=tenant, secret="bad"), NoteFactory(tenant=tenant, secret="good")
    token = stored(bad, "secret")
    # Behind the prefix of 12 characters, 3 bytes are 4: 16 of commitment, 12 of iv, 3 of text.
    at = {"key id": 5, "commitment": 14, "iv": 40, "ciphertext": 51, "tag": -3}[place]
    other = "0" if token[at] != "0" else "1"
    store(bad, "secret", f"{token[:at]}{other}{token[at + 1 :]}")

    notes = list(Note.objects.order_by("pk"))

    assert notes[1].secret == good.secret == "good"
    assert notes[0].note == bad.note
    with pytest.raises(DecryptionError):
        notes[0].secret  # noqa: B018


class TestSwappedInSql:
    """A token is worthless in any place but its own."""

    def test_between_tenants(self, tenant: Tenant, other_tenant: Tenant) -> None:
        mine, theirs = NoteFactory(tenant=tenant), NoteFactory(tenant=other_tenant)
        token = stored(mine, "secret")
        store(mine, "secret", stored(theirs, "secret"))
        store(theirs, "secret", token)
        for note in Note.objects.all():
            with pytest.raises(WrongKeyError, match="another tenant"):
                note.secret  # noqa: B018

    def test_the_tenant_of_a_row(self, tenant: Tenant, other_tenant: Tenant) -> None:
        note = NoteFactory(tenant=tenant)
        store(note, "tenant", other_tenant.pk)
        with pytest.raises(WrongKeyError):
            Note.objects.get().secret  # noqa: B018

    def test_between_columns(self, tenant: Tenant) -> None:
        note = NoteFactory(tenant=tenant, secret='"s"', data="d")
        token = stored(note, "secret")
        store(note, "secret", stored(note, "data"))
        store(note, "data", token)
        note = Note.objects.get()
        for name in ("secret", "data"):
            with pytest.raises(TamperedError, match="another column"):
                getattr(note, name)

    def test_between_tables(self, tenant: Tenant) -> None:
        note, late = NoteFactory(tenant=tenant), LateSaltFactory(owner=tenant, code="a")
        store(late, "secret", stored(note, "secret"))
        with pytest.raises(TamperedError):
            LateSalt.objects.get().secret  # noqa: B018

    def test_between_bound_rows_of_one_tenant(self, owner: UuidTenant) -> None:
        one, two = VaultFactory.create_batch(2, tenant=owner)
        store(one, "secret", stored(two, "secret"))
        store(one, "data", stored(two, "data"))
        vault = Vault.objects.get(pk=one.pk)
        for name in ("secret", "data"):
            with pytest.raises(TamperedError, match="row"):
                getattr(vault, name)

    def test_under_another_host(self, owner: UuidTenant) -> None:
        vault = VaultFactory(tenant=owner, host="good.example")
        for host in ("evil.example", "", None, "GOOD.example", "good.example "):
            store(vault, "host", host)
            read = Vault.objects.get()
            with pytest.raises(TamperedError):
                read.secret  # noqa: B018
            assert read.data == vault.data
        store(vault, "host", "good.example")
        assert Vault.objects.get().secret == vault.secret

    def test_back_in_time_is_the_one_thing_that_is_not_noticed(self, tenant: Tenant) -> None:
        note = NoteFactory(tenant=tenant, secret="old")
        token = stored(note, "secret")
        note.secret = "new"
        note.save()
        store(note, "secret", token)
        assert Note.objects.get().secret == "old"


# -- values, annotations, aggregates, unions, raw SQL -------------------------------------------


@pytest.fixture
def note(tenant: Tenant) -> Note:
    return NoteFactory(tenant=tenant, secret="the password", data={"pin": 4711})


def _is_ciphertext_of(note: Note, value: Any) -> bool:
    assert type(value) is Ciphertext
    assert value.token == stored(note, "secret")
    assert value.key_id == value.token[3:11]
    assert "password" not in f"{value!r} {value!s} {value}"
    assert value.token[12:] not in repr(value)
    return bool(value.decrypt(note.tenant_id) == "the password")


def test_values_give_ciphertexts(note: Note) -> None:
    (row,) = Note.objects.values()
    assert _is_ciphertext_of(note, row["secret"])
    assert row["data"].decrypt(note.tenant_id) == {"pin": 4711}
    (row,) = Note.objects.values("secret", tenant_name=F("tenant__name"))
    assert _is_ciphertext_of(note, row["secret"])
    (row,) = Tenant.objects.values("note__secret")
    assert _is_ciphertext_of(note, row["note__secret"])


def test_values_list_gives_ciphertexts(note: Note) -> None:
    assert _is_ciphertext_of(note, Note.objects.values_list("secret", flat=True).get())
    assert _is_ciphertext_of(note, Note.objects.values_list("id", "secret").get()[1])
    assert _is_ciphertext_of(note, Note.objects.values_list("secret", named=True).get().secret)
    assert _is_ciphertext_of(note, Note.objects.values_list("secret").distinct().get()[0])


def test_annotations_give_ciphertexts(note: Note) -> None:
    Holder.objects.create(note=note)
    ids = Note.objects.filter(pk=OuterRef("note_id")).values("secret")
    for expression in (
        F("note__secret"),
        Coalesce(F("note__secret"), F("note__secret")),
        Subquery(ids),
        Max("note__secret"),
        Case(When(note__isnull=False, then=F("note__secret"))),
    ):
        holder = Holder.objects.annotate(x=expression).get()
        assert _is_ciphertext_of(note, holder.x)
        assert _is_ciphertext_of(note, Holder.objects.values_list(expression, flat=True).get())
    assert _is_ciphertext_of(note, Note.objects.annotate(x=F("secret")).get().x)


def test_an_annotation_is_no_way_into_another_row(note: Note) -> None:
    annotated = Note.objects.annotate(x=F("secret")).get()
    with pytest.raises(DecryptionError):
        annotated.x.decrypt(note.tenant_id + 1)
    assert annotated.secret == "the password"


def test_aggregates_give_ciphertexts(note: Note) -> None:
    assert _is_ciphertext_of(note, Note.objects.aggregate(x=Max("secret"))["x"])
    assert Note.objects.aggregate(x=Count("secret"))["x"] == 1
    assert Note.objects.filter(pk=0).aggregate(x=Max("secret"))["x"] is None


def test_unions_give_ciphertexts(note: Note) -> None:
    pairs = Note.objects.values_list("id", "secret")
    (row,) = pairs.union(pairs)
    assert _is_ciphertext_of(note, row[1])
    (read,) = Note.objects.all().union(Note.objects.filter(pk=note.pk))
    assert read.secret == "the password"


def test_a_null_is_none_everywhere(tenant: Tenant) -> None:
    NoteFactory(tenant=tenant, secret=None, data=None)
    assert Note.objects.values_list("secret", "data").get() == (None, None)
    assert Note.objects.annotate(x=F("secret")).get().x is None
    assert Note.objects.only("secret").get().secret is None
    assert Note.objects.defer("secret").get().secret is None


def test_a_raw_cursor_gives_the_token(note: Note) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT secret FROM fieldapp_note")
        ((token,),) = cursor.fetchall()
    assert decrypt(token, note.tenant_id, context="fieldapp.note.secret") == "the password"


def test_raw_querysets(note: Note, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(1):
        (read,) = Note.objects.raw("SELECT * FROM fieldapp_note")
        assert (read.secret, read.data) == ("the password", {"pin": 4711})
    with django_assert_num_queries(1):
        (read,) = Note.objects.raw("SELECT secret, tenant_id, id FROM fieldapp_note")
        assert read.secret == "the password"
    with django_assert_num_queries(1):
        (read,) = Note.objects.raw(
            "SELECT id, tenant_id, secret AS data, data AS secret FROM fieldapp_note"
        )
        with pytest.raises(TamperedError):
            read.secret  # noqa: B018
    with django_assert_num_queries(2):
        (read,) = Note.objects.raw("SELECT id FROM fieldapp_note")
        assert read.secret == "the password"
    (read,) = Note.objects.raw("SELECT id, secret AS copied FROM fieldapp_note")
    assert read.copied == stored(note, "secret")


def test_dates_counts_and_existence_do_not_mind(note: Note) -> None:
    assert Note.objects.exists()
    assert Note.objects.count() == 1
    assert Note.objects.filter(secret__isnull=False).contains(note)
    assert list(Note.objects.order_by("?")) == [note]
    assert list(Note.objects.values("tenant").annotate(n=Count("secret"))) == [
        {"tenant": note.tenant_id, "n": 1}
    ]
    assert "secret" in str(Note.objects.all().query)


# -- the Ciphertext -----------------------------------------------------------------------------


def test_a_ciphertext_decrypts_with_what_its_row_is_bound_to(owner: UuidTenant) -> None:
    vault = VaultFactory(tenant=owner, host="h", secret="s")
    value = Vault.objects.values_list("secret", flat=True).get()

    assert value.decrypt(owner.pk, bound_to=(str(vault.pk), "h")) == "s"
    assert value.decrypt(str(owner.pk), bound_to=(str(vault.pk), "h")) == "s"
    for bound in ((), (str(vault.pk),), ("h", str(vault.pk)), (str(vault.pk), None)):
        with pytest.raises(TamperedError):
            value.decrypt(owner.pk, bound_to=bound)
    with pytest.raises(WrongKeyError):
        value.decrypt(UuidTenantFactory().pk, bound_to=(str(vault.pk), "h"))


def test_ciphertexts_are_equal_when_their_tokens_are(tenant: Tenant) -> None:
    NoteFactory.create_batch(2, tenant=tenant, secret="same")
    one, two = Note.objects.order_by("pk").values_list("secret", flat=True)
    again = Note.objects.order_by("pk").values_list("secret", flat=True)[0]

    assert one == again
    assert hash(one) == hash(again)
    assert one != two
    assert one != one.token
    assert one != "same"


def test_a_ciphertext_of_v1_has_no_key_id(tenant: Tenant) -> None:
    with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1"}):
        NoteFactory(tenant=tenant, secret="s")
    value = Note.objects.values_list("secret", flat=True).get()
    assert value.key_id is None
    assert value.decrypt(tenant.pk) == "s"
    assert value.token not in repr(value)


# -- only, defer, and how many queries that costs -----------------------------------------------


#: What is deferred, and how many queries reading the secret then takes.
DEFERRED: dict[str, tuple[Any, int]] = {
    "nothing": (Note.objects.all(), 0),
    "all but secret and tenant": (Note.objects.only("secret", "tenant"), 0),
    "all but tenant": (Note.objects.only("tenant"), 1),
    "all but a note": (Note.objects.only("note"), 1),
    "all": (Note.objects.only("pk"), 1),
    "secret": (Note.objects.defer("secret"), 1),
    "secret and tenant": (Note.objects.defer("secret", "tenant"), 1),
    "others": (Note.objects.defer("note", "data"), 0),
    "nothing, bound": (Vault.objects.all(), 0),
    "all but secret, bound": (Vault.objects.only("secret"), 0),
    "only twice": (Vault.objects.only("secret").only("secret", "name"), 0),
    "only of two": (
        Vault.objects.select_related("tenant").only("secret", "tenant__name"),
        0,
    ),
    "all but a name, bound": (Vault.objects.only("name"), 1),
    "all but tenant, bound": (Vault.objects.only("tenant"), 1),
    "secret, bound": (Vault.objects.defer("secret"), 1),
    "host": (Vault.objects.defer("host"), 0),
    "tenant": (Vault.objects.defer("tenant"), 0),
    "tenant and host": (Vault.objects.defer("tenant").defer("host", "name"), 0),
    "only and defer": (Vault.objects.only("secret").defer("tenant"), 0),
    "secret and all it needs": (Vault.objects.defer("secret", "tenant", "host"), 1),
}


@pytest.mark.parametrize(("queryset", "reads"), DEFERRED.values(), ids=list(DEFERRED))
def test_a_deferred_read_takes_one_query(
    queryset: Any, reads: int, django_assert_num_queries: Any
) -> None:
    (NoteFactory if queryset.model is Note else VaultFactory)(secret="s", data=[1])
    with django_assert_num_queries(1):
        row = queryset.all().get()
    with django_assert_num_queries(reads):
        assert row.secret == "s"
        assert row.secret == "s"
        assert row.tenant_id


@pytest.mark.parametrize("order", [["secret", "host"], ["host", "secret"]])
def test_what_is_deferred_for_one_secret_costs_another_nothing(
    order: list[str], django_assert_num_queries: Any
) -> None:
    VaultFactory(secret="s", host="h", data=[1])
    vault = Vault.objects.defer("secret", "host").get()
    with django_assert_num_queries(0):
        assert vault.data == [1]
    vault = Vault.objects.defer("secret", "host").get()
    for name in order:
        getattr(vault, name)
    assert vault.get_deferred_fields() == set()
    vault.pk, vault._state.adding = uuid.uuid4(), True
    vault.save()
    for row in Vault.objects.all():
        assert (row.secret, row.host, row.data) == ("s", "h", [1])


@pytest.mark.parametrize(
    "queryset",
    [Note.objects.only("secret"), Note.objects.defer("tenant")],
    ids=["only", "defer"],
)
def test_a_deferred_tenant_takes_one_query_under_any_manager(
    queryset: Any, django_assert_max_num_queries: Any
) -> None:
    NoteFactory(secret="s", data=[1])
    row = queryset.all().get()
    with django_assert_max_num_queries(1):
        assert row.secret == "s"
        assert row.tenant_id


def test_a_second_secret_needs_no_second_look_for_the_tenant(
    tenant: Tenant, django_assert_num_queries: Any
) -> None:
    NoteFactory(tenant=tenant, secret="s", data=[1])
    note = Note.objects.only("note").get()
    with django_assert_num_queries(2):
        assert (note.secret, note.data) == ("s", [1])
        assert note.tenant_id == tenant.pk


def test_a_deferred_secret_is_read_under_the_tenant_of_now(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    made = NoteFactory(tenant=tenant, secret="s", data=[1])
    for queryset in (Note.objects.defer("secret"), Note.objects.only("note")):
        note = queryset.get()
        moved = Note.objects.get()
        moved.tenant = other_tenant if moved.tenant == tenant else tenant
        moved.save()
        assert note.secret == "s"
        note.save()
        assert Note.objects.get(pk=made.pk).secret == "s"
        assert Note.objects.get(pk=made.pk).data == [1]


def test_a_deferred_secret_of_an_edited_tenant(tenant: Tenant, other_tenant: Tenant) -> None:
    NoteFactory(tenant=tenant, secret="s")
    note = Note.objects.defer("secret").get()
    note.tenant = other_tenant
    assert note.secret == "s"
    assert note.tenant == other_tenant


def test_a_deferred_secret_of_a_deleted_row(tenant: Tenant) -> None:
    NoteFactory(tenant=tenant)
    for queryset in (Note.objects.defer("secret"), Note.objects.only("note")):
        note = queryset.get()
        Note.objects.filter(pk=note.pk).delete()
        with pytest.raises(Note.DoesNotExist):
            note.secret  # noqa: B018
        NoteFactory(tenant=tenant)


def test_an_unsaved_instance_has_nothing_to_load(tenant: Tenant) -> None:
    note = Note(tenant=tenant, secret="s")
    assert note.secret == "s"
    assert Note(tenant=tenant).secret is None
    del note.__dict__["secret"]
    with pytest.raises(AttributeError, match="unsaved"):
        note.secret  # noqa: B018


def test_deferred_fields_are_known_to_django(tenant: Tenant) -> None:
    NoteFactory(tenant=tenant)
    note = Note.objects.defer("secret").get()
    assert note.get_deferred_fields() == {"secret"}
    assert note.secret
    assert note.get_deferred_fields() == set()


@pytest.mark.skipif(not hasattr(models, "FETCH_PEERS"), reason="newer Django fetches for peers")
class TestFetchModes:
    def test_peers_take_one_query(self, django_assert_num_queries: Any) -> None:
        NoteFactory.create_batch(3)
        texts = {note.secret for note in Note.objects.all()}
        notes = list(Note.objects.only("note").fetch_mode(models.FETCH_PEERS))
        with django_assert_num_queries(1):
            assert {note.secret for note in notes} == texts
            assert all(note.tenant_id for note in notes)

    def test_a_deleted_peer(self) -> None:
        NoteFactory.create_batch(3)
        notes = list(Note.objects.defer("secret").fetch_mode(models.FETCH_PEERS))
        Note.objects.filter(pk=notes[1].pk).delete()
        assert notes[0].secret
        assert notes[2].secret
        with pytest.raises(Note.DoesNotExist):
            notes[1].secret  # noqa: B018

    def test_a_poisoned_peer(self) -> None:
        made = NoteFactory.create_batch(3)
        store(made[1], "secret", "no token")
        notes = list(Note.objects.order_by("pk").defer("secret").fetch_mode(models.FETCH_PEERS))
        assert (notes[0].secret, notes[2].secret) == (made[0].secret, made[2].secret)
        with pytest.raises(MalformedTokenError):
            notes[1].secret  # noqa: B018

    def test_a_blocked_fetch(self) -> None:
        from django.core.exceptions import FieldFetchBlocked  # noqa: PLC0415

        NoteFactory()
        note = Note.objects.defer("secret").fetch_mode(models.FETCH_RAISE).get()
        with pytest.raises(FieldFetchBlocked):
            note.secret  # noqa: B018


# -- related rows -------------------------------------------------------------------------------


def test_select_related_over_a_missing_row(note: Note, django_assert_num_queries: Any) -> None:
    Holder.objects.create()
    Holder.objects.create(note=note)
    with django_assert_num_queries(1):
        empty, full = Holder.objects.select_related("note__tenant").order_by("pk")
        assert empty.note is None
        assert full.note.secret == "the password"
        assert full.note.tenant == note.tenant


def test_select_related_of_some_fields(note: Note, django_assert_num_queries: Any) -> None:
    Holder.objects.create(note=note)
    queryset = Holder.objects.select_related("note")
    with django_assert_num_queries(1):
        assert queryset.only("note__secret", "note__tenant").get().note.secret == "the password"
    with django_assert_num_queries(2):
        assert queryset.only("note__secret").get().note.secret == "the password"
    with django_assert_num_queries(2):
        assert queryset.defer("note__secret").get().note.secret == "the password"


def test_prefetched_rows(owner: UuidTenant, django_assert_num_queries: Any) -> None:
    VaultFactory(tenant=owner, secret="s")
    for lookup in ("vaults", Prefetch("vaults", queryset=Vault.objects.only("secret"))):
        with django_assert_num_queries(2):
            (read,) = UuidTenant.objects.prefetch_related(lookup)
            assert [vault.secret for vault in read.vaults.all()] == ["s"]


def test_reverse_and_forward_relations(note: Note) -> None:
    holder = Holder.objects.create(note=note)
    assert Holder.objects.get().note.secret == "the password"
    assert note.tenant.note_set.get().secret == "the password"
    assert Note.objects.get(holders=holder).secret == "the password"


def test_in_bulk_iterator_earliest_and_first(note: Note) -> None:
    assert Note.objects.in_bulk([note.pk])[note.pk].secret == "the password"
    assert [row.secret for row in Note.objects.iterator(chunk_size=1)] == ["the password"]
    assert Note.objects.earliest("pk").secret == "the password"
    assert Note.objects.first().secret == Note.objects.last().secret == "the password"
    assert Note.objects.all()[0].secret == "the password"


def test_another_database(other_database: str, note: Note) -> None:
    tenant = Tenant.objects.using(other_database).create(pk=note.tenant_id + 7)
    other = Note(tenant=tenant, secret="elsewhere", data=[2])
    other.save(using=other_database)

    read = Note.objects.using(other_database).get()
    assert (read.secret, read.data) == ("elsewhere", [2])
    assert Note.objects.using(other_database).defer("secret").get().secret == "elsewhere"
    assert Note.objects.using(other_database).only("secret").get().secret == "elsewhere"
    assert Note.objects.get().secret == "the password"
    read.refresh_from_db()
    assert read.secret == "elsewhere"
    assert stored(read, "secret", using=other_database).startswith("v2:")


def test_a_row_copied_to_another_database(other_database: str, owner: UuidTenant) -> None:
    vault = VaultFactory(tenant=owner, secret="s", data=[1], host="h")
    owner.save(using=other_database)
    read = Vault.objects.get()
    read.save(using=other_database)

    copied = Vault.objects.using(other_database).get()
    assert (copied.secret, copied.data) == ("s", [1])
    assert stored(copied, "secret", other_database) == stored(vault, "secret")


# -- reading while the instance is being made ---------------------------------------------------


def test_a_receiver_of_post_init_can_read() -> None:
    seen = []

    def look(sender: object, instance: TextSalt, **kwargs: object) -> None:
        seen.append(instance.secret)

    TextSaltFactory(secret="s")
    post_init.connect(look, sender=TextSalt)
    try:
        row = TextSalt.objects.get()
        TextSalt(realm="a", secret="hand-made")
        row.refresh_from_db()
        TextSalt.objects.only("realm", "secret").get()
    finally:
        post_init.disconnect(look, sender=TextSalt)
    assert seen[:2] == ["s", "hand-made"]
    assert seen[-1] == "s"
    assert row.secret == "s"


def test_an_overridden_init_can_read() -> None:
    with isolate_apps("tests.fieldapp"):

        class Remembering(models.Model):
            secret = EncryptedTextField(salt_field="realm")
            realm = models.CharField(max_length=50)

            class Meta:
                app_label = "fieldapp"

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.was = self.secret

    token = encrypt("s", "north", context="fieldapp.remembering.secret")
    secret = Remembering._meta.get_field("secret").from_db_value(token, None, connection)
    row = Remembering.from_db("default", ["id", "secret", "realm"], [1, secret, "north"])
    assert row.was == row.secret == "s"
    assert Remembering(secret="new").was == "new"


def test_value_is_no_expression_to_compare_with(note: Note) -> None:
    read = Note.objects.annotate(one=Value(1)).get()
    assert (read.one, read.secret) == (1, "the password")
