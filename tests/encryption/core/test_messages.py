"""What each error says, word for word: what was seen, the likely cause, and the way out.

Whoever reads one has a broken row before them. So a message changes on purpose or not at all.
"""

from collections.abc import Callable

import pytest

from encryption.core import tokens
from encryption.core.blindindex import Indexer
from encryption.core.derivation import MasterKey
from encryption.core.errors import DecryptionError, MalformedTokenError, MissingSaltError
from encryption.core.keyring import Keyring
from tests.encryption.core.samples import FALLBACK, STRANGER, master

RING = Keyring(master(), [master(FALLBACK)])
ID, FALLBACK_ID, STRANGER_ID = (key.key_id for key in (*RING.keys, master(STRANGER)))
V2 = RING.encrypt("a value", "1")
V1 = Keyring(master(), write_format="v1").encrypt("a value", "1")

NOT_BASE64 = (
    "The text is not a token: it is not the base64 that encoding its bytes gives. It was cut, "
    "re-cased, padded or otherwise changed, or it never was encrypted. Restore it from a backup "
    "or write a new value; for a column that still holds old plaintext see allow_plaintext."
)


def only(version: str) -> Keyring:
    return Keyring(master(), write_format=version, read_formats=[version])


def no_text(version: str) -> str:
    """A token, made with the right key, of bytes that are no UTF-8."""
    if version == "v1":
        return tokens.build_v1(bytes(12), master().v1_cipher("1").encrypt(bytes(12), b"\xff", None))
    tenant = master().tenant_key("1")
    aad = tokens.associated_data(ID, "")
    payload = tenant.commitment + bytes(12) + tenant.encrypt(bytes(12), b"\xff", aad)
    return tokens.build_v2(master().prefix, payload)


NOT_UTF8 = (
    "The token is authentic but what was encrypted is not UTF-8 text, so it was not written by "
    "this package or the original product. Write a new value."
)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        pytest.param(
            lambda: RING.decrypt("v2:nothing", "1"),
            "The text begins with 'v2:' but no key id of 8 lowercase hex digits follows, so it is "
            "not a token. It was cut or changed; restore it from a backup or write a new value.",
            id="no key id",
        ),
        pytest.param(
            lambda: RING.decrypt(f"v3:{V2[3:]}", "1"),
            "The token begins with 'v3:', a version that this release does not know (it knows "
            "v2, and v1 without a version). If a newer release wrote it, upgrade to that one.",
            id="newer version",
        ),
        pytest.param(lambda: RING.decrypt("plain text", "1"), NOT_BASE64, id="plain text"),
        pytest.param(lambda: RING.decrypt("plain t\xe9xt", "1"), NOT_BASE64, id="no ASCII"),
        pytest.param(lambda: RING.decrypt(V1 + "=", "1"), NOT_BASE64, id="v1 padded"),
        pytest.param(lambda: RING.decrypt(V2 + "=", "1"), NOT_BASE64, id="v2 padded"),
        pytest.param(lambda: RING.decrypt(V2[:12] + "\xe9", "1"), NOT_BASE64, id="v2 no ASCII"),
        pytest.param(lambda: RING.decrypt(V2[:12] + "B", "1"), NOT_BASE64, id="v2 one letter"),
        pytest.param(lambda: RING.decrypt(V2[:12] + "\nAAA", "1"), NOT_BASE64, id="v2 newline"),
        pytest.param(lambda: tokens.parse_v1("QR=="), NOT_BASE64, id="v1 unused bits"),
        pytest.param(
            lambda: RING.decrypt("AAAA", "1"),
            "The text decodes to 3 bytes and a token has at least 28: it was cut. Restore it from "
            "a backup or write a new value.",
            id="v1 short",
        ),
        pytest.param(
            lambda: RING.decrypt(V2[:16], "1"),
            "The text decodes to 3 bytes and a token has at least 44: it was cut. Restore it from "
            "a backup or write a new value.",
            id="v2 short",
        ),
        pytest.param(
            lambda: RING.decrypt(f"v2:{STRANGER_ID}:{V2[12:]}", "1"),
            f"The token is under key {STRANGER_ID}, which is not in the keyring ({ID}, "
            f"{FALLBACK_ID}): the master key changed. Put the old key into "
            "MASTER_ENCRYPTION_KEY_FALLBACKS (or OLD_MASTER_KEY) and run rotate_master_key before "
            "you remove it.",
            id="unknown key",
        ),
        pytest.param(
            lambda: RING.decrypt(V2, "2"),
            f"The token names key {ID}, which is in the keyring, but was made under another salt: "
            "it belongs to another tenant, or the tenant's id changed. Give the salt it was "
            "written with.",
            id="wrong key",
        ),
        pytest.param(
            lambda: RING.decrypt(V2, "1", "other"),
            f"The token is under the right key ({ID}) and salt, but its authentication failed: "
            "the data was changed, or it was moved here from another column, row or host. After "
            "renaming a model or a field set context= to the old label "
            '("app_label.model_name.field_name"); otherwise restore the value from a backup or '
            "write a new one.",
            id="v2 tampered",
        ),
        pytest.param(
            lambda: RING.decrypt(V1, "2"),
            "No key of the keyring (2) opens this v1 token with this salt. A v1 token names no "
            "key, so a changed master key, another tenant's salt and changed data look the same. "
            "If the master key changed, put the old one into MASTER_ENCRYPTION_KEY_FALLBACKS (or "
            "OLD_MASTER_KEY); otherwise restore the value from a backup or write a new one.",
            id="v1 tampered",
        ),
        pytest.param(
            lambda: only("v2").decrypt(V1, "1"),
            "The text is or looks like a v1 token and READ_FORMATS accepts only v2. Add 'v1' to "
            "ENCRYPTION['READ_FORMATS'].",
            id="v1 refused",
        ),
        pytest.param(
            lambda: only("v1").decrypt(V2, "1"),
            "The text is or looks like a v2 token and READ_FORMATS accepts only v1. Add 'v2' to "
            "ENCRYPTION['READ_FORMATS'].",
            id="v2 refused",
        ),
        pytest.param(lambda: RING.decrypt(no_text("v1"), "1"), NOT_UTF8, id="v1 not UTF-8"),
        pytest.param(lambda: RING.decrypt(no_text("v2"), "1"), NOT_UTF8, id="v2 not UTF-8"),
    ],
)
def test_message_of_a_decryption_error(read: Callable[[], str], message: str) -> None:
    with pytest.raises(DecryptionError) as caught:
        read()
    assert str(caught.value) == message


