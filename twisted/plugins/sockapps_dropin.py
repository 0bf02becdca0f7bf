"""
What sockapps adds to Twisted's plugins: one service maker, one reactor, one kind of --auth, and one
line per app.

Twisted imports this file to build its plugin cache, so it names everything by string.
"""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

from sockapps.accounts.plugin import AccountsCheckerFactory
from sockapps.registry import SocketApp

sockapps = ServiceMaker(
    "sockapps", "sockapps.tap", "Small socket apps in a production shell.", "sockapps"
)

lean = Reactor(
    "lean", "sockapps.reactor", "epoll(4) with fewer system calls for each request (Linux)."
)

command = SocketApp(
    "command",
    "answers date, os and ls; anything else with welcome",
    "tcp:21560:interface=127.0.0.1",
    "sockapps.apps.command.CommandFactory",
    "sockapps.apps.command.CommandClient",
)
echo = SocketApp(
    "echo",
    "says every message back, after Echo=>",
    "tcp:50007:interface=127.0.0.1",
    "sockapps.apps.echo.EchoFactory",
    "sockapps.apps.echo.EchoClient",
)
login = SocketApp(
    "login",
    "checks a user name and a password",
    "tcp:8083:interface=127.0.0.1",
    "sockapps.apps.login.LoginFactory",
    "sockapps.apps.login.LoginClient",
)
upper = SocketApp(
    "upper",
    "upper-cases every datagram",
    "udp:12000:interface=127.0.0.1",
    "sockapps.apps.upper.UpperFactory",
    "sockapps.apps.upper.UpperClient",
)
upperTCP = SocketApp(
    "upper-tcp",
    "upper-cases every message until the peer closes",
    "tcp:5000:interface=127.0.0.1",
    "sockapps.apps.upper.UpperFactory",
    "sockapps.apps.upper.UpperClient",
)
upperOnce = SocketApp(
    "upper-once",
    "upper-cases one message, then closes",
    "tcp:12000:interface=127.0.0.1",
    "sockapps.apps.upper.UpperOnceFactory",
    "sockapps.apps.upper.UpperOnceClient",
)
gate = SocketApp(
    "gate",
    "welcomes who says 1, turns away everybody else, then closes",
    "tcp:8001:interface=127.0.0.1",
    "sockapps.apps.gate.GateFactory",
    "sockapps.apps.gate.GateClient",
)
hello = SocketApp(
    "hello",
    "answers hi to one message, then closes",
    "tcp:8898:interface=127.0.0.1",
    "sockapps.apps.hello.HelloFactory",
    "sockapps.apps.hello.HelloClient",
)
helloUDP = SocketApp(
    "hello-udp",
    "answers hi to every datagram of two bytes or more",
    "udp:9000:interface=127.0.0.1",
    "sockapps.apps.hello.HelloFactory",
    "sockapps.apps.hello.HelloClient",
)
chat = SocketApp(
    "chat",
    "a support line with keyword rules",
    "udp:8086:interface=127.0.0.1",
    "sockapps.apps.chat.ChatFactory",
    "sockapps.apps.chat.ChatClient",
)

accounts = AccountsCheckerFactory()
