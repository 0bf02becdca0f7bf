"""
What an address counts as, and which network it is in: pure, so the tests call it.
"""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from sockapps.limits import Networks, sourceOf

v4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
v6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address)

# Few distinct bits, or else nothing is ever in anything.
few4 = st.integers(0, 15).map(lambda n: ipaddress.IPv4Address(0x2A << 24 | n << 20 | n % 4))
few6 = st.integers(0, 15).map(lambda n: ipaddress.IPv6Address(0x2A << 120 | n << 116 | n % 4))
fewNetworks = st.one_of(
    st.tuples(few4.map(str), st.integers(0, 32)), st.tuples(few6.map(str), st.integers(0, 128))
).map(lambda pair: ipaddress.ip_network(pair, strict=False))


class SourceTests(SynchronousTestCase):
    """What L{sourceOf} makes of an address."""

    def test_addressesAreNormalized(self) -> None:
        for host, source in (
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("::FFFF:c000:0207", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:0DB8:0001:0002::", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("::ffff:192.0.2.7%eth0", "192.0.2.7"),
            ("::1", "::/64"),
            ("0:0:0:1::2", "0:0:0:1::/64"),
        ):
            assert sourceOf(host) == source, host

    def test_whatIsNoAddressIsAnError(self) -> None:
        for host in (
            "",
            "localhost",
            "1.2.3",
            "1.2.3.4/64",
            "1.2.3.4%x",
            "::/65",
            "2001:db8::1/64",
        ):
            with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
                sourceOf(host)


class NetworksTests(SynchronousTestCase):
    """Which hosts are in which L{Networks}."""

    def test_addressesAndNetworksHoldTheirOwnOnly(self) -> None:
        networks = Networks(["192.0.2.7", "10.0.0.0/8", "2001:db8::/32", "fe80::%eth0/10"])
        for host in ("192.0.2.7", "10.255.0.1", "::ffff:10.0.0.1", "2001:db8::1", "fe80::1%eth1"):
            assert host in networks, host
        for host in ("192.0.2.8", "11.0.0.1", "::ffff:11.0.0.1", "2001:db9::1", "::192.0.2.7"):
            assert host not in networks, host

    def test_mappedNetworksAreIPv4OnesAndNoIPv6OneHoldsThem(self) -> None:
        mapped = Networks(["::ffff:10.0.0.0/104", "::ffff:192.0.2.7"])
        for host in ("10.1.2.3", "::ffff:10.1.2.3", "192.0.2.7"):
            assert host in mapped, host
        assert "192.0.2.8" not in mapped
        assert "1.2.3.4" in Networks(["::ffff:0:0/96"])
        assert "::ffff:1.2.3.4" not in Networks(["::/0"])

    def test_noneAtAllHoldNobodyAndAreFalse(self) -> None:
        assert not Networks([])
        assert "192.0.2.7" not in Networks([])
        assert Networks(["0.0.0.0/0"])

    def test_whatIsWrongIsSaidWithWhatWouldBeRight(self) -> None:
        neither = "is neither an address nor a network, like 192.0.2.7 or 2001:db8::/32"
        for text, error in (
            ("10.0.0.1/8", "10.0.0.1/8 has host bits; 10.0.0.0/8 has none"),
            ("::ffff:10.0.0.1/104", "10.0.0.1/8 has host bits; 10.0.0.0/8 has none"),
            ("2001:db8::1%x/64", "2001:db8::1/64 has host bits; 2001:db8::/64 has none"),
            ("localhost", f"'localhost' {neither}"),
            ("", f"'' {neither}"),
            ("10.0.0.0/33", f"'10.0.0.0/33' {neither}"),
            ("\x1b[31m", f"'\\x1b[31m' {neither}"),
        ):
            with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
                Networks(["192.0.2.0/24", text])


@given(v4 | v6)
def test_aSourceIsItsOwnSource(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    source = sourceOf(str(address))
    assert sourceOf(source) == source


@given(v4)
def test_aMappedAddressCountsAsTheIPv4One(address: ipaddress.IPv4Address) -> None:
    assert sourceOf(f"::ffff:{address}") == str(address)


@given(v6, st.integers(0, 2**64 - 1))
def test_aHostCountsAsTheNetworkOf64BitsThatItIsIn(
    address: ipaddress.IPv6Address, other: int
) -> None:
    neighbor = ipaddress.IPv6Address(int(address) >> 64 << 64 | other)
    assume(address.ipv4_mapped is None and neighbor.ipv4_mapped is None)
    network = ipaddress.IPv6Network((int(address) >> 64 << 64, 64))
    assert sourceOf(str(address)) == sourceOf(f"{neighbor.exploded}%7") == str(network)


@given(few4 | few6, st.lists(fewNetworks, max_size=5))
def test_networksAgreeWithThoseOfPython(
    host: ipaddress.IPv4Address | ipaddress.IPv6Address,
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network],
) -> None:
    ours = Networks(map(str, networks))
    assert (str(host) in ours) == any(host in each for each in networks)
