"""Addresses as limits count them."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address

HOME_PREFIX = 64
"""A subscriber has at least so many bits of IPv6 to choose from, so one address there means nothing."""


def network_of(address: str) -> str:
    """An IPv4 address as it is, an IPv6 address as its /64, and anything else unchanged."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or IPv6Network((int(found), HOME_PREFIX), strict=False))
