"""
Tests for the apps' clients: against our servers, and, with nothing around them, against plain
servers as the tutorials have them.
"""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone

from sockapps.apps.chat import ChatClient
from sockapps.apps.command import CommandClient, CommandError
from sockapps.apps.echo import EchoClient
from sockapps.apps.gate import GateClient
from sockapps.apps.hello import HelloClient
from sockapps.apps.login import LoginClient
from sockapps.apps.upper import UpperClient
from sockapps.client import connect
from sockapps.clientprotocol import ClientProtocol, UnexpectedReply
from tests.peers import PASSWORD, TCP, UDP, Served, serving, tutorialServer
from tests.sockets import until

NASTY = [b"\xff\xfe", b"it's", b'"', b"'\"\\", b"a\nb", "张三".encode(), b"\x1b[2J", b"', '", b"]]"]


async def clientOf(name: str, served: Served, framing: str = "line") -> Any:
    kind = served.host.type.lower()
    return await connect(name, f"{kind}:{served.host.host}:{served.host.port}", framing=framing)


async def plainly(kind: type[ClientProtocol], port: int) -> Any:
    """Connect with nothing of ours around the client."""
    from twisted.internet import reactor

    return await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), kind())


both = pytest.mark.parametrize("listen", [TCP, UDP], ids=["tcp", "udp"])


@both
@pytest_twisted.ensureDeferred
async def test_echo(listen: str) -> None:
    async with serving("echo", listen) as served:
        client = await clientOf("echo", served)
        assert await client.echo("你好") == "你好".encode()
        assert await client.echo(b"\xff\0") == b"\xff\0"
        await client.disconnect()


@both
@pytest_twisted.ensureDeferred
async def test_upper(listen: str) -> None:
    async with serving("upper", listen) as served:
        client = await clientOf("upper", served)
        assert await client.upper("grün") == "GRÜN"
        await client.disconnect()


@both
@pytest_twisted.ensureDeferred
async def test_hello(listen: str) -> None:
    async with serving("hello", listen) as served:
        client = await clientOf("hello", served)
        assert await client.greet() == "hi"
        await client.disconnect()


@both
@pytest_twisted.ensureDeferred
async def test_gate(listen: str) -> None:
    async with serving("gate", listen) as served:
        for word, welcome in [(b"1", True), ("2", False)]:
            client = await clientOf("gate", served)
            assert await client.enter(word) is welcome
            await client.disconnect()
    assert client.isRefusal(b"please go out!")
    assert not client.isRefusal(b"welcome to server!")


@both
@pytest_twisted.ensureDeferred
async def test_login(listen: str) -> None:
    async with serving("login", listen) as served:
        client = await clientOf("login", served)
        for user, password, accepted in [
            ("张三", PASSWORD, True),
            ("张三", "'\"\\\n\ud800", False),
            ("nobody", "", False),
        ]:
            assert await client.login(user, password) is accepted
        await client.disconnect()
    assert client.isRefusal("用户名或密码错误!".encode())
    assert not client.isRefusal("登录成功!".encode())


@both
@pytest_twisted.ensureDeferred
async def test_chat(listen: str) -> None:
    async with serving("chat", listen) as served:
        client = await clientOf("chat", served)
        assert await client.say("you sb") == "you alexsb"
        assert await client.say("hello") == "Nobody is on duty; your message is kept."
        await client.sayGoodbye()
        await until(lambda: not served.sessions, "the conversation has ended there too")
        await client.sayGoodbye()  # once more is no error
        assert client.isFarewell(b"byebye")


@both
@pytest_twisted.ensureDeferred
async def test_command(listen: str, tmp_path: Path) -> None:
    for name in NASTY:
        (tmp_path / os.fsdecode(name)).touch()
    (tmp_path / "空").mkdir()
    async with serving("command", listen, root=str(tmp_path)) as served:
        client = await clientOf("command", served)
        assert time.strptime(await client.date())
        assert await client.os() == os.name
        assert await client.ls() == ["."]
        assert await client.ls("/") == sorted(os.listdir(tmp_path))
        assert await client.ls("空") == []
        with pytest.raises(CommandError, match=r"^no such folder$"):
            await client.ls("nowhere")
        await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_aFolderWhoseNameNoLineCanHoldIsListedByNetstring(tmp_path: Path) -> None:
    for name in (b"\xff", b"a\nb"):
        (tmp_path / os.fsdecode(name)).mkdir()
        (tmp_path / os.fsdecode(name) / "x").touch()
    async with serving("command", TCP, root=str(tmp_path), framing="netstring") as served:
        client = await clientOf("command", served, "netstring")
        for name in await client.ls("/"):
            assert await client.ls(name) == ["x"]
        await client.disconnect()


