from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import time_machine
from django.core.exceptions import ValidationError
from hypothesis import given, strategies as st

from apikeys import restrictions
from apikeys.scopes import Scope


def attempt(clean: Callable[[Any], Any], value: Any) -> tuple[Any, str | None]:
    """What a function makes of a value, and why it refuses it."""
    try:
        return clean(value), None
    except ValidationError as error:
        return None, error.message


NOON = datetime(2031, 5, 6, 12, tzinfo=UTC)


@given(st.ip_addresses(), st.data())
def test_an_address_is_within_the_networks_that_hold_it(address, data) -> None:
    prefix = data.draw(st.integers(0, address.max_prefixlen))
    network = ip_network((address, prefix), strict=False)
    if address.version == 6 and network.network_address.ipv4_mapped:
        return  # to be written as IPv4
    [cleaned] = restrictions.clean_networks([str(network)])
    assert ip_network(cleaned) == network
    if not (address.version == 6 and address.ipv4_mapped):
        assert restrictions.is_within(str(address), [cleaned])


@given(st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_an_address_is_within_no_other_network(one, other) -> None:
    assert restrictions.is_within(str(one), [f"{other}/32"]) is (one == other)
    assert restrictions.is_within(f"::ffff:{one}", [f"{other}/32"]) is (one == other)


def test_versions_do_not_mix() -> None:
    assert not restrictions.is_within("2001:db8::1", ["0.0.0.0/0"])
    assert not restrictions.is_within("192.0.2.1", ["::/0"])
    assert restrictions.is_within("192.0.2.1", ["::/0", "0.0.0.0/0"])


@given(st.text())
def test_no_text_is_an_address(text: str) -> None:
    try:
        ip_address(text)
    except ValueError:
        assert not restrictions.is_within(text, ["0.0.0.0/0", "::/0"])


#: All that is said of what is no network, and of what is no name.
NO_NETWORK = {attempt(restrictions.clean_networks, [text])[1] for text in ("x", "::ffff:0:0")}
NO_NAME = {attempt(restrictions.clean_name, text)[1] for text in ("", "x" * 101, "a\0b")}


@given(st.text(min_size=1))
def test_no_network_breaks_the_parser_or_is_repeated(text: str) -> None:
    cleaned, problem = attempt(restrictions.clean_networks, [text])
    if problem is None:
        assert ip_network(cleaned[0])
    else:
        assert problem in NO_NETWORK


@given(st.lists(st.sampled_from(Scope.values)))
def test_scopes_are_a_set_in_one_order(scopes: list[str]) -> None:
    if not scopes:
        with pytest.raises(ValidationError):
            restrictions.clean_scopes(scopes)
        return
    cleaned = restrictions.clean_scopes(scopes)
    assert set(cleaned) == set(scopes)
    assert len(cleaned) == len(set(scopes))
    assert cleaned == restrictions.clean_scopes(reversed(scopes))


@given(st.text())
def test_a_name_is_one_printable_line_or_refused(text: str) -> None:
    name, problem = attempt(restrictions.clean_name, text)
    if problem is None:
        assert name == text.strip()
        assert name.isprintable()
        assert 0 < len(name) <= 100
    else:
        assert problem in NO_NAME


@pytest.mark.parametrize(
    "text", ["a\u202eb", "a\u200bb", "a\ufeffb", "a\x7fb", "a\u2028b", "\ud800"]
)
def test_a_name_cannot_pretend_to_be_another(text: str) -> None:
    with pytest.raises(ValidationError):
        restrictions.clean_name(text)


@pytest.mark.parametrize(
    ("expires_at", "code"),
    [
        (datetime(2031, 6, 1), "naive"),  # noqa: DTZ001
        (NOON, "past"),
        (NOON - timedelta(days=1), "past"),
        (NOON + timedelta(days=30, seconds=1), "over_maximum_lifetime"),
        (None, "expiry_required"),
        (NOON + timedelta(days=30), None),
        (NOON + timedelta(seconds=1), None),
    ],
)
def test_when_a_key_may_expire(settings, expires_at, code) -> None:
    settings.API_KEYS_MAXIMUM_LIFETIME = timedelta(days=30)
    with time_machine.travel(NOON, tick=False):
        if code is None:
            assert restrictions.clean_expiry(expires_at) == expires_at
            return
        with pytest.raises(ValidationError) as caught:
            restrictions.clean_expiry(expires_at)
    assert caught.value.code == code


def test_what_is_said_of_a_maximum_that_is_no_whole_number_of_days(settings) -> None:
    settings.API_KEYS_MAXIMUM_LIFETIME = timedelta(hours=36)
    with pytest.raises(ValidationError, match="36 hours"):
        restrictions.clean_expiry(None)
