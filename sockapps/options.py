"""
What a process and its services can be told of their dealings with peers; each field is a key.

Wherever a limit is a number, 0 means that there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from sockapps.framing import DEFAULT_MAX_MESSAGE, FRAMINGS
from sockapps.limits import OVERFLOWS, Networks

_atLeast0: Any = attrs.validators.ge(0)


def _networks(_: object, field: attrs.Attribute[Sequence[str]], value: Sequence[str]) -> None:
    """
    Take addresses and networks only.

    @raise ValueError: one of the texts is neither.
    """
    Networks(value)


@attrs.frozen
class ProcessOptions:
    """
    What holds for all services together: the table C{[limits]}.
    """

    maxConnections: int = attrs.field(
        default=20_000,
        validator=_atLeast0,
        metadata={"help": "connections to all services at most; more are closed at once"},
    )
    reservedFiles: int = attrs.field(
        default=32,
        validator=attrs.validators.ge(8),
        metadata={"help": "file descriptors that no connection of a service may take"},
    )
    exempt: Sequence[str] = attrs.field(
        default=("127.0.0.0/8", "::1"),
        validator=_networks,
        metadata={"help": "networks whose sources have no limits of their own, and no penalties"},
    )
    maxSources: int = attrs.field(
        default=65_536,
        validator=attrs.validators.ge(1),
        metadata={"help": "sources that are remembered; the least recently seen make room"},
    )
    penaltyLogin: float = attrs.field(
        default=10.0,
        validator=_atLeast0,
        metadata={"help": "seconds that a failed login adds to its source's penalty"},
    )
    penaltyLong: float = attrs.field(
        default=10.0,
        validator=_atLeast0,
        metadata={"help": "seconds that a message over max_message adds"},
    )
    penaltyFault: float = attrs.field(
        default=10.0,
        validator=_atLeast0,
        metadata={"help": "seconds that a malformed stream adds"},
    )
    penaltyDeadline: float = attrs.field(
        default=10.0,
        validator=_atLeast0,
        metadata={"help": "seconds that a missed deadline or a stalled reader adds"},
    )
    penaltyThreshold: float = attrs.field(
        default=15.0,
        validator=_atLeast0,
        metadata={"help": "seconds of penalty over which a source is refused, until all are over"},
    )
    penaltyMax: float = attrs.field(
        default=600.0,
        validator=_atLeast0,
        metadata={"help": "seconds of penalty that a source can gather at most"},
    )
    penaltyOverflow: str = attrs.field(
        default="permissive",
        validator=attrs.validators.in_(OVERFLOWS),
        metadata={
            "help": "when max_sources are penalized at once: permissive forgets the one that ends "
            "first, deny-all refuses every source that is not exempt"
        },
    )

    def __attrs_post_init__(self) -> None:
        if 0 < self.penaltyMax <= self.penaltyThreshold:
            raise ValueError(
                f"penalty_max: must be more than penalty_threshold, {self.penaltyThreshold:g}, "
                f"not {self.penaltyMax:g}: no source would ever be refused"
            )


@attrs.frozen
class AdmissionOptions:
    """
    Whom a service lets in, and how much from one source: an IPv4 address, or an IPv6 /64.

    Of a rate, one second's worth may come at once.
    """

    maxConnections: int = attrs.field(
        default=15_000,
        validator=_atLeast0,
        metadata={"help": "connections at most; more are closed at once"},
    )
    maxConnectionsPerSource: int = attrs.field(
        default=100,
        validator=_atLeast0,
        metadata={"help": "connections from one source at most"},
    )
    connectionRate: float = attrs.field(
        default=50.0,
        validator=_atLeast0,
        metadata={"help": "new connections a second from one source"},
    )
    messageRate: float = attrs.field(
        default=10_000.0,
        validator=_atLeast0,
        metadata={"help": "messages a second from one source; over it: closed, or dropped on UDP"},
    )
    allow: Sequence[str] = attrs.field(
        default=(),
        validator=_networks,
        metadata={"help": "networks that may come; without any, all may"},
    )
    deny: Sequence[str] = attrs.field(
        default=(),
        validator=_networks,
        metadata={"help": "networks that may not, whatever allow says"},
    )


@attrs.frozen
class StreamOptions:
    """
    How a service deals with streams.
    """

    framing: str = attrs.field(
        default="auto",
        validator=attrs.validators.in_(FRAMINGS),
        metadata={"help": f"how bytes become messages: {', '.join(FRAMINGS)}"},
    )
    maxMessage: int = attrs.field(
        default=DEFAULT_MAX_MESSAGE,
        validator=attrs.validators.ge(1),
        metadata={"help": "bytes of a message at most; over it: an error reply and a close"},
    )
    quiet: float = attrs.field(
        default=0.05,
        validator=attrs.validators.gt(0),
        metadata={"help": "auto: seconds without a byte that end a first message with no LF"},
    )
    closeTimeout: float = attrs.field(
        default=30.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "seconds a peer has to take its last replies before it is cut off"},
    )
    linger: float = attrs.field(
        default=5.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "seconds a peer has to close too after it was sent everything"},
    )
    firstMessageTimeout: float = attrs.field(
        default=60.0,
        validator=_atLeast0,
        metadata={"help": "seconds until a connection's first message is complete"},
    )
    messageTimeout: float = attrs.field(
        default=30.0,
        validator=_atLeast0,
        metadata={"help": "seconds from a message's first byte to its last, however they come"},
    )
    idleTimeout: float = attrs.field(
        default=600.0,
        validator=_atLeast0,
        metadata={"help": "seconds without a message or a reply that end a connection"},
    )
    sessionTimeout: float = attrs.field(
        default=86_400.0,
        validator=_atLeast0,
        metadata={"help": "seconds that a connection lasts at most"},
    )
    maxUnsent: int = attrs.field(
        default=256 * 1024,
        validator=attrs.validators.ge(0),
        metadata={"help": "bytes of replies that wait unread; one more reply then cuts off"},
    )
    stallTimeout: float = attrs.field(
        default=10.0,
        validator=_atLeast0,
        metadata={"help": "seconds in which a peer takes none of the replies that wait; then cut"},
    )


@attrs.frozen
class DatagramOptions:
    """
    How a service deals with datagrams.
    """

    maxPeers: int = attrs.field(
        default=10_000,
        validator=attrs.validators.ge(1),
        metadata={"help": "UDP conversations at most; the longest silent one makes room"},
    )
    peerTimeout: float = attrs.field(
        default=300.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "seconds without a datagram that end a UDP conversation"},
    )
    minSourcePort: int = attrs.field(
        default=1024,
        validator=[attrs.validators.ge(1), attrs.validators.le(65_535)],
        metadata={"help": "datagrams from ports below it are a server's, and not answered"},
    )
    replyRate: float = attrs.field(
        default=1000.0,
        validator=_atLeast0,
        metadata={"help": "replies a second to one source over UDP"},
    )
    amplification: float = attrs.field(
        default=0.0,
        validator=_atLeast0,
        metadata={
            "help": "bytes sent to a source for each that came from it, in IP packets, at most; "
            "0: 1 for an app whose messages stand alone, 3 for a conversation"
        },
    )
