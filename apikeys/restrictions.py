"""What a new key may be restricted to. Each function returns the value in its stored form.

They raise Django's ``ValidationError``, whose message never repeats the input.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from django.core.exceptions import ValidationError
from django.utils import timezone

from apikeys.conf import get_settings
from apikeys.scopes import Scope
from apikeys.tokens import contains_key

NAME_LENGTH = 100
MAXIMUM_NETWORKS = 50
MAXIMUM_OVERLAP = timedelta(days=7)


def clean_name(name: str) -> str:
    """Return a key's name without the spaces around it: 1 to 100 characters on one line."""
    name = name.strip()
    if not name:
        raise ValidationError("Give the key a name.", code="blank")
    if len(name) > NAME_LENGTH:
        raise ValidationError(f"A name has at most {NAME_LENGTH} characters.", code="max_length")
    if not name.isprintable():
        raise ValidationError("A name is one line of printable characters.", code="unprintable")
    if contains_key(name):
        raise ValidationError("This is a key. Names are shown to others.", code="api_key")
    return name


def clean_scopes(scopes: Iterable[str]) -> list[str]:
    """Return scopes in the order of their definition, each once; at least one."""
    wanted = set(scopes)
    if not wanted:
        raise ValidationError("Choose at least one scope.", code="empty")
    if not wanted.issubset(Scope.values):
        raise ValidationError(
            f"The scopes are {', '.join(Scope.values)}; there is no wildcard.",
            code="unknown_scope",
        )
    return [scope for scope in Scope.values if scope in wanted]


def clean_networks(networks: Iterable[str]) -> list[str]:
    """Return networks in CIDR notation (RFC 4632, RFC 4291), each once; a lone address is one."""
    cleaned = list(dict.fromkeys(_clean_network(network) for network in networks))
    if len(cleaned) > MAXIMUM_NETWORKS:
        raise ValidationError(f"At most {MAXIMUM_NETWORKS} networks.", code="max_length")
    return cleaned


def _clean_network(text: str) -> str:
    network: IPv4Network | IPv6Network | None
    try:
        network = ip_network(text.strip())
    except ValueError:
        network = None
    if network is None:
        raise ValidationError(
            "Networks are written as 203.0.113.0/24 or 2001:db8::/32, with no bits set beyond "
            "the prefix.",
            code="invalid_network",
        )
    if isinstance(network, IPv6Network) and (
        network.network_address.ipv4_mapped is not None
        or network.network_address.scope_id is not None
    ):
        raise ValidationError(
            "Write an IPv4 network in its own notation, and no zone.", code="invalid_network"
        )
    return str(network)


def is_within(address: str, networks: Iterable[str]) -> bool:
    """Whether an address is in one of the networks. What is no address is in none."""
    client: IPv4Address | IPv6Address
    try:
        client = ip_address(address)
    except ValueError:
        return False
    if isinstance(client, IPv6Address) and client.ipv4_mapped is not None:
        client = client.ipv4_mapped
    return any(client in ip_network(network) for network in networks)


def clean_expiry(expires_at: datetime | None) -> datetime | None:
    """Return when a new key expires: aware, in the future, within the maximum lifetime."""
    maximum = get_settings().maximum_lifetime
    now = timezone.now()
    if expires_at is None:
        if maximum is not None:
            raise ValidationError(
                f"A key must expire, after at most {_days(maximum)}.", code="expiry_required"
            )
        return None
    if timezone.is_naive(expires_at):
        raise ValidationError("Give the time with its offset from UTC.", code="naive")
    if expires_at <= now:
        raise ValidationError("This time has passed.", code="past")
    if maximum is not None and expires_at > now + maximum:
        raise ValidationError(
            f"A key is valid for at most {_days(maximum)}.", code="over_maximum_lifetime"
        )
    return expires_at


def default_expiry() -> datetime | None:
    """When a key expires for which nothing was said: as late as is allowed."""
    maximum = get_settings().maximum_lifetime
    return None if maximum is None else timezone.now() + maximum


def clean_overlap(overlap: timedelta) -> timedelta:
    """Return for how long a key is valid beside its successor: 0 to 7 days."""
    if not timedelta() <= overlap <= MAXIMUM_OVERLAP:
        raise ValidationError("The overlap is 0 to 7 days.", code="overlap")
    return overlap


def _days(span: timedelta) -> str:
    if span % timedelta(days=1):
        hours = span / timedelta(hours=1)
        return f"{hours:g} hour{'' if hours == 1 else 's'}"
    return f"{span.days} day{'' if span.days == 1 else 's'}"
