"""The engine, against the database of the run: what it writes, and what it leaves alone."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.db import connection, models, transaction
from django.db.models.signals import post_save, pre_save
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from encryption import conf
from encryption.core.counts import COUNTS
from encryption.core.resealing import UnverifiedError
from encryption.fields import EncryptedTextField
from encryption.pages import Table
from encryption.registry import EncryptedColumn, encrypted_columns
from encryption.rotation import ColumnReport, Options, Rotation
from encryption.status import column_status
from encryption.swaps import go_by_index, swap
from tests.encryption.database import damaged, store, stored, tables
from tests.fieldapp.factories import NoteFactory, SecretChildFactory, TenantFactory, VaultFactory
from tests.fieldapp.models import Adopted, Note, SecretChild, Tenant, Vault

OLD = "the old master key, at least 32 characters long"
NEW = "the new master key, at least 32 characters long"

Use = Callable[..., None]


@pytest.fixture
def use(settings: Settings) -> Use:
    def use(primary: str, *fallbacks: str, **options: Any) -> None:
        settings.ENCRYPTION = {
            "MASTER_KEY": primary,
            "MASTER_KEY_FALLBACKS": list(fallbacks),
            **options,
        }

    use(OLD)
    return use


def column_of(label: str) -> EncryptedColumn:
    (column,) = encrypted_columns(label)
    return column


def rotate(label: str, **options: Any) -> ColumnReport:
    return Rotation(column_of(label), "default", Options(**options)).run()


def rotate_model(label: str) -> list[ColumnReport]:
    return [Rotation(column, "default").run() for column in encrypted_columns(label)]


def key_id() -> str:
    return conf.get_keyring().primary.key_id


@contextmanager
def between_read_and_write(action: Callable[[], None]) -> Iterator[None]:
    """Do something once a page was read and encrypted anew, just before it is written."""
    original = Rotation._write
    done: list[None] = []

    def write(self: Rotation, changes: Any) -> Any:
        if not done:
            done.append(None)
            action()
        return original(self, changes)

    Rotation._write = write  # type: ignore[method-assign]
    try:
        yield
    finally:
        Rotation._write = original  # type: ignore[method-assign]
    assert done


# -- what it does -----------------------------------------------------------------------------


def test_every_row_is_readable_with_the_new_key_alone(db: None, use: Use) -> None:
    notes = NoteFactory.create_batch(7)
    vaults = VaultFactory.create_batch(7)
    use(NEW, OLD)
    for label in ("fieldapp.Note", "fieldapp.Vault"):
        for report in rotate_model(label):
            assert (report.rotated, report.failed, report.changed) == (7, 0, 0)
    use(NEW)
    for row in (*notes, *vaults):
        fresh = type(row).objects.get(pk=row.pk)
        assert (fresh.secret, fresh.data) == (row.secret, row.data)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8])
def test_pages_neither_skip_nor_repeat(db: None, use: Use, batch_size: int) -> None:
    NoteFactory.create_batch(7)
    VaultFactory.create_batch(7)
    use(NEW, OLD)
    for label in ("fieldapp.Note.secret", "fieldapp.Vault.secret"):
        report = rotate(label, batch_size=batch_size)
        assert (report.examined, report.rotated) == (7, 7)
        assert column_status(column_of(label), "default").stale == 0


def test_a_finished_run_issues_no_update(db: None, use: Use) -> None:
    NoteFactory.create_batch(3)
    use(NEW, OLD)
    rotate_model("fieldapp.Note")
    with CaptureQueriesContext(connection) as queries:
        reports = rotate_model("fieldapp.Note")
    assert [report.rotated for report in reports] == [0, 0]
    assert [query["sql"] for query in queries if not query["sql"].startswith("SELECT")] == []
    assert len(queries) == 2


def test_nobody_is_told_and_no_time_is_touched(db: None, use: Use) -> None:
    note = NoteFactory()
    before = Note.objects.get(pk=note.pk).updated_at
    use(NEW, OLD)
    heard: list[object] = []

    def listener(sender: object, **kwargs: object) -> None:
        heard.append(sender)

    pre_save.connect(listener)
    post_save.connect(listener)
    try:
        rotate_model("fieldapp.Note")
    finally:
        pre_save.disconnect(listener)
        post_save.disconnect(listener)
    assert heard == []
    assert Note.objects.get(pk=note.pk).updated_at == before


def test_null_stays_null(db: None, use: Use) -> None:
    note = NoteFactory(secret=None, data=None)
    use(NEW, OLD)
    assert [report.examined for report in rotate_model("fieldapp.Note")] == [0, 0]
    assert stored(note, "secret") is None


def test_empty_and_falsy_values(db: None, use: Use) -> None:
    notes = [NoteFactory(secret="", data=data) for data in ([], 0, False, "")]
    use(NEW, OLD)
    rotate_model("fieldapp.Note")
    use(NEW)
    assert [Note.objects.get(pk=note.pk).data for note in notes] == [[], 0, False, ""]
    assert [Note.objects.get(pk=note.pk).secret for note in notes] == [""] * 4


def test_large_tokens_are_written_in_statements_that_the_server_takes(db: None, use: Use) -> None:
    tenant = TenantFactory()
    notes = [NoteFactory(tenant=tenant, secret=f"{n}" + "x" * 600_000) for n in range(4)]
    use(NEW, OLD)
    assert rotate("fieldapp.Note.secret").rotated == 4
    use(NEW)
    assert Note.objects.get(pk=notes[3].pk).secret == notes[3].secret


# -- formats ----------------------------------------------------------------------------------


def test_v1_becomes_v2(db: None, use: Use) -> None:
    use(OLD, WRITE_FORMAT="v1")
    vault = VaultFactory()
    assert ":" not in stored(vault, "secret")
    use(NEW, OLD)
    report = rotate("fieldapp.Vault.secret")
    assert report.from_keys == {"v1": 1}
    rotate("fieldapp.Vault.data")
    use(NEW, READ_FORMATS=["v2"])
    fresh = Vault.objects.get(pk=vault.pk)
    assert (fresh.secret, fresh.data) == (vault.secret, vault.data)


def test_keys_that_are_derived_ahead_are_not_derived_again(db: None, use: Use) -> None:
    """So that forked processes share them: one PBKDF2 for each tenant, and none later."""
    use(OLD, WRITE_FORMAT="v1")
    NoteFactory.create_batch(3)
    use(NEW, OLD)
    (column,) = encrypted_columns("fieldapp.Note.secret")
    before = COUNTS.derivations
    assert Rotation(column, "default", Options(batch_size=2)).derive_ahead()
    assert COUNTS.derivations == before + 6  # of each tenant v1's key and the one to come
    assert rotate("fieldapp.Note.secret").rotated == 3
    assert COUNTS.derivations == before + 6


def test_keys_are_not_derived_ahead_for_more_tenants_than_are_kept(db: None, use: Use) -> None:
    use(OLD, WRITE_FORMAT="v1")
    NoteFactory.create_batch(3)
    use(OLD)
    NoteFactory.create_batch(3)  # these name their key, and need no PBKDF2
    use(NEW, OLD, KEY_CACHE_SIZE=3)
    (column,) = encrypted_columns("fieldapp.Note.secret")
    assert Rotation(column, "default").derive_ahead()
    use(NEW, OLD, KEY_CACHE_SIZE=2)
    before = COUNTS.derivations
    assert not Rotation(column, "default", Options(batch_size=10)).derive_ahead()
    assert COUNTS.derivations == before


def test_v2_becomes_v1(db: None, use: Use) -> None:
    vaults = VaultFactory.create_batch(3)
    use(NEW, OLD, WRITE_FORMAT="v1")
    assert rotate("fieldapp.Vault.secret").rotated == 3
    assert rotate("fieldapp.Vault.secret").rotated == 0
    use(NEW, WRITE_FORMAT="v1", READ_FORMATS=["v1"])
    for vault in vaults:
        assert Vault.objects.get(pk=vault.pk).secret == vault.secret


def test_v1_under_the_old_key_becomes_v1_under_the_new(db: None, use: Use) -> None:
    use(OLD, WRITE_FORMAT="v1")
    note = NoteFactory()
    use(NEW, OLD, WRITE_FORMAT="v1")
    assert rotate("fieldapp.Note.secret").rotated == 1
    assert rotate("fieldapp.Note.secret").rotated == 0
    use(NEW, WRITE_FORMAT="v1")
    assert Note.objects.get(pk=note.pk).secret == note.secret


def test_plaintext_is_encrypted_where_it_is_allowed(db: None, use: Use) -> None:
    row = Adopted.objects.create(tenant=TenantFactory(), secret="", data=None)
    other = Adopted.objects.create(tenant=row.tenant, secret="written by the new code")
    plain = "pässword that was never encrypted"
    store(row, "secret", plain)
    store(row, "data", '{"key": "plain"}')
    report = rotate("fieldapp.Adopted.secret")
    assert report.from_keys == {"plaintext": 1}
    assert rotate("fieldapp.Adopted.data").rotated == 1
    assert plain not in stored(row, "secret")
    fresh = Adopted.objects.get(pk=row.pk)
    assert (fresh.secret, fresh.data) == (plain, {"key": "plain"})
    assert Adopted.objects.get(pk=other.pk).secret == "written by the new code"


def test_empty_plaintext(db: None, use: Use) -> None:
    row = Adopted.objects.create(tenant=TenantFactory(), secret="x")
    store(row, "secret", "")
    assert rotate("fieldapp.Adopted.secret").rotated == 1
    assert stored(row, "secret").startswith("v2:")
    assert Adopted.objects.get(pk=row.pk).secret == ""


# -- others write meanwhile -------------------------------------------------------------------


def test_a_value_that_is_saved_between_read_and_write_stays(db: None, use: Use) -> None:
    note, other = NoteFactory.create_batch(2)

    def edit() -> None:
        mine = Note.objects.get(pk=note.pk)
        mine.secret = "typed at noon"
        mine.save()

    use(NEW, OLD)
    with between_read_and_write(edit):
        report = rotate("fieldapp.Note.secret")
    assert (report.rotated, report.changed) == (1, 1)
    use(NEW)
    assert Note.objects.get(pk=note.pk).secret == "typed at noon"
    assert Note.objects.get(pk=other.pk).secret == other.secret


def test_a_row_that_is_saved_under_the_old_key_meanwhile_gets_its_turn(db: None, use: Use) -> None:
    note = NoteFactory()

    def edit() -> None:
        use(OLD)
        mine = Note.objects.get(pk=note.pk)
        mine.secret = "typed at noon"
        mine.save()
        use(NEW, OLD)

    use(NEW, OLD)
    with between_read_and_write(edit):
        report = rotate("fieldapp.Note.secret")
    assert (report.rotated, report.changed) == (1, 1)
    use(NEW)
    assert Note.objects.get(pk=note.pk).secret == "typed at noon"


def test_a_row_that_is_deleted_meanwhile(db: None, use: Use) -> None:
    note, _ = NoteFactory.create_batch(2)
    use(NEW, OLD)
    with between_read_and_write(lambda: Note.objects.filter(pk=note.pk).delete() and None):
        report = rotate("fieldapp.Note.secret")
    assert (report.rotated, report.changed, report.failed) == (1, 1, 0)


def test_a_row_that_moves_to_another_tenant_meanwhile(db: None, use: Use) -> None:
    note = NoteFactory()
    tenant = TenantFactory()

    def move() -> None:
        mine = Note.objects.get(pk=note.pk)
        mine.tenant = tenant
        mine.save()

    use(NEW, OLD)
    with between_read_and_write(move):
        rotate("fieldapp.Note.secret")
    assert Note.objects.get(pk=note.pk).secret == note.secret


def test_a_bound_field_that_changes_under_a_v1_token(db: None, use: Use) -> None:
    """A v1 token is bound to no host, so it stays the same while the row's host changes."""
    use(OLD, WRITE_FORMAT="v1")
    vault, other = VaultFactory.create_batch(2)

    def change_host() -> None:
        mine = Vault.objects.get(pk=vault.pk)
        mine.host = "elsewhere.example.com"
        mine.save()

    use(NEW, OLD)
    with between_read_and_write(change_host):
        report = rotate("fieldapp.Vault.secret")
    assert (report.rotated, report.changed, report.failed) == (2, 1, 0)
    use(NEW)
    assert Vault.objects.get(pk=vault.pk).secret == vault.secret
    assert Vault.objects.get(pk=vault.pk).host == "elsewhere.example.com"
    assert Vault.objects.get(pk=other.pk).secret == other.secret


