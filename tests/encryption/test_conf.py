import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from pytest_django import Settings

from encryption import DecryptionError, conf, decrypt, encrypt, health
from encryption.core.counts import COUNTS
from encryption.core.derivation import MasterKey
from encryption.core.providers import MasterKeys

KEY = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"
OTHER = "another master key, of which the tests know as well"
THIRD = "a third master key, so that there are two fallbacks"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment without any key."""
    for name in (
        "MASTER_ENCRYPTION_KEY",
        "MASTER_ENCRYPTION_KEY_FILE",
        "MASTER_ENCRYPTION_KEY_FALLBACKS",
        "OLD_MASTER_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
    conf.reset()
    yield monkeypatch
    monkeypatch.undo()
    conf.reset()


def _ids() -> tuple[str, ...]:
    conf.reset()
    return conf.get_keyring().key_ids()


def _id(key: str) -> str:
    return MasterKey(key).key_id


# -- where keys come from -----------------------------------------------------------------------


def test_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MASTER_ENCRYPTION_KEY", f"  {KEY}\n")
    assert _ids() == (_id(KEY),)


def test_a_mounted_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    environment.setenv("MASTER_ENCRYPTION_KEY_FILE", str(file))
    assert _ids() == (_id(KEY),)


def test_a_file_that_is_missing_or_no_text(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff" * 40)
    (tmp_path / "empty").write_text("\n")
    for name in ("missing", "bytes", "empty", "."):
        environment.setenv("MASTER_ENCRYPTION_KEY_FILE", str(tmp_path / name))
        with pytest.raises(ImproperlyConfigured, match="MASTER_ENCRYPTION_KEY"):
            _ids()


def test_two_sources_for_one_key(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    environment.setenv("MASTER_ENCRYPTION_KEY_FILE", str(tmp_path / "key"))
    environment.setenv("MASTER_ENCRYPTION_KEY", OTHER)
    with pytest.raises(ImproperlyConfigured, match="both"):
        _ids()


def test_fallbacks_are_separated_by_commas_or_newlines(environment: pytest.MonkeyPatch) -> None:
    first, second, third = "a" * 40, "b" * 40, "c" * 40
    environment.setenv("MASTER_ENCRYPTION_KEY", KEY)
    environment.setenv("MASTER_ENCRYPTION_KEY_FALLBACKS", f" {first} , {second}\n{third}\n,")
    assert _ids() == (_id(KEY), _id(first), _id(second), _id(third))


def test_the_old_key_of_the_original_product(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MASTER_ENCRYPTION_KEY", KEY)
    environment.setenv("OLD_MASTER_KEY", OTHER)
    assert _ids() == (_id(KEY), _id(OTHER))


def test_the_settings_come_before_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MASTER_ENCRYPTION_KEY", KEY)
    environment.setenv("OLD_MASTER_KEY", "o" * 40)
    with override_settings(ENCRYPTION={"MASTER_KEY": OTHER, "MASTER_KEY_FALLBACKS": [THIRD]}):
        assert _ids() == (_id(OTHER), _id(THIRD))
    with override_settings(ENCRYPTION={"MASTER_KEY_FALLBACKS": []}):
        assert _ids() == (_id(KEY),)


def test_no_settings_at_all(settings: Any) -> None:
    assert not hasattr(settings, "ENCRYPTION")
    assert _ids() == (_id(KEY),)


class Vaulted:
    """Somebody's own provider."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def keys(self) -> MasterKeys:
        return MasterKeys(OTHER, (KEY,))


class Failing(Vaulted):
    def keys(self) -> MasterKeys:
        raise ValueError("the vault is sealed")


def test_a_provider_of_ones_own() -> None:
    with override_settings(ENCRYPTION={"KEY_PROVIDER": f"{__name__}.Vaulted"}):
        assert conf.get_keyring().key_ids() == (_id(OTHER), _id(KEY))
    with (
        override_settings(ENCRYPTION={"KEY_PROVIDER": f"{__name__}.Failing"}),
        pytest.raises(ImproperlyConfigured, match="the vault is sealed"),
    ):
        conf.get_keyring()


