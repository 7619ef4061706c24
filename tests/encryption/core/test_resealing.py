"""Pages of tokens brought to the primary key; what is not in order is left to the keyring."""

from collections.abc import Callable

import pytest

from encryption.core import derivation, resealing
from encryption.core.counts import COUNTS
from encryption.core.derivation import TenantKey
from encryption.core.keyring import Keyring
from encryption.core.resealing import Resealed, Resealer, UnverifiedError
from encryption.core.tokens import build_v1, build_v2, parse_v2, part
from tests.encryption.core.samples import FALLBACK, PRIMARY, STRANGER, master

OLD = Keyring(master(FALLBACK))
OLD_V1 = Keyring(master(FALLBACK), write_format="v1")
ALONE = Keyring(master(PRIMARY))
CONTEXT = "app.Model.field"
SALTS = ["1", "2", "tenant"]


def ring(**options: object) -> Keyring:
    return Keyring(master(PRIMARY), [master(STRANGER), master(FALLBACK)], **options)  # type: ignore[arg-type]


def reseal(
    values: list[str], salts: list[str], bound: str = "", resealer: Resealer | None = None
) -> list[Resealed | None]:
    resealer = resealer or Resealer(ring(), CONTEXT)
    return resealer.reseal(values, salts, [part(bound) if bound else b""] * len(values))


def rows(count: int, keyring: Keyring = OLD, bound: str = "") -> tuple[list[str], list[str]]:
    salts = [SALTS[number % len(SALTS)] for number in range(count)]
    also = [bound] if bound else []
    return [
        keyring.encrypt(f"text {number}", salt, CONTEXT, also) for number, salt in enumerate(salts)
    ], salts


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
    """Each PBKDF2 for a v1 token, as it is done: master key and salt."""
    done: list[tuple[bytes, bytes]] = []
    original = derivation.derive_v1

    def derive(key: bytes, salt: bytes) -> bytes:
        done.append((key, salt))
        return original(key, salt)

    monkeypatch.setattr(derivation, "derive_v1", derive)
    return done


@pytest.mark.parametrize("bound", ["", "7"])
@pytest.mark.parametrize("keyring", [OLD, OLD_V1], ids=["v2", "v1"])
@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
def test_all_are_readable_with_the_primary_key_alone(
    count: int, keyring: Keyring, bound: str
) -> None:
    values, salts = rows(count, keyring, bound)
    found = reseal(values, salts, bound)
    assert len(found) == count
    for number, (salt, one) in enumerate(zip(salts, found, strict=True)):
        assert one is not None
        text, token = one
        assert text == f"text {number}"
        assert ALONE.decrypt(token, salt, CONTEXT, [bound] if bound else []) == text


def test_what_was_done_is_counted() -> None:
    values, salts = rows(5)
    reseal(values, salts)
    before = COUNTS.encryptions, COUNTS.decryptions
    reseal(values, salts)
    # Each is decrypted, encrypted, and decrypted to see that it comes back.
    assert (COUNTS.encryptions - before[0], COUNTS.decryptions - before[1]) == (5, 10)


@pytest.mark.parametrize("keyring", [OLD, OLD_V1], ids=["v2", "v1"])
def test_each_token_has_what_it_is_bound_to(keyring: Keyring) -> None:
    values, salts = rows(3, keyring)
    with pytest.raises(ValueError, match="shorter"):
        Resealer(ring(), CONTEXT).reseal(values, salts, [b""] * 2)


def test_no_iv_is_used_twice() -> None:
    values, salts = rows(250)
    resealer = Resealer(ring(), CONTEXT)
    found = [one[1] for _ in range(2) for one in reseal(values, salts, "", resealer) if one]
    # The letters that hold the iv and nothing else, behind the last byte of the commitment.
    assert len({token[12 + 22 : 12 + 37] for token in found}) == len(found) == 500


def sealed(data: bytes, keyring: Keyring = OLD, salt: str = "1") -> str:
    """A v2 token of bytes that may be no text."""
    key: TenantKey = keyring.primary.tenant_key(salt)
    iv = bytes(12)
    aad = key.aad_heads[CONTEXT]
    return build_v2(key.prefix, key.commitment + iv + key.encrypt(iv, data, aad))


def sealed_v1(data: bytes) -> str:
    iv = bytes(12)
    return build_v1(iv, OLD.primary.v1_cipher("1").encrypt(iv, data, None))


def other_commitment() -> str:
    """The last byte of the commitment is not in the head of the token."""
    token = sealed(b"text")
    payload = bytearray(parse_v2(token))
    payload[15] ^= 1
    return build_v2(token[:12], bytes(payload))


