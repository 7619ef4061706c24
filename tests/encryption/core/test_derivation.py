"""From a master key to the key of a tenant, against Python's own hashlib and hmac."""

import copy
import hashlib
import hmac
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import assume, given, strategies as st

from encryption.core import derivation
from encryption.core.derivation import (
    MasterKey,
    TenantKey,
    derive_key_id,
    derive_root,
    derive_tenant,
    derive_v1,
    keyed,
)
from tests.encryption.core.samples import FALLBACK, PRIMARY, master

THREADS = 32

salts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
roots = st.binary(min_size=32, max_size=32)


def expand(root: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand, RFC 5869 section 2.3."""
    output = block = b""
    for count in range(1, 4):
        block = hmac.digest(root, block + info + bytes([count]), "sha256")
        output += block
    return output[:length]


# -- the functions ----------------------------------------------------------------------------


def test_root_is_pbkdf2_of_the_master_key() -> None:
    secret = "pässwörd-ключ-鍵-🔑, long enough to be a key"
    expected = hashlib.pbkdf2_hmac("sha256", secret.encode(), b"dashtray/v2/root", 600_000, 32)
    assert derive_root(secret.encode()) == expected


@given(roots)
def test_key_id_is_four_bytes_of_the_root(root: bytes) -> None:
    assert derive_key_id(root) == expand(root, b"dashtray/v2/key-id", 4).hex()


@given(roots, salts)
def test_tenant_is_48_bytes_of_root_and_salt(root: bytes, salt: str) -> None:
    key, commitment = derive_tenant(keyed(root), salt.encode())
    assert len(key) == 32
    assert len(commitment) == 16
    assert key + commitment == expand(root, b"dashtray/v2/tenant\x00" + salt.encode(), 48)


@pytest.mark.parametrize("salt", ["1", "проект-7", "j57d8k2m9n4p6q"])
def test_v1_is_pbkdf2_of_master_key_and_salt(salt: str) -> None:
    key, tenant = FALLBACK.encode(), salt.encode()
    expected = hashlib.pbkdf2_hmac("sha256", key + tenant, tenant, 100_000, 32)
    assert derive_v1(key, tenant) == expected


@given(roots, roots, salts, salts)
def test_other_roots_and_salts_give_other_keys(
    root: bytes, other_root: bytes, salt: str, other_salt: str
) -> None:
    assume(root != other_root and salt != other_salt)
    one, other = salt.encode(), other_salt.encode()
    pairs = [(root, one), (root, other), (other_root, one), (other_root, other)]
    derived = [derive_tenant(keyed(mine), salt) for mine, salt in pairs]
    assert len({key for key, _ in derived}) == 4
    assert len({commitment for _, commitment in derived}) == 4


def test_v1_keeps_apart_what_concatenation_would_join() -> None:
    assert derive_v1(b"key" + b"1", b"2") != derive_v1(b"key", b"12")


def test_a_commitment_is_no_part_of_the_key() -> None:
    key, commitment = derive_tenant(keyed(master().root), b"1")
    assert commitment not in key


# -- MasterKey --------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 31])
def test_a_short_master_key_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"at least 32 characters and this one has {length}$"):
        MasterKey("k" * length)


def test_32_characters_are_enough() -> None:
    MasterKey("k" * 32)


def test_a_master_key_that_is_not_unicode_is_refused_at_once() -> None:
    # What os.environ makes of a byte that is not UTF-8.
    with pytest.raises(ValueError, match=r"UTF-8|surrogate"):
        MasterKey("k" * 40 + "\udcff")


def test_nothing_is_derived_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_early(secret: bytes) -> bytes:
        raise AssertionError("derived")

    monkeypatch.setattr(derivation, "derive_root", too_early)
    key = MasterKey(PRIMARY)
    assert repr(key) == "<MasterKey not derived yet>"
    assert key.prefix == ""
    assert key.same_as(MasterKey(PRIMARY))
    assert not key.same_as(MasterKey(FALLBACK))


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda key: key.root, id="root"),
        pytest.param(lambda key: key.key_id, id="key_id"),
        pytest.param(lambda key: key.tenant_key("1"), id="tenant_key"),
        pytest.param(lambda key: key.aad_heads[""], id="aad_heads"),
    ],
)
def test_the_root_is_derived_once_by_threads_that_ask_together(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[MasterKey], object]
) -> None:
    derivations = []
    together = threading.Barrier(THREADS)
    asked = threading.Event()

    def counted(secret: bytes) -> bytes:
        asked.wait(0.1)  # long enough for the others to come to the lock
        derivations.append(secret)
        return root

    def task(key: MasterKey) -> tuple[bytes, str, str]:
        together.wait(10)
        ask(key)
        return key.root, key.key_id, key.prefix

    root = master().root
    monkeypatch.setattr(derivation, "derive_root", counted)
    key = MasterKey(PRIMARY)
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(task, [key] * THREADS))
    assert derivations == [PRIMARY.encode()]
    assert set(results) == {(root, master().key_id, master().prefix)}


def test_a_failed_derivation_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    key = MasterKey(PRIMARY)

    def fails(secret: bytes) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(derivation, "derive_root", fails)
        with pytest.raises(MemoryError):
            _ = key.key_id
    assert key.key_id == master().key_id


def test_a_master_key_tells_its_id_and_not_itself() -> None:
    key = master()
    assert key.prefix == f"v2:{key.key_id}:"
    assert repr(key) == str(key) == f"<MasterKey {key.key_id}>"
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_master_key_is_never_pickled(copying: Callable[[MasterKey], object]) -> None:
    with pytest.raises(TypeError, match=r"^a master key is never pickled$"):
        copying(master())


@pytest.mark.parametrize("copying", [copy.deepcopy, pickle.dumps])
def test_a_tenant_key_is_never_pickled(copying: Callable[[TenantKey], object]) -> None:
    with pytest.raises(TypeError):
        copying(master().tenant_key("1"))


def test_tenant_key_of_a_master_key() -> None:
    key, commitment = derive_tenant(keyed(master().root), b"7")
    tenant = master().tenant_key("7")
    assert tenant.commitment == commitment
    sealed = tenant.encrypt(bytes(12), b"text", b"aad")
    assert TenantKey(key, bytes(16), master()).decrypt(bytes(12), sealed, b"aad") == b"text"


def test_v1_cipher_of_a_master_key() -> None:
    sealed = master().v1_cipher("7").encrypt(bytes(12), b"text", None)
    right = TenantKey(derive_v1(PRIMARY.encode(), b"7"), bytes(16), master())
    assert right.decrypt(bytes(12), sealed, None) == b"text"
    with pytest.raises(InvalidTag):
        master(FALLBACK).v1_cipher("7").decrypt(bytes(12), sealed, None)


def test_aad_head_is_the_same_when_asked_again() -> None:
    key = master()
    expected = b"\0\0\0\x02v2\0\0\0\x08" + key.key_id.encode() + b"\0\0\0\x05a.b.c"
    assert key.aad_heads["a.b.c"] == expected
    assert key.aad_heads["a.b.c"] == expected
    assert key.aad_heads[""] == expected[:18] + bytes(4)


def test_made_up_contexts_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derivation, "_MOST_CONTEXTS", 10)
    root = master().root
    monkeypatch.setattr(derivation, "derive_root", lambda secret: root)
    key = MasterKey(PRIMARY)
    for count in range(35):
        context = f"context {count}"
        assert key.aad_heads[context] == master().aad_heads[context]
        assert len(key.aad_heads) == count % 10 + 1


def test_a_key_whose_lock_is_renewed_still_derives_its_root() -> None:
    key = MasterKey(PRIMARY)
    key._lock.acquire()  # by a thread that a forked child does not have
    key.renew_lock()
    assert key.root == master().root
