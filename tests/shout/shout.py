"""
shout: say every message back, louder.
"""

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from sockapps.clientprotocol import ClientProtocol


class ShoutProtocol(Protocol):
    """Say every message back, louder."""

    factory: "ShoutFactory"
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data + self.factory.mark.encode())


@attrs.define(eq=False, slots=False)
class ShoutFactory(Factory[ShoutProtocol]):
    """Make shouters."""

    protocol = ShoutProtocol
    noisy = False

    mark: str = attrs.field(default="!", metadata={"help": "what makes a message loud"})


class ShoutClient(ClientProtocol):
    """Speak to a shouter."""

    def shout(self, text: str) -> Deferred[str]:
        """Have a text said back, louder."""
        return self.request(text).addCallback(bytes.decode)
