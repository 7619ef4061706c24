from typing import Any
from uuid import UUID

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

import encryption
from encryption import (
    DecryptionError,
    EncryptionError,
    MalformedTokenError,
    MissingSaltError,
    TamperedError,
    UnknownKeyError,
    UnsupportedFormatError,
    WrongKeyError,
    conf,
    decrypt,
    encrypt,
    sha256_hex,
)
from tests.fieldapp.models import Tenant

TEXTS = ["", "a", "\x00", "\U0001f511 \u00e9 e\u0301", "x" * 1_000_000, "v2:00000000:AAAA"]


def test_everything_public_is_importable_from_the_package() -> None:
    for name in encryption.__all__:
        assert getattr(encryption, name)
    assert {"encrypt", "decrypt", "sha256_hex"} <= set(encryption.__all__)


def test_the_family_of_errors() -> None:
    for error in (
        UnknownKeyError,
        WrongKeyError,
        TamperedError,
        MalformedTokenError,
        UnsupportedFormatError,
    ):
        assert issubclass(error, DecryptionError)
    assert issubclass(DecryptionError, EncryptionError)
    assert issubclass(MissingSaltError, EncryptionError)
    assert not issubclass(MissingSaltError, DecryptionError)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:16]))
@pytest.mark.parametrize("form", ["v1", "v2"])
def test_there_and_back(text: str, form: str) -> None:
    with override_settings(ENCRYPTION={"WRITE_FORMAT": form}):
        token = encrypt(text, "tenant", context="c", bound_to=["a", None])
        assert decrypt(token, "tenant", context="c", bound_to=["a", None]) == text
        assert encrypt(text, "tenant") != token
    assert token.startswith("v2:") is (form == "v2")


@pytest.mark.parametrize(
    ("one", "same"),
    [(7, "7"), (UUID(int=7), str(UUID(int=7))), (0, "0"), (-1, "-1"), (10**30, str(10**30))],
)
def test_a_salt_is_the_text_of_an_id(one: Any, same: str) -> None:
    assert decrypt(encrypt("s", one), same) == "s"
    assert decrypt(encrypt("s", same), one) == "s"


@pytest.mark.parametrize("salt", [None, ""])
def test_there_has_to_be_a_salt(salt: Any) -> None:
    for call in (lambda: encrypt("s", salt), lambda: decrypt("v2:00000000:AAAA", salt)):
        with pytest.raises(MissingSaltError, match=r"[Ss]ave"):
            call()


@pytest.mark.parametrize("salt", [True, 1.5, b"7", [], {}, Tenant(pk=7), object], ids=repr)
def test_a_salt_is_an_id_and_nothing_else(salt: Any) -> None:
    for call in (lambda: encrypt("s", salt), lambda: decrypt("v2:00000000:AAAA", salt)):
        with pytest.raises(TypeError, match="salt"):
            call()


@pytest.mark.parametrize("value", [None, 5, b"bytes", ["s"], {"s": 1}, bytearray(b"s")])
def test_only_texts_are_taken(value: Any) -> None:
    with pytest.raises(TypeError) as caught:
        encrypt(value, "tenant")
    assert "bytes" not in str(caught.value).replace("not bytes", "").replace("bytearray", "")
    with pytest.raises(TypeError):
        decrypt(value, "tenant")


def test_a_lone_surrogate_is_refused_without_being_repeated() -> None:
    for form in ("v1", "v2"):
        with override_settings(ENCRYPTION={"WRITE_FORMAT": form}):
            with pytest.raises(ValueError, match="surrogate") as caught:
                encrypt("the password \ud800", "tenant")
            assert "password" not in str(caught.value)
            assert caught.value.__cause__ is None
            assert "password" not in repr(caught.value.__context__)


def test_a_wrong_salt() -> None:
    token = encrypt("s", "one")
    with pytest.raises(WrongKeyError, match="another tenant"):
        decrypt(token, "other")


@pytest.mark.parametrize(
    "given",
    [
        {"context": "other"},
        {"context": ""},
        {"bound_to": []},
        {"bound_to": ["a"]},
        {"bound_to": ["b", "a"]},
        {"bound_to": ["a", None]},
        {"bound_to": ["ab"]},
        {"bound_to": ["a", "b", None]},
    ],
    ids=str,
)
def test_a_wrong_place(given: dict[str, Any]) -> None:
    place: dict[str, Any] = {"context": "c", "bound_to": ["a", "b"]}
    token = encrypt("s", "tenant", **place)
    with pytest.raises(TamperedError, match="another column, row or host"):
        decrypt(token, "tenant", **{**place, **given})


def test_a_v1_token_says_what_it_cannot_tell() -> None:
    with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1"}):
        token = encrypt("s", "tenant")
    with pytest.raises(TamperedError, match=r"master key.*tenant.*changed data"):
        decrypt(token, "other")


def test_an_unknown_key_is_named_with_the_way_out(other_key: str) -> None:
    with override_settings(ENCRYPTION={"MASTER_KEY": other_key}):
        token = encrypt("s", "tenant")
    with pytest.raises(UnknownKeyError, match="rotate_master_key") as caught:
        decrypt(token, "tenant")
    assert token[3:11] in str(caught.value)
    assert token[12:] not in str(caught.value)
    with override_settings(ENCRYPTION={"MASTER_KEY_FALLBACKS": [other_key]}):
        assert decrypt(token, "tenant") == "s"
        assert encrypt("s", "tenant")[:12] != token[:12]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", MalformedTokenError),
        ("the password itself", MalformedTokenError),
        ("v2:", MalformedTokenError),
        ("v2:0000000g:AAAA", MalformedTokenError),
        ("v3:00000000:AAAA", UnsupportedFormatError),
        ("v12345678:AAAA", UnsupportedFormatError),
        ("\u00e9" * 40, MalformedTokenError),
    ],
)
def test_what_is_no_token(text: str, error: type[DecryptionError]) -> None:
    with pytest.raises(error) as caught:
        decrypt(text, "tenant")
    assert type(caught.value) is error
    assert "password" not in str(caught.value)


def test_formats_that_are_not_read() -> None:
    v2 = encrypt("s", "tenant")
    with override_settings(ENCRYPTION={"WRITE_FORMAT": "v1", "READ_FORMATS": ["v1"]}):
        v1 = encrypt("s", "tenant")
        with pytest.raises(UnsupportedFormatError, match="READ_FORMATS"):
            decrypt(v2, "tenant")
    with (
        override_settings(ENCRYPTION={"READ_FORMATS": ["v2"]}),
        pytest.raises(UnsupportedFormatError, match="READ_FORMATS"),
    ):
        decrypt(v1, "tenant")


def test_every_message_tells_more_than_a_name(other_key: str) -> None:
    token = encrypt("the password", "tenant")
    for text, salt in ((token, "other"), (token[:-1], "tenant"), (token[:12], "tenant")):
        with pytest.raises(DecryptionError) as caught:
            decrypt(text, salt)
        message = str(caught.value)
        assert len(message) > 60
        assert "password" not in message
        assert token not in message


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        # FIPS 180-4, and its example of one block.
        ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("\u00e9", "4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c"),
    ],
)
def test_sha256_hex(text: str, digest: str) -> None:
    assert sha256_hex(text) == digest


def test_without_a_key_it_says_how_to_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ENCRYPTION_KEY")
    conf.reset()
    try:
        for call in (lambda: encrypt("s", 1), lambda: decrypt("v2:00000000:AAAA", 1)):
            with pytest.raises(ImproperlyConfigured, match="generate_master_key"):
                call()
    finally:
        monkeypatch.undo()
        conf.reset()
