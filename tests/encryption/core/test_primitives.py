"""The primitives, as the core calls them, against the vectors of their standards.

AES-GCM: NIST's CAVP vectors, those of this format's lengths (256-bit key, 96-bit iv, 128-bit tag).
HKDF-Expand: RFC 5869 appendix A and a long vector of pyca/cryptography. Both are in the
`cryptography-vectors` package, which has none for PBKDF2-HMAC-SHA256; those are of RFC 7914
section 11, and Python's own OpenSSL stands beside them as a second implementation.
"""

import hashlib
import hmac

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, strategies as st

from encryption.core.derivation import TenantKey, _hkdf_expand, _pbkdf2, keyed
from tests.encryption.core.samples import master

GCM = "ciphers/AES/GCM"
LENGTHS = {"Keylen": "256", "IVlen": "96", "Taglen": "128"}


def records(name: str) -> list[dict[str, str]]:
    """Return the cases of a vector file, each with the ``[settings]`` of its group."""
    settings: dict[str, str] = {}
    cases: list[dict[str, str]] = []
    with cryptography_vectors.open_vector_file(name, "r") as file:
        for line in map(str.strip, file):
            entry, _, value = map(str.strip, line.strip("[]").partition("="))
            if line.startswith("["):
                settings[entry] = value
            elif entry.lower() == "count":
                cases.append(dict(settings))
            elif line and not line.startswith("#"):
                cases[-1][entry] = value
    return cases


def gcm_records(name: str) -> list[dict[str, str]]:
    found = [case for case in records(f"{GCM}/{name}") if LENGTHS.items() <= case.items()]
    assert len(found) >= 375
    return found


def cipher_of(case: dict[str, str]) -> TenantKey:
    return TenantKey(bytes.fromhex(case["Key"]), bytes(16), master())


def unhex(case: dict[str, str], *entries: str) -> list[bytes]:
    return [bytes.fromhex(case[entry]) for entry in entries]


def test_aes_gcm_encrypts_as_nist_says() -> None:
    for case in gcm_records("gcmEncryptExtIV256.rsp"):
        iv, plaintext, aad, ciphertext, tag = unhex(case, "IV", "PT", "AAD", "CT", "Tag")
        assert cipher_of(case).encrypt(iv, plaintext, aad) == ciphertext + tag, case
        assert cipher_of(case).decrypt(iv, ciphertext + tag, aad) == plaintext, case


def test_aes_gcm_decrypts_as_nist_says() -> None:
    refused = 0
    for case in gcm_records("gcmDecrypt256.rsp"):
        iv, aad, ciphertext, tag = unhex(case, "IV", "AAD", "CT", "Tag")
        if "FAIL" in case:
            refused += 1
            with pytest.raises(InvalidTag):
                cipher_of(case).decrypt(iv, ciphertext + tag, aad)
        else:
            plaintext = bytes.fromhex(case["PT"])
            assert cipher_of(case).decrypt(iv, ciphertext + tag, aad) == plaintext, case
    assert refused >= 100


def test_aes_gcm_refuses_every_flipped_bit_of_the_tag() -> None:
    case = gcm_records("gcmEncryptExtIV256.rsp")[0]
    iv, aad, ciphertext, tag = unhex(case, "IV", "AAD", "CT", "Tag")
    for bit in range(128):
        flipped = (int.from_bytes(tag, "big") ^ 1 << bit).to_bytes(16, "big")
        with pytest.raises(InvalidTag):
            cipher_of(case).decrypt(iv, ciphertext + flipped, aad)


def test_aes_gcm_refuses_a_short_tag() -> None:
    case = gcm_records("gcmEncryptExtIV256.rsp")[0]
    iv, aad, tag = unhex(case, "IV", "AAD", "Tag")
    for length in range(16):
        with pytest.raises(InvalidTag):
            cipher_of(case).decrypt(iv, tag[:length], aad)


def test_hkdf_expand_as_rfc_5869_says() -> None:
    cases = records("KDF/rfc-5869-HKDF-SHA256.txt")
    assert len(cases) == 3
    for case in cases:
        root, info, expected = unhex(case, "PRK", "info", "OKM")
        assert _hkdf_expand(keyed(root), info, int(case["L"])) == expected


def test_hkdf_expand_of_1200_bytes() -> None:
    (case,) = records("KDF/hkdf-generated.txt")
    root = hmac.digest(bytes(32), bytes.fromhex(case["IKM"]), "sha256")  # RFC 5869 section 2.2
    expected = bytes.fromhex(case["OKM"])
    assert len(expected) == 1200
    assert _hkdf_expand(keyed(root), bytes.fromhex(case["info"]), 1200) == expected


@pytest.mark.parametrize(
    ("password", "salt", "iterations", "expected"),
    [
        # The first 32 bytes of the 64 that the RFC gives are what 32 bytes asked for would be.
        (b"passwd", b"salt", 1, "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"),
        (
            b"Password",
            b"NaCl",
            80_000,
            "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56",
        ),
    ],
)
def test_pbkdf2_as_rfc_7914_says(
    password: bytes, salt: bytes, iterations: int, expected: str
) -> None:
    assert _pbkdf2(password, salt, iterations).hex() == expected


@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(1, 50))
def test_pbkdf2_agrees_with_another_implementation(
    password: bytes, salt: bytes, iterations: int
) -> None:
    expected = hashlib.pbkdf2_hmac("sha256", password, salt, iterations, 32)
    assert _pbkdf2(password, salt, iterations) == expected
