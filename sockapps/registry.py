"""
Declaring apps and finding them: ours and everybody's, through Twisted's plugins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import attrs
from twisted.plugin import getPlugins
from twisted.python.reflect import namedAny
from zope.interface import implementer

from sockapps.interfaces import ISocketApp

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocolFactory

    from sockapps.clientprotocol import ClientProtocol

DEFAULT_CLIENT = "sockapps.clientprotocol.ClientProtocol"


@implementer(ISocketApp)
@attrs.frozen
class SocketApp:
    """
    One app, as a dropin declares it: one line, naming its code by string.

    @ivar name: What C{--service=} and C{sockapps call} say.
    @ivar summary: What it does, in one line.
    @ivar listens: The endpoint it listens on by default: a Twisted server string, or
        C{udp:PORT[:interface=ADDRESS]}.
    @ivar factory: The dotted name of the protocol factory, or of anything callable that
        returns one.
    @ivar client: The dotted name of the client protocol; without one, a client that has
        C{request} only.
    @ivar framing: The framing it has by default, one of L{sockapps.framing.FRAMINGS}.
    """

    name: str
    summary: str
    listens: str
    factory: str
    client: str = DEFAULT_CLIENT
    framing: str = "auto"

    def loadFactory(self) -> Callable[..., IProtocolFactory]:
        """See L{ISocketApp.loadFactory}."""
        return cast("Callable[..., IProtocolFactory]", _load(self.factory))

    def loadClient(self) -> type[ClientProtocol]:
        """See L{ISocketApp.loadClient}."""
        return cast("type[ClientProtocol]", _load(self.client))


def _load(name: str) -> object:
    """
    Import the object of this dotted name.

    @raise ImportError: there is none, or its module fails when it is imported.
    """
    try:
        return cast(object, namedAny(name))
    except Exception as error:
        # Whatever is wrong with one app's code, the others can still be found and described.
        raise ImportError(f"{name}: {type(error).__name__}: {error}") from error


def findApps() -> dict[str, ISocketApp]:
    """
    Every app that Twisted's plugin system can see, by name, in the order of the names.

    Where two packages declare one name, the first found has it.
    """
    found: dict[str, ISocketApp] = {}
    for app in getPlugins(ISocketApp):
        found.setdefault(app.name, app)
    return dict(sorted(found.items()))
