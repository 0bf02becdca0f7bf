"""
chat: a support line with keyword rules.

The operators have no desk yet, so nobody is ever on duty: a message that no rule rewrites is
answered with the away text, and kept.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

import attrs
from twisted.internet.protocol import Factory, Protocol

from sockapps.clientprotocol import ClientProtocol, asText

FAREWELL = b"byebye"
AWAY = "Nobody is on duty; your message is kept."
RULES = {"sb": "alexsb"}

MAX_KEPT = 1000
"""Messages that are kept, in memory; the oldest make room."""


class Rules:
    """
    Rewrite messages by keywords.

    @param rules: Each keyword's rewriting. Of two keywords that begin at one place the longer
        counts, and what a rule has written no rule rewrites again.
    """

    def __init__(self, rules: Mapping[str, str]) -> None:
        if "" in rules:
            raise ValueError("a keyword must have at least one character")
        self._rewritings = {keyword.encode(): text.encode() for keyword, text in rules.items()}
        longestFirst = sorted(self._rewritings, key=len, reverse=True)
        self._keywords = re.compile(b"|".join(map(re.escape, longestFirst)))

    def rewrite(self, message: bytes) -> bytes | None:
        """
        Apply every rule that matches.

        @return: The message rewritten, or C{None} where no rule matches.
        """
        if not self._rewritings:
            return None
        rewritten, matches = self._keywords.subn(lambda m: self._rewritings[m[0]], message)
        return rewritten if matches else None


class ChatProtocol(Protocol):
    """One sender's conversation."""

    factory: ChatFactory
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        if data == FAREWELL:
            self.transport.loseConnection()
            return
        rewritten = self.factory.ruleBook.rewrite(data)
        if rewritten is None:
            self.factory.kept.append((str(self.transport.getPeer()), data))
            rewritten = self.factory.awayReply
        self.transport.write(rewritten)


@attrs.define(eq=False, slots=False)
class ChatFactory(Factory[ChatProtocol]):
    """
    Make conversations.

    @ivar kept: What was said while nobody was on duty: who said it, and what; the newest last.
    @raise ValueError: a rule has an empty keyword, or a text is no Unicode.
    """

    protocol = ChatProtocol
    noisy = False

    away: str = attrs.field(
        default=AWAY, metadata={"help": "the reply while nobody is on duty and no rule matches"}
    )
    rules: Mapping[str, str] = attrs.field(
        factory=RULES.copy, metadata={"help": "each keyword's rewriting"}
    )
    kept: deque[tuple[str, bytes]] = attrs.field(factory=lambda: deque(maxlen=MAX_KEPT))

    def __attrs_post_init__(self) -> None:
        self.ruleBook = Rules(self.rules)
        self.awayReply = self.away.encode()


class ChatClient(ClientProtocol):
    """Speak to a support line."""

    words = (FAREWELL.decode(),)

    def isFarewell(self, message: bytes) -> bool:
        return message == FAREWELL

    def say(self, text: str) -> Any:
        """
        Say something.

        @return: A Deferred of what one gets back, as text.
        """
        return self.request(text).addCallback(asText)

    def sayGoodbye(self) -> Any:
        """
        End the conversation.

        @return: A Deferred that fires when it has ended.
        """
        # Where it has ended already, there is nothing left to say.
        self.request(FAREWELL).addErrback(lambda _: None)
        return self.whenEnded()