# -- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"MASTER_KEY": "short"}, "at least 32 characters.*generate_master_key"),
        ({"MASTER_KEY": "x" * 31}, "31.*generate_master_key"),
        ({"MASTER_KEY": b"x" * 40}, "text, not bytes"),
        ({"MASTER_KEY_FALLBACKS": [KEY]}, "fallback key equals the primary"),
        ({"MASTER_KEY_FALLBACKS": [OTHER, OTHER]}, "twice"),
        ({"MASTER_KEY_FALLBACKS": ["short"]}, "at least 32"),
        ({"MASTER_KEY_FALLBACKS": OTHER}, "list"),
        ({"MASTER_KEY_FALLBACKS": 5}, "list"),
        ({"WRITE_FORMAT": "v3"}, "WRITE_FORMAT"),
        ({"WRITE_FORMAT": None}, "WRITE_FORMAT"),
        ({"READ_FORMATS": "v2"}, "READ_FORMATS"),
        ({"READ_FORMATS": []}, "READ_FORMATS"),
        ({"READ_FORMATS": ["v2", "v9"]}, "READ_FORMATS"),
        ({"READ_FORMATS": ["v1"]}, "v2 is written but not among"),
        ({"KEY_CACHE_SIZE": 0}, "KEY_CACHE_SIZE"),
        ({"KEY_CACHE_SIZE": "10"}, "KEY_CACHE_SIZE"),
        ({"KEY_CACHE_SIZE": True}, "KEY_CACHE_SIZE"),
        ({"MASTER_KEYS": [KEY]}, "unknown entries: MASTER_KEYS"),
        ({"KEY_PROVIDER": "no.such.Provider"}, "KEY_PROVIDER"),
        ({"KEY_PROVIDER": "nothing"}, "KEY_PROVIDER"),
        ({5: 1}, "unknown"),
    ],
    ids=str,
)
def test_wrong_entries(entries: dict[Any, Any], message: str) -> None:
    with override_settings(ENCRYPTION=entries):
        for use in (conf.get_keyring, lambda: encrypt("s", 1), lambda: decrypt("x", 1)):
            with pytest.raises(ImproperlyConfigured, match=message) as caught:
                use()
            assert KEY not in str(caught.value)
            assert OTHER not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "text", 5])
def test_settings_that_are_no_dict(value: Any) -> None:
    with (
        override_settings(ENCRYPTION=value),
        pytest.raises(ImproperlyConfigured, match="ENCRYPTION is a dict"),
    ):
        conf.get_settings()


def test_two_keys_with_one_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MasterKey, "key_id", property(lambda self: "00000000"))
    with (
        override_settings(ENCRYPTION={"MASTER_KEY_FALLBACKS": [OTHER]}),
        pytest.raises((ImproperlyConfigured, ValueError), match="one key id"),
    ):
        conf.get_keyring().key_ids()


def test_a_wrong_setting_that_is_mended_works(environment: pytest.MonkeyPatch) -> None:
    with override_settings(ENCRYPTION={"MASTER_KEY": "short"}), pytest.raises(ImproperlyConfigured):
        encrypt("s", 1)
    with override_settings(ENCRYPTION={"MASTER_KEY": KEY}):
        assert decrypt(encrypt("s", 1), 1) == "s"


# -- read once, and again when they change ------------------------------------------------------


def test_a_change_of_the_settings_is_noticed() -> None:
    before = conf.get_keyring()
    assert conf.get_keyring() is before
    with override_settings(ENCRYPTION={"MASTER_KEY": OTHER}):
        inside = conf.get_keyring()
        assert inside.key_ids() == (_id(OTHER),)
        with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1"}):
            assert ":" not in encrypt("s", 1)
        assert encrypt("s", 1)[3:11] == _id(OTHER)
    assert conf.get_keyring().key_ids() == before.key_ids()
    assert encrypt("s", 1)[3:11] == _id(KEY)


def test_a_change_of_other_settings_is_not() -> None:
    before = conf.get_keyring()
    with override_settings(DEBUG=True, SECRET_KEY="x"):
        assert conf.get_keyring() is before


def test_djangos_secret_key_is_no_part_of_a_key() -> None:
    token = encrypt("s", 1)
    with override_settings(SECRET_KEY="x" * 50, SECRET_KEY_FALLBACKS=[]):
        conf.reset()
        assert decrypt(token, 1) == "s"
    conf.reset()