def test_tokens_are_compared_byte_for_byte(db: None, use: Use) -> None:
    """Also by MariaDB with a collation that takes "a" and "A" for equal."""
    for row, name in ((NoteFactory(), "note"), (VaultFactory(), "vault")):
        token = stored(row, "secret")
        store(row, "secret", token.swapcase())
        swap(connection, column_of(f"fieldapp.{name}.secret"), [(row.pk, token, "other")])
        assert stored(row, "secret") == token.swapcase()
        swap(connection, column_of(f"fieldapp.{name}.secret"), [(row.pk, token.swapcase(), "new")])
        assert stored(row, "secret") == "new"


@pytest.mark.parametrize("label", ["fieldapp.Note.secret", "fieldapp.Vault.secret"])
def test_other_columns_are_written_with_the_token_or_not_at_all(db: None, label: str) -> None:
    is_note = "Note" in label
    NoteFactory.create_batch(2) if is_note else VaultFactory.create_batch(2)
    rows = (Note if is_note else Vault)._base_manager.order_by("pk")  # as the database orders them
    name = "note" if is_note else "name"
    also = [rows[0]._meta.get_field(name)]
    tokens = [stored(row, "secret") for row in rows]
    swaps = [(rows[0].pk, tokens[0], "new", "mine"), (rows[1].pk, "not this one", "new", "mine")]
    swap(connection, column_of(label), swaps, also)
    assert [stored(row, "secret") for row in rows] == ["new", tokens[1]]
    assert [stored(row, name) for row in rows] == ["mine", getattr(rows[1], name)]
    read = Table(column_of(label), "default", also=also).reread([row.pk for row in rows])
    assert [read[row.pk][:3] for row in rows] == [
        (rows[0].pk, "new", "mine"),
        (rows[1].pk, tokens[1], getattr(rows[1], name)),
    ]


