"""
TLS over lean connections: under load, in bulk both ways, and begun midway.

Twisted's TLS keeps its time by the reactor that is installed, so each runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HOME = Path(__file__).parent.parent
BULK = bytes(range(256)) * 8192  # 2 MiB
CONNECTIONS = 40


def load(reactor: Any, server: Any, client: Any) -> None:
    """Echo a lot over each of many connections."""
    from twisted.internet.protocol import ClientFactory

    from tests.reactors import Saying

    class Connecting(Saying, ClientFactory):
        pass

    got: dict[int, bytearray] = {}
    data = BULK[: 128 * 1024]

    def heard(said: Any, more: bytes) -> None:
        mine = got.setdefault(id(said), bytearray())
        mine += more
        if len(mine) == len(data):
            assert mine == data
            said.transport.loseConnection()

    def lost(said: Any) -> None:
        if len(clients.reasons) == CONNECTIONS:
            print("reasons:", *{reason.__name__ for reason in clients.reasons})
            reactor.stop()

    clients = Connecting(heard, made=lambda said: said.transport.write(data), lost=lost)
    port = reactor.listenSSL(0, Saying(), server, interface="127.0.0.1")
    for _ in range(CONNECTIONS):
        reactor.connectSSL("127.0.0.1", port.getHost().port, clients, client)


def bulk(reactor: Any, server: Any, client: Any) -> None:
    """Send much both ways at once, with producers."""
    from twisted.internet.protocol import ClientFactory

    from tests.reactors import Saying

    class Connecting(Saying, ClientFactory):
        pass

    got: dict[str, bytearray] = {"server": bytearray(), "client": bytearray()}

    def side(name: str) -> dict[str, Callable[..., object]]:
        def heard(said: Any, data: bytes) -> None:
            got[name] += data
            if all(len(mine) == len(BULK) for mine in got.values()):
                print("equal:", all(mine == BULK for mine in got.values()))
                reactor.stop()

        return {"heard": heard, "made": lambda said: said.transport.write(BULK)}

    port = reactor.listenSSL(0, Saying(**side("server")), server, interface="127.0.0.1")
    factory = Connecting(**side("client"))
    reactor.connectSSL("127.0.0.1", port.getHost().port, factory, client)


def midway(reactor: Any, server: Any, client: Any) -> None:
    """Begin TLS on a connection that has spoken plainly, in the turn that answers, and write on."""
    from twisted.internet.protocol import ClientFactory

    from tests.reactors import Saying

    class Connecting(Saying, ClientFactory):
        pass

    heard: list[bytes] = []

    def serving(said: Any, data: bytes) -> None:
        if data == b"STARTTLS":
            said.transport.write(b"GO")
            said.transport.startTLS(server)
            said.transport.write(b"secret")
        else:
            print("over TLS:", data.decode(), said.transport.logstr)
            said.transport.write(data.swapcase() * 100_000)
            said.transport.loseConnection()

    def asking(said: Any, data: bytes) -> None:
        heard.append(data)
        if data == b"GO":
            said.transport.startTLS(client)
        elif b"".join(heard[1:]) == b"secret":
            said.transport.write(b"hello")

    def lost(said: Any) -> None:
        answer = b"".join(heard[1:])[6:]
        print("answer:", answer == b"HELLO" * 100_000)
        reactor.stop()

    port = reactor.listenTCP(0, Saying(serving), interface="127.0.0.1")
    factory = Connecting(asking, lambda said: said.transport.write(b"STARTTLS"), lost)
    reactor.connectTCP("127.0.0.1", port.getHost().port, factory)


@pytest.mark.parametrize("reactor", ["epoll", "lean"])
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("load", "reasons: ConnectionDone\n"),
        ("bulk", "equal: True\n"),
        ("midway", "over TLS: hello Says,0,127.0.0.1\nanswer: True\n"),
    ],
)
def test_tls_over_it(reactor: str, what: str, said: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.test_reactor_tls", reactor, what, tmp_path],
        cwd=HOME,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == (said, "")


def main(name: str, what: str, folder: str) -> None:
    from twisted.application.reactors import installReactor

    reactor: Any = installReactor(name)
    from tests.sockets import tlsSides

    server, client = tlsSides(Path(folder))
    reactor.callWhenRunning(
        {"load": load, "bulk": bulk, "midway": midway}[what], reactor, server, client
    )
    reactor.callLater(20, reactor.stop)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
