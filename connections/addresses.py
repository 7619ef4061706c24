"""Which network addresses a request on behalf of a user may go to.

Only what is public. What is not is listed here in full (IANA's special-purpose registries, RFC 6890
and its updates) instead of being asked of ``ipaddress``, whose ``is_global`` differs between
releases of Python.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

FORBIDDEN_IPV4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 is this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers; a cloud's metadata at 100.100.100.200
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host: public by number alone
        "169.254.0.0/16",  # link-local; most clouds' metadata at 169.254.169.254
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata at 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
]

#: All of IPv6 that is given out to networks (RFC 4291): what lies outside is loopback, private
#: (fc00::/7), link-local (fe80::/10), site-local, multicast or an IPv4 address in another form.
GLOBAL_UNICAST = IPv6Network("2000::/3")
FORBIDDEN_IPV6 = [
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in another form
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
]


class ForbiddenAddressError(Exception):
    """A request would go to an address that is not public."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Say whether an address is one of the public Internet."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        return (
            address.scope_id is None
            and address in GLOBAL_UNICAST
            and not any(address in network for network in FORBIDDEN_IPV6)
        )
    return not any(address in network for network in FORBIDDEN_IPV4)


def is_allowed_host(host: str, port: int, allowed: Iterable[str]) -> bool:
    """Say whether a list of ``host`` and ``host:port`` names this host and port."""
    name = host.lower().removesuffix(".")
    forms = {name, f"{name}:{port}", f"[{name}]", f"[{name}]:{port}"}
    return not forms.isdisjoint(allowed)


def check_addresses(found: Iterable[str]) -> list[str]:
    """Return the addresses that a name was resolved to, if all of them are public.

    Raises:
        ForbiddenAddressError: one of them is not, or there is none.
    """
    addresses = list(found)
    if not addresses or not all(is_public(ip_address(address)) for address in addresses):
        raise ForbiddenAddressError
    return addresses
