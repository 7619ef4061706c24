"""Both formats against the vectors of other implementations, in both directions."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable

import pytest

from encryption import sha256_hex
from encryption.core import tokens
from encryption.core.derivation import derive_tenant, derive_v1, keyed
from encryption.core.errors import (
    DecryptionError,
    MalformedTokenError,
    TamperedError,
    UnknownKeyError,
    WrongKeyError,
)
from encryption.core.keyring import Keyring
from tests.encryption.core.samples import (
    SHA256_VECTORS,
    V1_VECTORS,
    V2_VECTORS,
    V1Vector,
    V2Vector,
    master,
)

FixIv = Callable[[str], None]


@pytest.fixture
def fix_iv(monkeypatch: pytest.MonkeyPatch) -> FixIv:
    def fix(iv: str) -> None:
        def only_ivs(size: int) -> bytes:
            assert size == len(bytes.fromhex(iv)) == 12
            return bytes.fromhex(iv)

        monkeypatch.setattr("encryption.core.keyring.urandom", only_ivs)

    return fix


def test_no_vector_is_missing() -> None:
    assert len(V1_VECTORS) == 36
    assert len(V2_VECTORS) == 40
    assert len(SHA256_VECTORS) == 4


@pytest.mark.parametrize(("data", "digest"), SHA256_VECTORS)
def test_sha256(data: str, digest: str) -> None:
    assert sha256_hex(data) == digest


each_v1 = pytest.mark.parametrize("vector", V1_VECTORS, ids=range(len(V1_VECTORS)))
each_v2 = pytest.mark.parametrize("vector", V2_VECTORS, ids=range(len(V2_VECTORS)))


def v1_ring(vector: V1Vector) -> Keyring:
    return Keyring(master(vector.master), write_format="v1")


def v2_ring(vector: V2Vector) -> Keyring:
    return Keyring(master(vector.master))


@each_v1
def test_v1_both_ways(vector: V1Vector, fix_iv: FixIv) -> None:
    ring = v1_ring(vector)
    fix_iv(vector.iv)
    assert derive_v1(vector.master.encode(), vector.salt.encode()).hex() == vector.derived_key
    assert ring.encrypt(vector.plaintext, vector.salt) == vector.stored
    assert ring.decrypt(vector.stored, vector.salt) == vector.plaintext


@each_v1
def test_v1_spoiled(vector: V1Vector) -> None:
    ring = v1_ring(vector)
    with pytest.raises(TamperedError):
        ring.decrypt(vector.tampered, vector.salt)
    with pytest.raises(MalformedTokenError):
        ring.decrypt(vector.truncated, vector.salt)
    with pytest.raises(TamperedError):
        ring.decrypt(vector.stored, vector.wrong_salt)


@each_v2
def test_v2_derivation(vector: V2Vector) -> None:
    key = master(vector.master)
    tenant_key, commitment = derive_tenant(keyed(key.root), vector.salt.encode())
    assert key.key_id == vector.key_id
    assert tenant_key.hex() == vector.tenant_key
    assert commitment.hex() == vector.commitment
    aad = tokens.associated_data(vector.key_id, vector.context, vector.bound_to)
    assert aad.hex() == vector.aad


@each_v2
def test_v2_both_ways(vector: V2Vector, fix_iv: FixIv) -> None:
    ring = v2_ring(vector)
    fix_iv(vector.iv)
    binding = (vector.salt, vector.context, vector.bound_to)
    assert ring.encrypt(vector.plaintext, *binding) == vector.token
    assert ring.decrypt(vector.token, *binding) == vector.plaintext


def edit_payload(token: str, edit: Callable[[bytes], bytes]) -> str:
    head, payload = token[:12], token[12:]
    data = edit(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return head + urlsafe_b64encode(data).decode().rstrip("=")


def flip(place: int) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        spoiled = bytearray(data)
        spoiled[place] ^= 1
        return bytes(spoiled)

    return edit


@each_v2
@pytest.mark.parametrize(
    ("edit", "error"),
    [
        pytest.param(flip(0), WrongKeyError, id="first byte of the commitment"),
        pytest.param(flip(15), WrongKeyError, id="last byte of the commitment"),
        pytest.param(flip(16), TamperedError, id="first byte of the iv"),
        pytest.param(flip(27), TamperedError, id="last byte of the iv"),
        pytest.param(flip(28), TamperedError, id="first byte after the iv"),
        pytest.param(flip(-16), TamperedError, id="first byte of the tag"),
        pytest.param(flip(-1), TamperedError, id="last byte of the tag"),
        pytest.param(lambda data: data + b"\0", TamperedError, id="a byte more"),
        pytest.param(lambda data: data[:43], MalformedTokenError, id="43 bytes"),
        pytest.param(lambda data: b"", MalformedTokenError, id="no bytes"),
    ],
)
def test_v2_spoiled(
    vector: V2Vector, edit: Callable[[bytes], bytes], error: type[DecryptionError]
) -> None:
    with pytest.raises(error):
        v2_ring(vector).decrypt(
            edit_payload(vector.token, edit), vector.salt, vector.context, vector.bound_to
        )


@each_v2
def test_v2_in_the_wrong_place(vector: V2Vector) -> None:
    ring = v2_ring(vector)
    token, salt, context, bound_to = vector.token, vector.salt, vector.context, vector.bound_to
    with pytest.raises(WrongKeyError):
        ring.decrypt(token, salt + "0", context, bound_to)
    with pytest.raises(TamperedError):
        ring.decrypt(token, salt, context + "x", bound_to)
    with pytest.raises(TamperedError):
        ring.decrypt(token, salt, context, [*bound_to, None])
    if len(bound_to) > 0:
        with pytest.raises(TamperedError):
            ring.decrypt(token, salt, context, bound_to[:-1])
    with pytest.raises(UnknownKeyError):
        ring.decrypt("v2:00000000:" + token[12:], salt, context, bound_to)
