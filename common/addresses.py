"""Addresses as limits count them."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address

HOME_PREFIX = 64
"""A subscriber has at least so many bits of IPv6 to choose from, so one address there means nothing."""
SITE_PREFIX = 48
"""What one site is given at most (RFC 6177): 65,536 networks of which whoever has it uses as many as they like."""


def network_of(address: str) -> str:
    """An IPv4 address as it is, an IPv6 address as its /64, and anything else unchanged."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or IPv6Network((int(found), HOME_PREFIX), strict=False))


@lru_cache(maxsize=8192)
def site_of(network: str) -> str:
    """The site a network (`network_of`) belongs to: of IPv6 the /48, anything else is its own."""
    address, slash, _ = network.partition("/")
    if not slash or ":" not in address:
        return network
    try:
        return str(IPv6Network((int(IPv6Address(address)), SITE_PREFIX), strict=False))
    except ValueError:
        return network