@pytest.mark.parametrize(
    "old", [["\x1f", "a\x1fb"], [""], ["", ""], ['a"b\\,{}', "NULL"], ["%s", "'"]]
)
@pytest.mark.parametrize("label", ["fieldapp.Note.secret", "fieldapp.Vault.secret"])
def test_any_text_can_be_swapped(db: None, label: str, old: list[str]) -> None:
    factory = NoteFactory if "Note" in label else VaultFactory
    factory.create_batch(len(old))
    rows = list(factory._meta.model._base_manager.order_by("pk"))
    for row, text in zip(rows, old, strict=True):
        store(row, "secret", text)
    new = [f"{text}\x1f{text}" for text in old]
    pairs = zip(rows, old, new, strict=True)
    swaps = [(row.pk, before, after) for row, before, after in pairs]
    assert swap(connection, column_of(label), swaps) == len(old)
    assert [stored(row, "secret") for row in rows] == new
    assert swap(connection, column_of(label), [(pk, b, a) for pk, a, b in swaps]) == len(old)
    assert [stored(row, "secret") for row in rows] == old


@pytest.mark.parametrize("write_format", ["v1", "v2"])
def test_what_reads_back_otherwise_is_not_written(
    db: None, use: Use, monkeypatch: pytest.MonkeyPatch, write_format: str
) -> None:
    notes = NoteFactory.create_batch(2)
    before = [stored(note, "secret") for note in notes]
    use(NEW, OLD, WRITE_FORMAT=write_format)

    class Broken:
        """Turns every text into another one."""

        def __init__(self, key: bytes) -> None:
            self.decrypt = (cipher := AESGCM(key)).decrypt
            self.encrypt = lambda iv, data, aad: cipher.encrypt(iv, data + b"!", aad)

    monkeypatch.setattr("encryption.core.derivation.AESGCM", Broken)
    with pytest.raises(UnverifiedError, match="reads back as another value") as caught:
        rotate("fieldapp.Note.secret")
    assert notes[0].secret not in str(caught.value)
    assert [stored(note, "secret") for note in notes] == before


