"""
The contracts between an app and what stands around it.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IProtocolFactory, ITransport
from twisted.internet.protocol import Protocol
from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface


class ISocketApp(IPlugin):
    """
    An app as Twisted's plugin system finds it: what it is called, where it listens, what to load.
    """

    name = Attribute("C{str}: what C{--service=} and C{sockapps call} say, like C{'echo'}.")
    summary = Attribute("C{str}: what it does, in one line.")
    listens = Attribute("C{str}: the endpoint it listens on by default.")
    framing = Attribute("C{str}: the framing it has by default, see L{sockapps.framing}.")

    def loadFactory() -> Callable[..., IProtocolFactory]:
        """
        Import what builds the app's protocol factory.

        Where that is an attrs class, its fields that have a C{help} in their metadata are the
        app's options.

        @return: A callable that takes the options and returns an
            L{IProtocolFactory<twisted.internet.interfaces.IProtocolFactory>}.
        @raise ImportError: the module is not there, or cannot be imported.
        """

    def loadClient() -> type[Protocol]:
        """
        Import the app's client protocol.

        @return: A subclass of L{sockapps.clientprotocol.ClientProtocol}.
        @raise ImportError: the module is not there, or cannot be imported.
        """


class IDatagramApp(Interface):
    """
    What a factory may declare of its dealings with datagrams.

    A factory that declares nothing gets one protocol for each peer, and messages without their
    trailing newline.
    """

    standsAlone = Attribute(
        "C{bool}: each message is answered by itself and at once, so one protocol serves all peers."
    )
    wholeDatagrams = Attribute("C{bool}: the app is given a trailing LF or CRLF too.")


class IMeasured(Interface):
    """
    What a factory may tell operators of, beside what the shell around it counts anyway.
    """

    outcomes = Attribute(
        "C{Mapping[str, int]}: what its messages came to, and how often, like C{'accepted'}: each "
        "outcome from the start, with a 0, and none by a name that a peer has made up."
    )


class IDatagramTransport(ITransport):
    """
    The transport of an app whose peer sends datagrams: each C{write} is one datagram back.
    """


class IAccountable(Interface):
    """
    What a session's transport offers an app whose peers may misuse it.
    """

    source = Attribute(
        "C{str | None}: what the peer's address counts as, an IPv4 address or an IPv6 /64; C{None} "
        "where it has none (a UNIX socket), or is exempt from limits."
    )

    def penalize(kind: str) -> None:
        """
        Hold something against the peer's source, so that it is refused when that adds up. A sender
        of datagrams, which anybody can pretend to be, nothing is held against.

        @param kind: One of L{sockapps.limits.OFFENCES}, like C{"login"}.
        """
