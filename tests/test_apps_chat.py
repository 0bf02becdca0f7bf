"""
Tests for L{sockapps.apps.chat}.
"""

from __future__ import annotations

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from sockapps.apps.chat import MAX_KEPT, ChatFactory, Rules
from tests.peers import TCP, UDP, logged, serving
from tests.sockets import Connect, Speak, until

AWAY = b"Nobody is on duty; your message is kept."


class RulesTests(SynchronousTestCase):
    """The pure rules."""

    def test_theDefaultRule(self) -> None:
        rules = ChatFactory().ruleBook
        for message, rewritten in [
            (b"sb", b"alexsb"),
            (b"you sb, sb!", b"you alexsb, alexsb!"),
            (b"sbsb", b"alexsbalexsb"),
            (b"SB", None),
            (b"s b", None),
            (b"", None),
            (b"\xffsb\xfe", b"\xffalexsb\xfe"),
        ]:
            assert rules.rewrite(message) == rewritten

    def test_whatARuleWroteNoRuleRewritesAgain(self) -> None:
        rules = Rules({"a": "b", "b": "a", "sb": "xsbx"})
        assert rules.rewrite(b"ab sb") == b"ba xsbx"

    def test_ofTwoKeywordsAtOnePlaceTheLongerCounts(self) -> None:
        for words in (["s", "sb", "sbx"], ["sbx", "sb", "s"]):
            rules = Rules({word: f"<{word}>" for word in words})
            assert rules.rewrite(b"s sb sbx") == b"<s> <sb> <sbx>"

    def test_aKeywordIsNoPatternAndItsRewritingNoTemplate(self) -> None:
        rules = Rules({".*": r"\1\g<0>", "(": "[", "张三": "李四"})
        assert rules.rewrite("x.*(张三".encode()) == "x\\1\\g<0>[李四".encode()
        assert rules.rewrite(b"anything") is None

    def test_withoutRulesNothingIsRewritten(self) -> None:
        assert Rules({}).rewrite(b"sb") is None

    def test_anEmptyKeywordIsRefused(self) -> None:
        with pytest.raises(ValueError, match="at least one character"):
            ChatFactory(rules={"": "x"})

    @given(st.text(alphabet="sbx "))
    def test_theDefaultRuleIsPythonsReplace(self, text: str) -> None:
        expected = text.replace("sb", "alexsb").encode() if "sb" in text else None
        assert Rules({"sb": "alexsb"}).rewrite(text.encode()) == expected

    def test_anAwayTextThatCannotBeSentIsRefused(self) -> None:
        with pytest.raises(UnicodeEncodeError):
            ChatFactory(away="\udcff")


@pytest_twisted.ensureDeferred
async def test_whatNobodyAnsweredIsKeptWithItsSenderUpToACap(speaking: Speak) -> None:
    async with serving("chat", UDP) as served:
        peer = speaking(served)
        kept = served.appFactory.kept
        for number in range(MAX_KEPT + 10):
            peer.send(b"%d" % number)
            await peer.receive()
        peer.send(b"sb")
        assert await peer.receive() == b"alexsb"  # a rule answered it: it is not kept
    assert [message for _, message in kept] == [b"%d" % n for n in range(10, MAX_KEPT + 10)]
    assert {sender for sender, _ in kept} == {str(peer.transport.getHost())}


@pytest_twisted.ensureDeferred
async def test_overUDPByebyeEndsOneSendersConversationOnly(speaking: Speak) -> None:
    async with serving("chat", UDP) as served:
        leaver, stayer = speaking(served), speaking(served)
        for peer in (leaver, stayer):
            peer.send(b"hello")
            assert await peer.receive() == AWAY
        assert len(served.sessions) == 2
        leaver.send(b"byebye\n")
        await until(lambda: len(served.sessions) == 1, "one conversation has ended")
        [session] = served.sessions.values()
        assert session.addr[1] == stayer.transport.getHost().port
        stayer.send(b"byebye, you sb")
        assert await stayer.receive() == b"byebye, you alexsb"
        assert leaver.received == []
        leaver.send(b"back again")
        assert await leaver.receive() == AWAY


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest_twisted.ensureDeferred
async def test_overTCPByebyeEndsOneSendersConversationOnly(connected: Connect, end: bytes) -> None:
    async with serving("chat", TCP) as served:
        leaver, stayer = await connected(served), await connected(served)
        leaver.send(b"byebye" + end)
        assert await leaver.rest() == b""
        stayer.send(b"still here" + end)
        assert await stayer.receive(len(AWAY + end)) == AWAY + end


@pytest_twisted.ensureDeferred
async def test_rulesAndAwayTextAreOptions(speaking: Speak) -> None:
    async with serving("chat", UDP, rules="a=b,bb=", away="later") as served:
        peer = speaking(served)
        for message, reply in [(b"abba", b"bb"), (b"sb", b"later")]:
            peer.send(message)
            assert await peer.receive() == reply


@pytest_twisted.ensureDeferred
async def test_whatPeopleSayIsNotLogged(speaking: Speak) -> None:
    with logged() as events:
        async with serving("chat", UDP) as served:
            peer = speaking(served)
            peer.send(b"my-private-words")
            await peer.receive()
    assert events
    assert events.tells("my-private-words") == []
