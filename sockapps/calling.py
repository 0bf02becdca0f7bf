"""
What a person's call does: send messages to an app one after the other, and show what comes back.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import attrs
from OpenSSL.SSL import Error as TLSError
from twisted.internet.defer import TimeoutError
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError

from sockapps.client import connect, findApp, whereIs

if TYPE_CHECKING:
    from sockapps.clientprotocol import ClientProtocol


class Exit(IntEnum):
    """How a call ended, as a shell sees it."""

    ANSWERED = 0
    REFUSED = 1
    USAGE = 2
    NO_CONNECTION = 3
    TIMEOUT = 4
    BROKEN_OFF = 5


class CallError(Exception):
    """A message that got no reply: which end that is, and in words why."""

    def __init__(self, exit: Exit, why: str) -> None:
        super().__init__(why)
        self.exit = exit


@attrs.frozen
class Reply:
    """
    One reply.

    @ivar seconds: How long it took, from when the message was sent.
    """

    message: bytes
    reply: bytes
    seconds: float
    refused: bool


class Caller:
    """
    Speak to one app, over as many connections as it takes.

    @param app: The app's name.
    @param to: Where its server is, as L{sockapps.client.connect} takes it.
    @raise ValueError: there is no such app, or C{to} is not written like an endpoint.
    """

    def __init__(
        self, app: str, to: str | None, framing: str, timeout: float, reactor: Any
    ) -> None:
        self.app = app
        self.where = whereIs(findApp(app), to)
        self.client: ClientProtocol | None = None
        self._framing = framing
        self._timeout = timeout
        self._reactor = reactor

    async def ask(self, message: bytes) -> Reply | None:
        """
        Send one message, and wait for its reply.

        @return: The reply; C{None} where the message ends the conversation and has none.
        @raise CallError: there is no reply.
        """
        client = await self._connected()
        if client.isFarewell(message):
            await client.request(message)
            await self.hangUp()
            return None
        began = self._reactor.seconds()
        try:
            reply = await client.request(message)
        except TimeoutError:
            self.client = None
            raise CallError(Exit.TIMEOUT, f"no reply within {self._timeout:g} s") from None
        except ConnectError as error:
            # Over UDP only now is it known that nobody listens there.
            self.client = None
            raise CallError(Exit.NO_CONNECTION, f"{self.where}: {_reason(error)}") from None
        except TLSError as error:
            self.client = None
            reasons = "; ".join(reason[-1] for reason in error.args[0])
            raise CallError(Exit.NO_CONNECTION, f"{self.where}: TLS: {reasons}") from None
        except ConnectionClosed:
            self.client = None
            raise CallError(Exit.BROKEN_OFF, "the connection ended before the reply") from None
        except ValueError as error:
            raise CallError(Exit.USAGE, str(error)) from None
        took = self._reactor.seconds() - began
        if client.closesAfterReply:
            await self.hangUp()
        return Reply(message, reply, took, client.isRefusal(reply))

    async def hangUp(self) -> None:
        """Close the connection, if there is one."""
        client, self.client = self.client, None
        if client is not None:
            await client.disconnect()

    async def _connected(self) -> ClientProtocol:
        if self.client is not None and not self.client.ended:
            return self.client
        try:
            self.client = await connect(
                self.app,
                self.where,
                framing=self._framing,
                timeout=self._timeout,
                reactor=self._reactor,
            )
        except TimeoutError:
            raise CallError(
                Exit.NO_CONNECTION, f"{self.where}: no connection within {self._timeout:g} s"
            ) from None
        except ValueError as error:
            raise CallError(Exit.USAGE, str(error)) from None
        except (ConnectError, DNSLookupError, OSError) as error:
            raise CallError(Exit.NO_CONNECTION, f"{self.where}: {_reason(error)}") from None
        return self.client


async def converse(
    caller: Caller,
    messages: AsyncIterator[bytes],
    show: Callable[[bytes, Reply | CallError], None],
    patient: bool,
) -> Exit:
    """
    Send messages, and show each reply.

    @param show: Called with each message and what came of it.
    @param patient: Whether to go on after a message that got no reply, as at a prompt.
    @return: The first end that was not C{ANSWERED}, refusals only where nothing is worse.
    """
    worst = Exit.ANSWERED
    async for message in messages:
        try:
            reply = await caller.ask(message)
        except CallError as error:
            show(message, error)
            worst = error.exit
            if not patient:
                break
        else:
            if reply is None:
                continue
            show(message, reply)
            if reply.refused and worst is Exit.ANSWERED:
                worst = Exit.REFUSED
    await caller.hangUp()
    return worst


def asJSON(app: str, message: bytes | None, outcome: Reply | CallError) -> str:
    """
    Write what came of a message as one JSON object on one line.

    @param message: The message; C{None} where it holds secrets.
    """
    shown: dict[str, Any] = {"app": app}
    if message is not None:
        shown |= _readable("message", message)
    if isinstance(outcome, Reply):
        shown |= _readable("reply", outcome.reply)
        shown |= {"refused": outcome.refused, "seconds": round(outcome.seconds, 6)}
    else:
        shown |= {"error": str(outcome), "exit": int(outcome.exit)}
    return json.dumps(shown, ensure_ascii=False)


def _readable(key: str, value: bytes) -> dict[str, str]:
    """Text as text; bytes that are no UTF-8 in hexadecimal, under a key that says so."""
    try:
        return {key: value.decode()}
    except UnicodeDecodeError:
        return {f"{key}_hex": value.hex()}


def _reason(error: BaseException) -> str:
    return str(error).rstrip(".")
