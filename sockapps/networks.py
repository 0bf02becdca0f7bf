"""
Addresses, as who limits them sees them: what one counts as, and what lies in which network.

C{::ffff:192.0.2.7} is 192.0.2.7 everywhere, and the scope of C{fe80::1%eth0} says nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
)


@lru_cache(16)  # whoever asks about a host asks more than once: is it denied, exempt, which source
def _address(host: str) -> IPv4Address | IPv6Address:
    """
    Read an address as what it stands for.

    @raise ValueError: it is none.
    """
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def sourceOf(host: str) -> str:
    """
    Find what an address counts as: an IPv4 address, or an IPv6 network of 64 bits, for who has one
    address of that has them all.

    @param host: An address, or what this function has returned before.
    @raise ValueError: it is neither.
    """
    address = _address(host[:-3] if host.endswith("::/64") else host)
    if isinstance(address, IPv4Address):
        return str(address)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


def _network(text: str) -> IPv4Interface | IPv6Interface:
    """
    Read an address or a network.

    @raise ValueError: it is neither, or has host bits.
    """
    try:
        network = ip_interface(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither an address nor a network, like 192.0.2.7 or 2001:db8::/32"
        ) from None
    number, length = int(network), network.network.prefixlen
    if isinstance(network, IPv6Interface):
        mapped = number >> 32 == 0xFFFF and length >= 96
        network = (
            IPv4Interface((number & 0xFFFFFFFF, length - 96))
            if mapped
            else IPv6Interface((number, length))
        )
    if network.ip != network.network.network_address:
        raise ValueError(f"{network} has host bits; {network.network} has none")
    return network


class Networks:
    """
    Tell whether a host is in any of some networks, however many these are.

    @param texts: Addresses and networks, like C{"192.0.2.7"} and C{"2001:db8::/32"}.
    @raise ValueError: one of the texts is neither.
    """

    __slots__ = ("_starts",)

    def __init__(self, texts: Iterable[str]) -> None:
        # By version and netmask, which are few: where the networks begin, which may be many.
        self._starts: dict[tuple[int, int], set[int]] = {}
        for network in map(_network, texts):
            key = (network.version, int(network.netmask))
            self._starts.setdefault(key, set()).add(int(network))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __contains__(self, host: str) -> bool:
        address = _address(host)
        number = int(address)
        return any(
            version == address.version and number & mask in starts
            for (version, mask), starts in self._starts.items()
        )
