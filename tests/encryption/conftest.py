from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connections

from encryption import conf
from encryption.core import derivation
from encryption.core.keyring import Keyring
from tests.encryption.database import tables
from tests.fieldapp.factories import TenantFactory, UuidTenantFactory
from tests.fieldapp.models import Note, Tenant, UuidTenant, Vault
from tests.processes import database_url

#: Another master key than the one in `tests.settings`.
OTHER_KEY = "another master key, of which the tests know as well"


@pytest.fixture
def tenant(db: None) -> Tenant:
    return TenantFactory()


@pytest.fixture
def other_tenant(db: None) -> Tenant:
    return TenantFactory()


@pytest.fixture
def owner(db: None) -> UuidTenant:
    return UuidTenantFactory()


@pytest.fixture
def other_owner(db: None) -> UuidTenant:
    return UuidTenantFactory()


@pytest.fixture
def other_key() -> str:
    return OTHER_KEY


@pytest.fixture
def crypto(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often values are encrypted and decrypted, and keys derived, from a cold start."""
    counts: Counter[str] = Counter()

    def count(owner: object, name: str, label: str) -> None:
        original = getattr(owner, name)

        def counted(*args: object, **kwargs: object) -> object:
            counts[label] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(Keyring, "encrypt", "encrypt")
    count(Keyring, "decrypt", "decrypt")
    for name in ("derive_root", "derive_tenant", "derive_v1"):
        count(derivation, name, "derive")
    conf.reset()
    yield counts
    conf.reset()


@pytest.fixture
def other_database(db: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The alias of a second, empty database."""
    alias = "other"
    monkeypatch.setitem(
        connections.settings,
        alias,
        {
            **connections.settings["default"],
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(tmp_path / "other.sqlite3"),
            "OPTIONS": {},
        },
    )
    # Django's test case lets no other connection than its own *begin*; this one has begun.
    connections[alias].connect()
    with tables(Tenant, UuidTenant, Note, Vault, using=alias):
        yield alias
    connections[alias].close()
    del connections[alias]


#: One writer at a time, and the others wait for it.
_SQLITE = {
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF",
    "transaction_mode": "IMMEDIATE",
    "timeout": 120,
}


@pytest.fixture
def shared_database(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    """The default database as one that other threads and processes see too; its ``DATABASE_URL``.

    With SQLite, it is a file of its own for the time of the test.
    """
    before = connections["default"]
    if before.vendor != "sqlite":
        yield database_url(before)
        return
    file = tmp_path / "shared.sqlite3"
    changed = connections.settings["default"] | {"NAME": str(file), "OPTIONS": _SQLITE}
    monkeypatch.setitem(connections.settings, "default", changed)
    del connections["default"]
    with tables(Tenant, UuidTenant, Note, Vault):
        yield f"sqlite:///{file}"
    connections["default"].close()
    connections["default"] = before