def test_the_environment_is_read_again_after_a_reset(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MASTER_ENCRYPTION_KEY", KEY)
    assert conf.get_keyring().key_ids() == (_id(KEY),)
    environment.setenv("MASTER_ENCRYPTION_KEY", OTHER)
    assert conf.get_keyring().key_ids() == (_id(KEY),)
    conf.reset()
    assert conf.get_keyring().key_ids() == (_id(OTHER),)


def test_the_entries_arrive() -> None:
    entries = {"WRITE_FORMAT": "v1", "READ_FORMATS": ["v1"], "KEY_CACHE_SIZE": 7}
    with override_settings(ENCRYPTION=entries):
        settings = conf.get_settings()
        assert settings.write_format == "v1"
        assert settings.read_formats == ("v1",)
        assert settings.key_cache_size == 7
        assert KEY not in repr(settings)
    with override_settings(ENCRYPTION={}):
        settings = conf.get_settings()
        assert (settings.write_format, settings.read_formats) == ("v2", ("v2", "v1"))
        assert settings.key_cache_size == 10_000


def test_threads_share_one_keyring() -> None:
    conf.reset()
    rings: list[object] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        rings.append(conf.get_keyring())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rings) == 8
    assert len(set(map(id, rings))) == 1


def test_settings_that_change_while_they_are_read_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    reading, changed = threading.Event(), threading.Event()
    original = conf.EncryptionSettings.load

    def slow() -> conf.EncryptionSettings:
        found = original()
        reading.set()
        changed.wait(0.2)  # in vain, where a change waits for the lock
        return found

    settings.ENCRYPTION = {"MASTER_KEY": KEY}
    monkeypatch.setattr(conf.EncryptionSettings, "load", slow)
    reader = threading.Thread(target=conf.get_settings)
    reader.start()
    assert reading.wait(5)
    settings.ENCRYPTION = {"MASTER_KEY": KEY, "WRITE_FORMAT": "v1"}
    changed.set()
    reader.join()
    assert conf.get_settings().write_format == "v1"
    assert conf.get_keyring().write_format == "v1"


def test_a_root_is_derived_once_per_process(crypto: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf, "_master_keys", {})
    for _ in range(3):
        with override_settings(ENCRYPTION={"MASTER_KEY": KEY}):
            conf.get_keyring().key_ids()
        with override_settings(ENCRYPTION={"MASTER_KEY": OTHER}):
            conf.get_keyring().key_ids()
    assert crypto["derive"] == 2


# -- forks ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_needs_no_lock_that_a_thread_of_its_parent_holds(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """What gunicorn --preload does, at the worst moment: all locks held, a derivation running."""
    monkeypatch.setattr(conf, "_master_keys", {})
    settings.ENCRYPTION = {"MASTER_KEY": KEY, "MASTER_KEY_FALLBACKS": [OTHER]}
    token = encrypt("text", "tenant")
    ring = conf.get_keyring()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with conf._lock, COUNTS._lock, ring._tenants._lock, health._lock, ExitStack() as keys:
            for key in ring.keys:
                keys.enter_context(key._lock)
            held.set()
            release.wait(30)

    def derive(salt: str) -> Any:
        held.wait(30)
        release.wait(30)
        return ring.primary.tenant_key(salt)

    threads = [
        threading.Thread(target=ring._tenants.derive, args=((ring.primary, "new"), derive, "new")),
        threading.Thread(target=hold),
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    assert held.wait(30)
    try:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(20)  # a child that waits for ever is killed, and the test fails
                # The keys that the parent derived are the child's as well.
                assert decrypt(token, "tenant") == "text"
                assert COUNTS.derivations == 0
                # The fallback's root was never derived: that takes its lock.
                assert conf.get_keyring().key_ids()[0] == token[3:11]
                assert decrypt(encrypt("more", "new"), "new") == "more"
                assert decrypt(token, "tenant") == "text"
                with pytest.raises(DecryptionError):
                    decrypt(token, "another")
                with health._lock:
                    status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        release.set()
        for thread in threads:
            thread.join()
