"""
Which datagrams are answered, and how much: no I/O, no timer, and the clock is passed in.

Anybody can write anybody's address on a datagram. So an answer may go to who never asked: it must
not be more than what came (RFC 9000, section 8.1), not too many, not to where an answer is answered
in turn (CVE-2024-2169, CVE-1999-0103), and not to an address that is nobody's or everybody's.

A source that is exempt from limits is so as a client, whose port the system has chosen. From a
lower port it is taken for a server, which might answer answers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from math import inf

from sockapps.limits import Admission, Standing
from sockapps.options import DatagramOptions

Address = tuple[str, int]

ALONE, CONVERSATION = 1.0, 3.0
"""
How many bytes may go back for each that came, where no option says it: for an app whose messages
stand alone, none more than came for each of them; else so many for all of a peer's.
"""

REFLECTIONS = 4
"""
Answers that are what was asked, and may go to one address at once. Two servers that keep to it
come to a rest after 9 datagrams.
"""

REFLECTION_RATE = 1.0
"""And how many such a second after that."""

REMEMBERED = 16_384
"""Addresses, and sources, that are remembered for their answers: the longest silent make room."""


def onWire(size: int, host: str) -> int:
    """
    Say what bytes a datagram is as IP packets: as Ethernet carries it, 1,500 bytes each, every
    header counted.

    @param size: Its bytes, without any header.
    @param host: Where it comes from or goes to.
    """
    size += 8
    if "." in host:
        return size + 20 * -(-size // 1480)
    # A fragment of IPv6 has one header more, and a multiple of 8 bytes.
    return size + 40 if size <= 1460 else size + 48 * -(-size // 1448)


def isOfMany(host: str) -> bool:
    """Tell whether an address is one that nobody can send from: broadcast, multicast, or none."""
    if "." not in host:
        return host == "::" or host.startswith("ff")
    first = int(unmapped(host).partition(".")[0])
    return first == 0 or first >= 224


def unmapped(host: str) -> str:
    """Take an IPv4 address that a socket for both kinds has heard for what it is."""
    return host.removeprefix("::ffff:") if "." in host else host


class OwnAddresses:
    """
    Know where this process listens for datagrams: it is never to answer itself.

    @param isLocal: Tells whether an address is one of this machine.
    @ivar hosts: Where it listens, by port.
    """

    def __init__(self, isLocal: Callable[[str], bool]) -> None:
        self._isLocal = isLocal
        self.hosts: dict[int, list[str]] = {}

    def add(self, host: str, port: int) -> None:
        """Note that it listens there now."""
        self.hosts.setdefault(port, []).append(host)

    def remove(self, host: str, port: int) -> None:
        """Note that it does not any more, once for each time that it did."""
        hosts = self.hosts[port]
        hosts.remove(host)
        if not hosts:
            del self.hosts[port]

    def __contains__(self, addr: Address) -> bool:
        host, port = addr
        hosts = self.hosts.get(port)
        if hosts is None:
            return False
        if unmapped(host) in hosts:
            return True
        return ("0.0.0.0" in hosts or "::" in hosts) and self._isLocal(host)  # noqa: S104  # nothing is bound


class Pace:
    """
    Hold each of many to a rate, and remember a bounded number of them.

    All that is remembered of one is when it would have used up what it took, at that rate.

    @param seconds: The clock, which never goes back.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._due: OrderedDict[Hashable, float] = OrderedDict()

    def take(self, key: Hashable, rate: float, burst: float) -> bool:
        """
        Take one more, or not: C{False}.

        @param rate: How many a second.
        @param burst: How many at once.
        """
        now = self._seconds()
        due = max(self._due.pop(key, now), now)
        # The half is for what adding up times has lost.
        taken = (due - now) * rate <= burst - 0.5
        self._due[key] = due + 1 / rate if taken else due
        if len(self._due) > REMEMBERED:
            self._due.popitem(last=False)
        return taken


class Allowance:
    """
    What may be answered to a datagram, or to all of a conversation.

    @ivar standing: What is known of where it came from.
    @ivar request: The datagram, the last one of a conversation.
    @ivar credit: How many bytes may still go there, see L{onWire}.
    """

    __slots__ = ("credit", "request", "standing")

    def __init__(self, standing: Standing, request: bytes, credit: float) -> None:
        self.standing = standing
        self.request = request
        self.credit = credit


class Guard:
    """
    Judge the datagrams of one service at one endpoint, and the answers to them.

    @param admission: Knows who may come, and who is exempt.
    @param standsAlone: Whether each message is answered by itself.
    @param own: Where the process listens.
    @param firstClientPort: From which port on an exempt source is a client.
    @ivar options: What is decided by, from now on.
    """

    def __init__(
        self,
        options: DatagramOptions,
        admission: Admission,
        standsAlone: bool,
        seconds: Callable[[], float],
        own: OwnAddresses,
        firstClientPort: int,
    ) -> None:
        self.options = options
        self._admission = admission
        self._factor = ALONE if standsAlone else CONVERSATION
        self._own = own
        self._firstClientPort = firstClientPort
        self._reflections = Pace(seconds)
        self._replies = Pace(seconds)

    @property
    def clients(self) -> int:
        """From which port on nothing about an exempt source needs to be looked at."""
        return max(self.options.minSourcePort, self._firstClientPort)

    def judge(self, datagram: bytes, addr: Address) -> Allowance | str | None:
        """
        Decide what becomes of a datagram.

        @return: What may be answered, C{None} for anything; or why nothing may, and the app is not
            even to be told: one of L{sockapps.counts.DROPS}.
        """
        host, port = addr
        if not datagram:
            return "empty"
        if port < self.options.minSourcePort:
            return "port"
        if isOfMany(host):
            return "broadcast"
        if addr in self._own:
            return "own"
        standing = self._admission.hear(host)
        if isinstance(standing, str):
            return standing
        if not standing.limited:
            return None if port >= self.clients else Allowance(standing, datagram, inf)
        if not standing.messages.take():
            return "rate"
        factor = self.options.amplification or self._factor
        return Allowance(standing, datagram, factor * onWire(len(datagram), host))

    def refuses(self, allowance: Allowance, addr: Address, reply: bytes) -> str | None:
        """
        Decide whether an answer is not to be sent.

        @return: Why: one of L{sockapps.counts.DROPS}. C{None}: send it, it is accounted for.
        """
        host = addr[0]
        size = onWire(len(reply), host)
        if size > allowance.credit:
            return "amplification"
        if reply == allowance.request and not self._reflections.take(
            addr, REFLECTION_RATE, REFLECTIONS
        ):
            return "reflected"
        rate = self.options.replyRate
        source = allowance.standing.source or host
        if rate and not self._replies.take(source, rate, max(1.0, rate)):
            return "reply_rate"
        allowance.credit -= size
        return None