def test_what_the_database_stores_otherwise_is_told(
    db: None, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Say, a trigger that trims: what reads back is not what was written."""
    notes = NoteFactory.create_batch(2)
    use(NEW, OLD)

    def trimming(connection: Any, column: Any, swaps: Any, also: Any) -> int:
        return swap(connection, column, [(*one[:2], one[2][:-1]) for one in swaps], also)

    monkeypatch.setattr("encryption.rotation.swap", trimming)
    with pytest.raises(UnverifiedError, match=r"something else \(rows: 2\)") as caught:
        rotate("fieldapp.Note.secret")
    assert notes[0].secret not in str(caught.value)
    use(OLD)
    assert [Note.objects.get(pk=note.pk).secret for note in notes] == [n.secret for n in notes]


# -- rows that cannot be read -----------------------------------------------------------------


@pytest.mark.parametrize("fallback", [(), (OLD,)])
def test_a_poisoned_row_is_told_and_left(db: None, use: Use, fallback: tuple[str, ...]) -> None:
    notes = NoteFactory.create_batch(5)
    token = stored(notes[2], "secret")
    poison = damaged(token)
    store(notes[2], "secret", poison)
    use(NEW, OLD)
    report = rotate("fieldapp.Note.secret", batch_size=2)
    assert (report.rotated, report.failed) == (4, 1)
    (failure,) = report.failures
    assert failure.label == "fieldapp.Note.secret"
    assert failure.pk == str(notes[2].pk)
    assert failure.reason.startswith("TamperedError: ")
    assert poison not in failure.reason
    assert stored(notes[2], "secret") == poison
    store(notes[2], "secret", token)
    assert rotate("fieldapp.Note.secret").rotated == 1


def test_what_is_no_text_is_a_failure_of_its_row(db: None, use: Use) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("only SQLite stores bytes in a text column")
    note, _ = NoteFactory.create_batch(2)
    store(note, "secret", b"\xff\x00")
    use(NEW, OLD)
    report = rotate("fieldapp.Note.secret")
    assert (report.rotated, report.failed) == (1, 1)
    assert stored(note, "secret") == b"\xff\x00"


def test_failures_are_counted_whole_and_kept_in_bounds(
    db: None, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encryption.rotation.MOST_FAILURES_KEPT", 2)
    NoteFactory.create_batch(5)
    use(NEW)
    report = rotate("fieldapp.Note.secret", batch_size=2)
    assert (report.failed, len(report.failures)) == (5, 2)
    assert report.failures[0].reason.startswith("UnknownKeyError: ")


# -- options ----------------------------------------------------------------------------------


def test_a_dry_run_decrypts_all_and_writes_nothing(db: None, use: Use) -> None:
    stale, _ = NoteFactory.create_batch(2)
    use(NEW, OLD)
    NoteFactory()
    before = stored(stale, "secret")
    report = rotate("fieldapp.Note.secret", dry_run=True)
    assert (report.examined, report.rotated, report.failed) == (3, 2, 0)
    assert stored(stale, "secret") == before


def test_a_dry_run_finds_damage_in_current_rows(db: None, use: Use) -> None:
    note = NoteFactory()
    token = stored(note, "secret")
    store(note, "secret", damaged(token))
    assert rotate("fieldapp.Note.secret").examined == 0
    assert rotate("fieldapp.Note.secret", dry_run=True).failed == 1


def test_bounds_leave_the_rest_to_others(db: None, use: Use) -> None:
    notes = NoteFactory.create_batch(6)
    use(NEW, OLD)
    report = rotate("fieldapp.Note.secret", after=notes[1].pk, upto=notes[3].pk, batch_size=1)
    assert report.rotated == 2
    rotated = [stored(note, "secret").startswith(f"v2:{key_id()}") for note in notes]
    assert rotated == [False, False, True, True, False, False]


def test_it_stops_after_the_page(db: None, use: Use) -> None:
    NoteFactory.create_batch(5)
    use(NEW, OLD)
    report = rotate("fieldapp.Note.secret", batch_size=2, should_stop=lambda: True)
    assert (report.stopped, report.rotated) == (True, 2)


def test_the_rate_is_kept(db: None, use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    NoteFactory.create_batch(6)
    use(NEW, OLD)
    slept: list[float] = []
    # Of the module alone: a clock that stands still is not for all that waits in this process.
    clock = SimpleNamespace(sleep=slept.append, monotonic=lambda: 0.0)
    monkeypatch.setattr("encryption.rotation.time", clock)
    pages: list[int] = []
    rotate(
        "fieldapp.Note.secret", rate_limit=2, on_page=lambda report: pages.append(report.rotated)
    )
    assert pages == [2, 4, 6]
    # Nobody waits really here, so each page is due one second after the one before.
    assert slept == [1, 2, 3]


def test_other_keys_can_be_given(db: None, use: Use) -> None:
    note = NoteFactory()
    use(NEW, OLD)
    keyring = conf.get_keyring()
    use(OLD)
    Rotation(column_of("fieldapp.Note.secret"), "default", None, keyring).run()
    assert stored(note, "secret").startswith(f"v2:{keyring.primary.key_id}:")


# -- shapes of models -------------------------------------------------------------------------


def test_a_column_whose_tenant_stands_in_the_parents_table(db: None, use: Use) -> None:
    child = SecretChildFactory()
    use(NEW, OLD)
    assert rotate("fieldapp.SecretChild.inner").rotated == 1
    use(NEW)
    assert SecretChild.objects.get(pk=child.pk).inner == child.inner


class Hidden(models.Manager["Shy"]):
    def get_queryset(self) -> "models.QuerySet[Shy]":
        return super().get_queryset().none()


class Shy(models.Model):
    """Its managers hide every row, and its primary key is a text."""

    code = models.CharField(max_length=20, primary_key=True)
    secret = EncryptedTextField(salt_field="code")

    objects = Hidden()

    class Meta:
        app_label = "shy"


class Pair(models.Model):
    pk = models.CompositePrimaryKey("left", "right")
    left = models.IntegerField()
    right = models.UUIDField(default=uuid.uuid4)
    tenant = models.ForeignKey(Tenant, models.CASCADE, db_constraint=False)
    secret = EncryptedTextField(salt_field="tenant", bound_to=("left",))

    class Meta:
        app_label = "shy"


def test_managers_that_hide_rows_and_text_as_primary_key(transactional_db: None, use: Use) -> None:
    codes = ["a", "B", "ä-%s", "it's", '"%"', "z"]
    column = EncryptedColumn(Shy, Shy._meta.get_field("secret"))
    with tables(Shy):
        if connection.vendor == "mysql":  # another collation than the connection's
            with connection.cursor() as cursor:
                cursor.execute(
                    "ALTER TABLE shy_shy CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
                )
        Shy._base_manager.bulk_create(Shy(code=code, secret=f"of {code}") for code in codes)
        use(NEW, OLD)
        report = Rotation(column, "default", Options(batch_size=2)).run()
        assert (report.examined, report.rotated) == (6, 6)
        use(NEW)
        for code in codes:
            assert Shy._base_manager.get(pk=code).secret == f"of {code}"


def test_composite_primary_keys(transactional_db: None, use: Use) -> None:
    column = EncryptedColumn(Pair, Pair._meta.get_field("secret"))
    tenant = TenantFactory()
    with tables(Pair):
        for number in range(7):
            Pair.objects.create(left=number // 3, tenant=tenant, secret=f"number {number}")
        use(NEW, OLD)
        report = Rotation(column, "default", Options(batch_size=2)).run()
        assert (report.examined, report.rotated, report.failed) == (7, 7, 0)
        use(NEW)
        assert {row.secret for row in Pair.objects.all()} == {f"number {n}" for n in range(7)}


# -- how it asks ------------------------------------------------------------------------------


def explained(sql: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {sql}")
        return "\n".join(str(line) for line in cursor.fetchall())


@pytest.mark.parametrize("label", ["fieldapp.Note.secret", "fieldapp.Vault.secret"])
def test_every_query_goes_by_the_primary_key(transactional_db: None, use: Use, label: str) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has no other way to go by a primary key")
    model = Note if "Note" in label else Vault
    first = NoteFactory() if model is Note else VaultFactory()
    token = stored(first, "secret")
    many = [model(tenant_id=first.tenant_id) for _ in range(20_000)]
    for row in many:
        row.pk = uuid.uuid4() if model is Vault else None
    model._base_manager.bulk_create(many, batch_size=2_000)
    table = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET secret = %s WHERE secret IS NULL", [token])
        cursor.execute(f"ANALYZE {'TABLE' if connection.vendor == 'mysql' else ''} {table}")
    use(NEW, OLD)
    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        pages = Rotation(column_of(label), "default").table
        rows = pages.stale(conf.get_keyring())
        page = next(pages.pages(rows, 1_000))
        next(pages.pages(rows.filter(pk__gt=page[-1][0]), 1_000))
        next(pages.pages(pages.nameless().filter(pk__gt=page[-1][0]), 1_000), None)
        go_by_index(connection)
        swap(connection, column_of(label), [(row[0], row[1], row[1] + "A") for row in page])
        pages.reread([row[0] for row in page])
    asked = [one["sql"] for one in queries if one["sql"].startswith(("SELECT", "UPDATE"))]
    assert {sql.split()[0] for sql in asked} == {"SELECT", "UPDATE"}
    for sql in asked:
        with transaction.atomic():
            if "ANY" in sql or " IN (" in sql:
                go_by_index(connection)
            plan = explained(sql)
        assert "Seq Scan on fieldapp" not in plan, plan[:1_000]
        if connection.vendor == "mysql":
            (line,) = [line for line in plan.splitlines() if f"'{table}'" in line]
            kind, _, key = line.split(f"'{table}', ")[1].split(", ")[:3]
            assert (kind in {"'index'", "'range'", "'eq_ref'"}, key) == (True, "'PRIMARY'"), line