LEFT: dict[str, Callable[[], tuple[str, str]]] = {
    "no salt": lambda: (sealed(b"text"), ""),
    "no salt, v1": lambda: (sealed_v1(b"text"), ""),
    "nothing": lambda: ("", "1"),
    "plaintext": lambda: ("a secret in clear", "1"),
    "base64 but no token": lambda: (build_v1(bytes(12), bytes(40)), "1"),
    "under the primary key": lambda: (sealed(b"text", ALONE), "1"),
    "under no key of the ring": lambda: ("v2:00000000:" + sealed(b"text")[12:], "1"),
    "another version": lambda: ("v9:00000000:" + sealed(b"text")[12:], "1"),
    "another tenant's": lambda: (sealed(b"text"), "2"),
    "another commitment": lambda: (other_commitment(), "1"),
    "cut": lambda: (sealed(b"text")[:-4], "1"),
    "cut to its head": lambda: (sealed(b"text")[:32], "1"),
    "not UTF-8": lambda: (sealed(b"\xff"), "1"),
    "not UTF-8, v1": lambda: (sealed_v1(b"\xff"), "1"),
}


@pytest.mark.parametrize("before", [OLD, OLD_V1], ids=["v2", "v1"])
@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_the_keyring_costs_the_others_nothing(name: str, before: Keyring) -> None:
    values, salts = rows(5, before)
    value, salt = LEFT[name]()
    for place in (0, 2, 5):
        found = reseal(
            [*values[:place], value, *values[place:]], [*salts[:place], salt, *salts[place:]]
        )
        assert found[place] is None
        texts = [one and one[0] for one in [*found[:place], *found[place + 1 :]]]
        assert texts == [f"text {number}" for number in range(5)]


@pytest.mark.parametrize("token", [sealed(b""), sealed_v1(b"")], ids=["v2", "v1"])
def test_an_empty_text_is_not_left_to_the_keyring(token: str) -> None:
    (found,) = reseal([token], ["1"])
    assert found is not None
    assert found[0] == ALONE.decrypt(found[1], "1", CONTEXT) == ""


def test_both_formats_in_one_page() -> None:
    values, salts = rows(20)
    values[::3] = rows(20, OLD_V1)[0][::3]
    assert [one and one[0] for one in reseal(values, salts)] == [f"text {n}" for n in range(20)]


def test_v1_is_not_read_where_the_settings_say_so() -> None:
    values, salts = rows(3, OLD_V1)
    resealer = Resealer(ring(read_formats=["v2"]), CONTEXT)
    assert reseal(values, salts, "", resealer) == [None] * 3


def test_what_decrypts_to_something_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    values, salts = rows(3)
    original = resealing.encode

    def encode(payload: bytes) -> str:
        return original(payload[:-1] + bytes([payload[-1] ^ 1]))

    monkeypatch.setattr(resealing, "encode", encode)
    with pytest.raises(UnverifiedError) as caught:
        reseal(values, salts)
    assert str(caught.value) == "What was encrypted reads back as another value."
    frame = caught.tb
    while frame.tb_next is not None:
        frame = frame.tb_next
    assert "text 0" not in repr(frame.tb_frame.f_locals)


# -- v1 keys ----------------------------------------------------------------------------------


def test_only_the_first_tenant_costs_more_than_one_derivation(
    derived: list[tuple[bytes, bytes]],
) -> None:
    """The other fallback was tried for one tenant, and the primary key for none."""
    values, salts = rows(30, OLD_V1)
    derived.clear()  # of those that made the tokens, unless an earlier test did
    resealer = Resealer(ring(), CONTEXT)
    resealer.derive_v1(values[0], salts[0])
    assert resealer.has_v1(salts[0])
    assert not resealer.has_v1(salts[1])
    for value, salt in zip(values, salts, strict=True):
        resealer.derive_v1(value, salt)
    assert None not in reseal(values, salts, "", resealer)
    keys = [key.decode() for key, _ in derived]
    assert keys.count(FALLBACK) == len(SALTS)
    assert keys.count(STRANGER) == 1
    assert keys.count(PRIMARY) == 0


def test_a_tenant_with_tokens_under_two_keys() -> None:
    mine, salts = rows(4, OLD_V1)
    theirs = Keyring(master(PRIMARY), write_format="v1")
    values = [mine[0], theirs.encrypt("text 1", salts[1]), *mine[2:]]
    values += [theirs.encrypt("text 4", salts[0]), mine[0]]
    found = reseal(values, [*salts, salts[0], salts[0]])
    texts = [one and one[0] for one in found]
    assert texts == ["text 0", "text 1", "text 2", "text 3", "text 4", "text 0"]


@pytest.mark.parametrize("keyring", [OLD, OLD_V1], ids=["v2", "v1"])
def test_keys_are_kept_in_bounds(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resealing, "_MOST_TENANTS", 2)
    values, salts = rows(9, keyring)
    resealer = Resealer(ring(), CONTEXT)
    assert None not in reseal(values, salts, "", resealer)
    assert len(resealer._pairs) <= 2
    assert len(resealer._v1_pairs) <= 2