# Plain servers.


def plainCommand(message: bytes) -> bytes:
    """What a tutorial's command server answers, from memory."""
    if message == b"date":
        return f"[{time.ctime()}] date".encode()
    if message == b"os":
        return f"[{os.name}]".encode()
    if message == b"ls":
        return b"[.]"
    if message.startswith(b"ls "):
        return f"[{os.listdir(message[3:].decode())}]".encode()
    return b"welcome"


@pytest_twisted.ensureDeferred
async def test_commandOfAPlainServer(tmp_path: Path) -> None:
    for name in NASTY:
        (tmp_path / os.fsdecode(name)).touch()
    with tutorialServer(plainCommand) as port:
        client = await plainly(CommandClient, port)
        date, system, here = client.date(), client.os(), client.ls()  # asked one after the other
        assert time.strptime(await date)
        assert (await system, await here) == (os.name, ["."])
        assert await client.ls(str(tmp_path)) == os.listdir(tmp_path)
        await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_echoOfAPlainServer() -> None:
    with tutorialServer(lambda message: b"Echo=>" + message) as port:
        client = await plainly(EchoClient, port)
        for message in (b"hello", b"a\nb\n", b"\xff"):
            assert await client.echo(message) == message
        await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_upperOfAPlainServer() -> None:
    with tutorialServer(lambda message: message.decode().upper().encode()) as port:
        client = await plainly(UpperClient, port)
        assert await client.upper("grüße") == "GRÜSSE"
        await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_loginOfAPlainServer() -> None:
    accounts = {"张三": "123"}

    def answer(message: bytes) -> bytes:
        [(user, password)] = ast.literal_eval(message.decode()).items()
        return ("登录成功!" if accounts.get(user) == password else "用户名或密码错误!").encode()

    with tutorialServer(answer) as port:
        client = await plainly(LoginClient, port)
        assert await client.login("张三", "123") is True
        assert await client.login("张三", "'\"") is False
        await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_gateOfAPlainServer() -> None:
    def answer(message: bytes) -> bytes:
        return b"welcome to server!" if message == b"1" else b"please go out!"

    for word, welcome in [("1", True), (b"2", False)]:
        with tutorialServer(answer, once=True) as port:
            client = await plainly(GateClient, port)
            assert await client.enter(word) is welcome
            await client.whenEnded()


@pytest_twisted.ensureDeferred
async def test_helloOfAPlainServer() -> None:
    with tutorialServer(lambda _: b"hi", once=True) as port:
        client = await plainly(HelloClient, port)
        assert await client.greet() == "hi"
        await client.whenEnded()
        with pytest.raises(ConnectionDone):
            await client.greet()


@pytest_twisted.ensureDeferred
async def test_chatOfAPlainServer() -> None:
    with tutorialServer(lambda message: message.replace(b"sb", b"alexsb")) as port:
        client = await plainly(ChatClient, port)
        assert await client.say("sb") == "alexsb"
        await client.sayGoodbye()


Ask = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("kind", "ask", "reply"),
    [
        (EchoClient, lambda client: client.echo("x"), b"x"),
        (GateClient, lambda client: client.enter(), b"maybe"),
        (LoginClient, lambda client: client.login("u", "p"), b"[error: later]"),
        (CommandClient, lambda client: client.date(), b"welcome"),
        (CommandClient, lambda client: client.date(), b"[now]"),
        (CommandClient, lambda client: client.os(), b"\xff"),
        (CommandClient, lambda client: client.ls(), b"welcome"),
        (CommandClient, lambda client: client.ls("."), b"[.]"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_whatNoSuchAppSaysIsUnexpected(
    kind: type[ClientProtocol], ask: Ask, reply: bytes
) -> None:
    with tutorialServer(lambda _: reply, once=True) as port:
        client = await plainly(kind, port)
        with pytest.raises(UnexpectedReply):
            await ask(client)
        await client.disconnect()