@pytest.mark.parametrize("act", [RING.encrypt, RING.decrypt], ids=["encrypt", "decrypt"])
def test_messages_about_the_salt(act: Callable[[str, str], str]) -> None:
    with pytest.raises(MissingSaltError) as caught:
        act(V2, "")
    assert str(caught.value) == (
        "The salt is empty, so there is no tenant whose key could be used. Save the project or "
        "user that owns the value first, and set it on the row."
    )
    with pytest.raises(ValueError, match="lone") as refused:
        act(V2, "\ud800")
    assert str(refused.value) == "the salt holds a lone surrogate, which UTF-8 cannot say"


def test_messages_about_texts_that_are_no_unicode() -> None:
    with pytest.raises(ValueError, match="lone") as caught:
        RING.encrypt("ab\ud800", "1")
    assert str(caught.value) == (
        "the text holds a lone surrogate at position 2, which UTF-8 cannot say"
    )
    with pytest.raises(ValueError, match="master") as refused:
        MasterKey("\ud800" * 32)
    assert str(refused.value) == "a master key is UTF-8 text and this one is not"


def test_a_location_is_put_before_the_message_once() -> None:
    error = MalformedTokenError("It is cut.", "more")
    assert error.location == ""
    assert error.at("app.Model.field (pk=1)") is error
    assert error.location == "app.Model.field (pk=1)"
    assert error.args == ("app.Model.field (pk=1): ('It is cut.', 'more')", "more")
    error = MalformedTokenError("It is cut.")
    error.at("app.Model.field (pk=1)").at("app.Other.field (pk=2)")
    assert str(error) == "app.Model.field (pk=1): It is cut."


def test_message_about_a_context_that_is_no_unicode() -> None:
    for binding in (("\ud800", []), ("", ["\ud800"])):
        with pytest.raises(ValueError, match="lone") as caught:
            RING.encrypt("a value", "1", *binding)  # type: ignore[arg-type]
        assert str(caught.value) == (
            "the context or a bound value holds a lone surrogate, which UTF-8 cannot say"
        )


def test_messages_about_the_scope_of_a_blind_index() -> None:
    indexer = Indexer((master(),), 10)
    with pytest.raises(MissingSaltError) as caught:
        indexer.index(b"x", scope="tenant", context="c")
    assert str(caught.value) == "There is no salt, so there is no tenant to index for."
    for scope, salt in (("global", "1"), ("other", None)):
        with pytest.raises(ValueError, match="scope") as refused:
            indexer.index(b"x", scope=scope, context="c", salt=salt)
        assert str(refused.value) == (
            "the scope is 'tenant', with a salt, or 'global', without one"
        )
