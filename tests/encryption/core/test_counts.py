"""What a process counts of its own work."""

import os
import threading
from collections.abc import Iterator

import pytest

from encryption import conf  # noqa: F401  # resets the counts of a forked child
from encryption.core.counts import COUNTS
from encryption.core.derivation import MasterKey
from encryption.core.errors import DecryptionError, MissingSaltError
from encryption.core.keyring import Keyring

KEY = "a master key for the counts, 32 characters"


@pytest.fixture
def ring() -> Iterator[Keyring]:
    COUNTS.reset()
    yield Keyring(MasterKey(KEY))
    COUNTS.reset()


def test_operations_hits_misses_and_derivations(ring: Keyring) -> None:
    tokens = {salt: ring.encrypt("text", salt) for salt in ("a", "b")}
    for _ in range(3):
        for salt, token in tokens.items():
            ring.decrypt(token, salt)
    assert COUNTS.snapshot() == {
        ("operations", "encrypt"): 2,
        ("operations", "decrypt"): 6,
        ("cache", "hit"): 6,
        ("cache", "miss"): 2,
        ("derivations", ""): 2,
    }


@pytest.mark.parametrize("write_format", ["v1", "v2"])
def test_both_formats_are_counted(ring: Keyring, write_format: str) -> None:
    ring = Keyring(ring.primary, write_format=write_format)
    ring.decrypt(ring.encrypt("text", "tenant"), "tenant")
    assert (COUNTS.encryptions, COUNTS.decryptions) == (1, 1)
    assert (COUNTS.cache_misses, COUNTS.derivations) == (1, 1)


@pytest.mark.parametrize("write_format", ["v1", "v2"])
def test_every_tenant_misses_once(ring: Keyring, write_format: str) -> None:
    ring = Keyring(ring.primary, write_format=write_format)
    for salt in ("a", "b", "c"):
        ring.encrypt("text", salt)
    assert (COUNTS.cache_misses, COUNTS.derivations) == (3, 3)
    assert COUNTS.snapshot()["cache", "hit"] == 0


def test_failures_add_up(ring: Keyring) -> None:
    for _ in range(3):
        with pytest.raises(DecryptionError):
            ring.decrypt("not a token", "tenant")
    assert COUNTS.snapshot()["failures", "MalformedTokenError"] == 3


def test_failures_by_class(ring: Keyring) -> None:
    token = ring.encrypt("text", "tenant")
    other = Keyring(MasterKey("x" * 32))
    for ring_, text, salt, context in (
        (other, token, "tenant", ""),
        (ring, token, "another", ""),
        (ring, token, "tenant", "moved"),
        (ring, "not a token", "tenant", ""),
        (ring, "v3:" + token[3:], "tenant", ""),
    ):
        with pytest.raises(DecryptionError):
            ring_.decrypt(text, salt, context)
    with pytest.raises(MissingSaltError):
        ring.encrypt("text", "")
    assert COUNTS.failures == {
        "UnknownKeyError": 1,
        "WrongKeyError": 1,
        "TamperedError": 1,
        "MalformedTokenError": 1,
        "UnsupportedFormatError": 1,
        "MissingSaltError": 1,
    }
    assert COUNTS.decryptions == 5


def test_threads_lose_no_count(ring: Keyring) -> None:
    token = ring.encrypt("text", "tenant")
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(2_000):
            ring.decrypt(token, "tenant")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert COUNTS.decryptions == 16_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_begins_at_zero(ring: Keyring) -> None:
    ring.encrypt("text", "tenant")
    child = os.fork()
    if child == 0:
        os._exit(COUNTS.encryptions)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert COUNTS.encryptions == 1
