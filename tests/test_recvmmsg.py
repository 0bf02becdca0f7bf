"""
Tests for L{sockapps.recvmmsg}, on real sockets.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from errno import EBADF

import pytest
from twisted.trial.unittest import SynchronousTestCase

from sockapps.recvmmsg import NAMES, Receiver, sender

HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class Receiving(SynchronousTestCase):
    """What a receiver takes is what C{recvfrom} would have said."""

    skip = None if sys.platform == "linux" else "it is Linux's recvmmsg(2)"

    def listening(self, family: socket.AddressFamily) -> socket.socket:
        """Have a socket that does not block."""
        opened = socket.socket(family, socket.SOCK_DGRAM)
        self.addCleanup(opened.close)
        opened.bind((HOSTS[family], 0))
        opened.setblocking(False)
        return opened

    def test_itSaysWhatCameAndFromWhomInOrder(self) -> None:
        for family in NAMES:
            server, receive = self.listening(family), Receiver(family, 100, 8)
            peers = [self.listening(family) for _ in range(3)]
            owed = [(b"%d" % each, peers[each % 3].getsockname()[:2]) for each in range(7)]
            for each, (datagram, _) in enumerate(owed):
                peers[each % 3].sendto(datagram, server.getsockname())
            assert receive(server.fileno()) == owed
            peers[0].sendto(b"more", server.getsockname())
            assert receive(server.fileno()) == [(b"more", peers[0].getsockname()[:2])]

    def test_aDatagramIsAsLongAsItWasUpToTheSize(self) -> None:
        for size in (10, 65536):
            server, receive = self.listening(socket.AF_INET), Receiver(socket.AF_INET, size, 8)
            sent = [b"", b"x", b"ten bytes!", b"eleven byte", b"y" * 65507, b""]
            for datagram in sent:
                server.sendto(datagram, server.getsockname())
            took = [datagram for datagram, _ in receive(server.fileno())]
            assert took == [datagram[:size] for datagram in sent]

    def test_whatIsTooManyForOneCallWaitsForTheNext(self) -> None:
        server, receive = self.listening(socket.AF_INET), Receiver(socket.AF_INET, 100, 3)
        for each in range(7):
            server.sendto(b"%d" % each, server.getsockname())
        took = [[datagram for datagram, _ in receive(server.fileno())] for _ in range(3)]
        assert took == [[b"0", b"1", b"2"], [b"3", b"4", b"5"], [b"6"]]

    def test_itIsForOneSocketAfterTheOther(self) -> None:
        receive = Receiver(socket.AF_INET, 100, 8)
        first, second = self.listening(socket.AF_INET), self.listening(socket.AF_INET)
        first.sendto(b"to the second", second.getsockname())
        second.sendto(b"to the first", first.getsockname())
        ofFirst = receive(first.fileno())
        assert receive(second.fileno()) == [(b"to the second", first.getsockname())]
        assert ofFirst == [(b"to the first", second.getsockname())]

    def test_aSocketThatBlocksIsNotWaitedFor(self) -> None:
        server, receive = self.listening(socket.AF_INET), Receiver(socket.AF_INET, 100, 8)
        server.setblocking(True)
        server.sendto(b"one", server.getsockname())
        assert receive(server.fileno()) == [(b"one", server.getsockname())]
        with pytest.raises(BlockingIOError):
            receive(server.fileno())

    def test_aForkedProcessHasMemoryOfItsOwn(self) -> None:
        # In a process without threads, which may fork without a warning.
        program = """
import os, socket
from sockapps.recvmmsg import Receiver
server, receive = socket.socket(type=socket.SOCK_DGRAM), Receiver(socket.AF_INET, 100, 8)
server.bind(("127.0.0.1", 0))
server.sendto(b"for a child", server.getsockname())
child = os.fork()
if not child:
    os._exit(receive(server.fileno()) != [(b"for a child", server.getsockname())])
assert os.waitpid(child, 0) == (child, 0)
assert receive._data[:11] == bytes(11)
"""
        ended = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, check=False, timeout=60
        )
        assert (ended.returncode, ended.stderr) == (0, b"")

    def test_itRemembersNoMoreThanSomeSendersAndKnowsAll(self) -> None:
        server, receive = self.listening(socket.AF_INET), Receiver(socket.AF_INET, 100, 64)
        remembered = sender.cache_info().maxsize
        assert remembered
        for each in range(remembered + 500):
            with socket.socket(type=socket.SOCK_DGRAM) as peer:
                peer.bind((f"127.0.{each // 250}.{1 + each % 250}", 0))
                peer.sendto(b"", server.getsockname())
                assert receive(server.fileno()) == [(b"", peer.getsockname())]
        assert sender.cache_info().currsize == remembered

    def test_nothingIsSaidByAnError(self) -> None:
        server, receive = self.listening(socket.AF_INET), Receiver(socket.AF_INET, 100, 8)
        with pytest.raises(BlockingIOError):
            receive(server.fileno())
        closed = server.fileno()
        server.close()
        with pytest.raises(OSError, match="Bad file descriptor") as raised:
            receive(closed)
        assert raised.value.errno == EBADF
