"""The counts: what SQL tells without decrypting."""

from collections.abc import Callable

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from pytest_django import Settings

from encryption import conf
from encryption.checks import check_missing_keys
from encryption.registry import encrypted_columns
from encryption.rotation import Rotation
from encryption.status import ColumnStatus, column_status, missing_keys, statuses
from tests.encryption.database import store
from tests.fieldapp.factories import NoteFactory, TenantFactory
from tests.fieldapp.models import Adopted, Note

OLD = "the old master key, at least 32 characters long"
NEW = "the new master key, at least 32 characters long"

Use = Callable[..., str]


@pytest.fixture
def use(settings: Settings, db: None) -> Use:
    def use(primary: str, *fallbacks: str, **options: object) -> str:
        keys = {"MASTER_KEY": primary, "MASTER_KEY_FALLBACKS": list(fallbacks)}
        settings.ENCRYPTION = {**keys, **options}
        return conf.get_keyring().primary.key_id

    use(OLD)
    return use


def status(label: str, using: str = "default") -> ColumnStatus:
    return column_status(encrypted_columns(label)[0], using)


def test_counts_by_format_and_key(use: Use, settings: Settings) -> None:
    old = use(OLD)
    NoteFactory.create_batch(3)
    use(OLD, WRITE_FORMAT="v1")
    NoteFactory.create_batch(2)
    new = use(NEW, OLD)
    NoteFactory()
    NoteFactory(secret=None)
    found = status("fieldapp.Note.secret")
    assert found.keys == {old: 3, "v1": 2, new: 1}
    assert (found.empty, sum(found.keys.values()), found.stale) == (1, 6, 5)
    use(NEW, OLD, WRITE_FORMAT="v1")
    assert status("fieldapp.Note.secret").stale == 4


def test_plaintext_is_counted_where_it_is_allowed(use: Use) -> None:
    row = Adopted.objects.create(tenant=TenantFactory(), secret="x", data=None)
    Adopted.objects.create(tenant=row.tenant, secret="y", data=None)
    store(row, "secret", "what stood there before")
    found = status("fieldapp.Adopted.secret")
    assert found.keys["plaintext"] == 1
    assert found.stale == 1


@pytest.mark.parametrize(
    "text", ["", "v2", "v2:", "v2:0123abcd", "v3:0123abcd:AA", "a v2:0123abcd:"]
)
def test_what_only_resembles_a_token_names_no_key(use: Use, text: str) -> None:
    store(NoteFactory(), "secret", text)
    assert status("fieldapp.Note.secret").keys == {"v1": 1}


def test_a_table_without_rows(use: Use) -> None:
    found = status("fieldapp.Note.secret")
    assert (found.keys, found.empty, found.stale) == ({}, 0, 0)


def stale_of(label: str) -> dict[str, int]:
    return {one.database: one.stale for one in statuses() if one.label == label}


def test_every_database(use: Use, other_database: str) -> None:
    note = NoteFactory()
    note.tenant.save(using=other_database)
    Note.objects.using(other_database).bulk_create([Note(tenant_id=note.tenant_id, secret="there")])
    use(NEW, OLD)
    found = stale_of("fieldapp.Note.secret")
    assert found == {"default": 1, other_database: 1}
    for alias in found:
        Rotation(encrypted_columns("fieldapp.Note.secret")[0], alias).run()
    assert stale_of("fieldapp.Note.secret") == {"default": 0, other_database: 0}
    assert Note.objects.using(other_database).get().secret == "there"


def test_missing_keys(use: Use) -> None:
    old = use(OLD)
    NoteFactory.create_batch(2)
    use(NEW)
    assert missing_keys(statuses()) == {old: 4}
    use(NEW, OLD)
    assert missing_keys(statuses()) == {}


def test_the_check_names_the_missing_key(use: Use) -> None:
    old = use(OLD)
    NoteFactory()
    assert check_missing_keys(None, databases=["default"]) == []
    use(NEW)
    assert check_missing_keys(None) == []  # without --database nothing is asked
    (found,) = check_missing_keys(None, databases=["default"])
    assert found.id == "encryption.E030"
    assert old in found.msg
    with pytest.raises(SystemCheckError, match=old):
        call_command("check", databases=["default"])
    use(NEW, OLD)
    call_command("check", databases=["default"])
