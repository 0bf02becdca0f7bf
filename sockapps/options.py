"""
What every service can be told of its dealings with its peers; each field is a key of its settings.
"""

from __future__ import annotations

import attrs

from sockapps.framing import DEFAULT_MAX_MESSAGE, FRAMINGS


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
