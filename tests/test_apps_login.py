"""
Tests for L{sockapps.apps.login}: what is read as credentials, who decides, and what is kept secret.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from sockapps.accounts.passwords import hashPassword
from sockapps.accounts.store import AccountStore
from sockapps.apps.login import (
    ACCEPTED,
    CANNOT_CHECK,
    MAX_CREDENTIALS,
    REFUSED,
    RESPITE,
    LoginFactory,
    checkerFor,
    parseCredentials,
)
from sockapps.datagrams import DatagramSessions
from sockapps.limits import Admission, Sources
from sockapps.options import AdmissionOptions, DatagramOptions, ProcessOptions, StreamOptions
from sockapps.settings import SettingsError, serviceSettings
from sockapps.streams import StreamSessions
from sockapps.workers import Busy
from tests.conftest import LoggedErrors
from tests.peers import ACCOUNTS, PASSWORD, UDP, Logged, inThread, logged, serving, tutorialClient
from tests.sockets import Connect, Listen, Peer, Speak, until

YES, NO = ACCEPTED.encode(), REFUSED.encode()
RIGHT = repr({"张三": PASSWORD}).encode()
WRONG = repr({"张三": PASSWORD[:-1]}).encode()
UNKNOWN = repr({"李四": PASSWORD}).encode()


class ParsingTests(SynchronousTestCase):
    """L{parseCredentials}, which is pure."""

    def test_aDictLiteralOfOnePairOfTexts(self) -> None:
        for message, found in [
            ("{'张三': '123'}", ("张三", "123")),
            ('{"a":"b"}', ("a", "b")),
            (" {\t'a' : \"b'c\" , }\n", ("a", "b'c")),
            (r"{'it\'s': '\\n\n\t\r'}", ("it's", "\\n\n\t\r")),
            (r"{'\x41\u4e2d': '\U0001f600'}", ("A中", "😀")),
            ("{'': ''}", ("", "")),
            ('{"username": "a"}', ("username", "a")),  # a pair like any other
        ]:
            assert parseCredentials(message.encode()) == found, message

    def test_aJSONObjectOfAUserNameAndAPassword(self) -> None:
        for message, found in [
            ('{"username": "张三", "password": "1\\u4e2d\\ud83d\\ude00"}', ("张三", "1中😀")),
            ('{"password":"p","username":"u"}', ("u", "p")),
            ('{"username": "", "password": ""}', ("", "")),
        ]:
            assert parseCredentials(message.encode()) == found, message

    def test_anythingElseIsNone(self) -> None:
        for text in [
            *("", "{}", "{'a'}", "'a'", "{'a': 1}", "{1: 'a'}", "{'a': None}", "{'a': b'b'}"),
            *("{'a': 'b', 'c': 'd'}", "{'a': 'b', 'a': 'c'}", "{'a': 'b'} or 1", "{'a': 'b'}#"),
            *("{'a': 'b' 'c'}", "{'a': 'b'+'c'}", "{'a': f'b'}", "{'a': r'b'}", "{'a': u'b'}"),
            *("{'a': ('b')}", "{'a': ['b']}", "dict(a='b')", "{**{'a': 'b'}}", "{'''a''': 'b'}"),
            *(r"{'a': '\q'}", r"{'a': '\N{DIGIT ONE}'}", r"{'a': '\101'}", r"{'a': '\x4'}"),
            *(r"{'a': '\U00110000'}", "{'a': '\\\n'}", "{'a': 'b\n'}", "{'a': 'b", "{'a': 'b'"),
            *(r"{'a': '\ud800'}", r"{'\udcff': 'b'}", r"{'a': '\x00'}", "{'a\\x00b': 'b'}"),
            *('{"username": 1}', '{"username": "a", "password": null}', "NaN", "[]", '"a"'),
            *('{"username": "a", "password": NaN}', '{"username": ["a"], "password": "b"}'),
            *('{"username": "a", "password": "b", "x": 1}', '[{"username": "a", "password": "b"}]'),
            *('{"username": "a", "username": "c", "password": "b"}', "1" * 1000),
            *(
                '{"username": "a", "password": "\\ud800"}',
                '{"username": "a", "password": "\\u0000"}',
            ),
            *("[" * 1024, '{"a":' * 200, "{" * 1024, "(" * 1024, "-" * 1024, "{'a': " + "[" * 900),
            *("__import__('os').abort()", "{'a': __import__('os').abort()}", "\ufeff{'a': 'b'}"),
        ]:
            assert parseCredentials(text.encode()) is None, text

    def test_bytesThatAreNoUTF8AreNone(self) -> None:
        for message in (b"{'a': '\xff'}", b"\xff", b"{'\xed\xa0\x80': 'b'}", b"{'\xc0\xaf': 'b'}"):
            assert parseCredentials(message) is None, message

    def test_oneKibibyteIsReadAndOneByteMoreIsNot(self) -> None:
        password = "p" * (MAX_CREDENTIALS - len("{'u': ''}"))
        message = repr({"u": password}).encode()
        assert len(message) == 1024
        assert parseCredentials(message) == ("u", password)
        assert parseCredentials(message + b" ") is None

    @given(st.text(st.characters()), st.text(st.characters()))
    @example("'\"\\\n\r\t", "\x7f\x85\u2028\U0010ffff")
    @example("\ud800", "x")
    @example("\0", "x")
    def test_whatATutorialClientSendsComesBackOrIsRefused(self, name: str, password: str) -> None:
        pair = (name, password)
        message = repr({name: password}).encode()
        unfit = "\0" in name + password or any("\ud800" <= c <= "\udfff" for c in name + password)
        fits = len(message) <= MAX_CREDENTIALS and not unfit
        assert parseCredentials(message) == (pair if fits else None)
        asJSON = json.dumps({"username": name, "password": password}).encode()
        if not unfit:
            assert parseCredentials(asJSON) == (pair if len(asJSON) <= 1024 else None)

    @given(st.one_of(st.binary(max_size=1100), st.text("{}[]'\":,\\ux01a ").map(str.encode)))
    def test_nothingRaises(self, message: bytes) -> None:
        parseCredentials(message)


@implementer(ICredentialsChecker)
class Asked:
    """A checker that does as it is told, and notes who it was asked about."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, *verdicts: Callable[[], Any]) -> None:
        self.verdicts = list(verdicts)
        self.names: list[bytes] = []

    def requestAvatarId(self, credentials: Any) -> Any:
        self.names.append(credentials.username)
        return self.verdicts.pop(0)()


def _yes() -> bytes:
    return b"somebody"


def _no() -> bytes:
    raise UnauthorizedLogin(PASSWORD)


def _busy() -> bytes:
    raise Busy("all workers have work")


def _broken() -> bytes:
    raise RuntimeError(f"cannot look up {PASSWORD}")


Ask = Callable[..., Any]


@pytest.fixture
def asking(listening: Listen, connected: Connect) -> Ask:
    """Connect to a login that these checkers decide: C{await asking(checker…)}."""

    async def ask(*checkers: ICredentialsChecker) -> Peer:
        from twisted.internet import reactor

        factory = LoginFactory(checkers=checkers)
        sessions = StreamSessions(factory, StreamOptions(framing="line"), reactor)
        return await connected(listening(sessions))

    return ask


@pytest_twisted.ensureDeferred
async def test_unknownWrongAndMalformedGetTheSameBytes(connected: Connect) -> None:
    async with serving("login") as served:
        for message in (UNKNOWN, WRONG, b"nonsense", b"", b"\xff", b"x" * 1025, b'{"username": 1}'):
            peer = await connected(served)
            peer.send(message + b"\n")
            peer.halfClose()
            assert await peer.rest() == NO + b"\n", message


@pytest_twisted.ensureDeferred
async def test_afterThreeFailuresTheReplyThenTheCloseWhateverIsStillSaid(
    connected: Connect,
) -> None:
    async with serving("login") as served:
        peer = await connected(served)
        peer.send(b"\n".join([WRONG, b"nonsense", UNKNOWN, RIGHT, RIGHT, b""]))
        assert await peer.rest() == (NO + b"\n") * 3


@pytest_twisted.ensureDeferred
async def test_aSuccessInBetweenForgivesNoFailure(connected: Connect) -> None:
    async with serving("login") as served:
        peer = await connected(served)
        peer.send(b"\n".join([WRONG, RIGHT, WRONG, RIGHT, RIGHT, WRONG, RIGHT, b""]))
        replies = (await peer.rest()).splitlines()
    assert replies == [NO, YES, NO, YES, YES, NO]


@pytest_twisted.ensureDeferred
async def test_failuresCountForOneConnectionOnly(connected: Connect) -> None:
    async with serving("login") as served:
        for _ in range(3):
            peer = await connected(served)
            peer.send((WRONG + b"\n") * 2 + RIGHT + b"\n")
            peer.halfClose()
            assert (await peer.rest()).splitlines() == [NO, NO, YES]


@pytest_twisted.ensureDeferred
async def test_pipelinedCredentialsAreCheckedOneAfterTheOther(asking: Ask) -> None:
    waiting: list[Deferred[bytes]] = [Deferred(), Deferred()]
    checker = Asked(*[lambda d=d: d for d in waiting])
    peer = await asking(checker)
    peer.send(b"{'a': 'x'}\n{'b': 'x'}\n")
    await until(lambda: checker.names, "the first is being checked")
    waiting[1].callback(b"b")  # ready, but it is not its turn
    assert checker.names == [b"a"]
    waiting[0].errback(UnauthorizedLogin())
    assert (await peer.receive(len(NO + YES) + 2)).splitlines() == [NO, YES]
    assert checker.names == [b"a", b"b"]


@pytest_twisted.ensureDeferred
async def test_overUDPPipelinedCredentialsAreAnsweredInOrder(speaking: Speak) -> None:
    async with serving("login", UDP) as served:
        peer = speaking(served)
        for message, reply in [(RIGHT, YES), (WRONG + b"\n", NO), (RIGHT, YES), (WRONG, NO)] * 2:
            peer.send(message)
            assert await peer.receive() == reply


@pytest.mark.parametrize("fault", [_busy, _broken], ids=["busy", "broken"])
@pytest_twisted.ensureDeferred
async def test_whatCannotBeCheckedIsSaidSoAndCountsAsNoFailure(
    asking: Ask, fault: Callable[[], Any]
) -> None:
    with logged() as events:
        peer = await asking(Asked(*[fault] * 5, _no, _no, _yes))
        peer.send((RIGHT + b"\n") * 8)
        peer.halfClose()
        assert (await peer.rest()).splitlines() == [CANNOT_CHECK] * 5 + [NO, NO, YES]
    assert len(events.grave) == (0 if fault is _busy else 5)
    assert all("login: cannot check: RuntimeError" in text for text in events.grave)
    assert events.tells(PASSWORD) == []


@pytest_twisted.ensureDeferred
async def test_checkersAreAskedInOrderUntilOneAccepts(asking: Ask) -> None:
    first, second, third = Asked(_no, _no, _no), Asked(_yes, _no, _no), Asked(_yes, _no)
    peer = await asking(first, second, third)
    peer.send(b"{'a': ''}\n{'b': ''}\n{'c': ''}\n")
    peer.halfClose()
    assert (await peer.rest()).splitlines() == [YES, YES, NO]
    assert [checker.names for checker in (first, second, third)] == [
        [b"a", b"b", b"c"],
        [b"a", b"b", b"c"],
        [b"b", b"c"],
    ]


@pytest_twisted.ensureDeferred
async def test_whoLeavesWhileBeingCheckedHarmsNobody(asking: Ask) -> None:
    answer: Deferred[bytes] = Deferred()
    checker = Asked(lambda: answer)
    peer = await asking(checker)
    peer.send(RIGHT + b"\n")
    await until(lambda: checker.names, "it is being checked")
    peer.reset()
    await peer.closed
    answer.errback(UnauthorizedLogin())


@pytest_twisted.ensureDeferred
async def test_theRepliesAreOptions(connected: Connect) -> None:
    async with serving("login", accepted="yes", refused="no") as served:
        peer = await connected(served)
        peer.send(RIGHT + b"\n" + WRONG + b"\n")
        assert await peer.receive(7) == b"yes\nno\n"


@pytest.mark.parametrize("reply", ["accepted", "refused"])
def test_aReplyThatCannotBeSentIsRefused(reply: str) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        LoginFactory(auth=[ACCOUNTS], **{reply: "\udcff"})  # type: ignore[arg-type]  # which of them


@pytest_twisted.ensureDeferred
async def test_ourOwnAccountsDecide(tmp_path: Path, connected: Connect) -> None:
    store = AccountStore(tmp_path / "accounts.db")
    store.prepare()
    store.add("张三", hashPassword(PASSWORD))
    with logged() as events:
        async with serving("login", auth=f"accounts:{store.path}") as served:
            peer = await connected(served)
            peer.send(b"\n".join([UNKNOWN, RIGHT, WRONG, b"nonsense", RIGHT, b""]))
            assert (await peer.rest()).splitlines() == [NO, YES, NO, NO]
    assert searchable(events).tells(PASSWORD) == []


# Who guesses waits.


class Guarded:
    """A login whose sources are not exempt, with a clock of its own for its delays."""

    def __init__(self, *checkers: ICredentialsChecker, exempt: Sequence[str] = ()) -> None:
        from twisted.internet import reactor

        self.clock = Clock()
        self.factory = LoginFactory(checkers=checkers, reactor=self.clock)
        self.sources = Sources(ProcessOptions(exempt=exempt, penaltyThreshold=500), self.seconds)
        admission = Admission(AdmissionOptions(connectionRate=0), self.sources)
        options = StreamOptions(framing="line")
        self.sessions = StreamSessions(self.factory, options, reactor, admission)

    @staticmethod
    def seconds() -> float:
        """Let penalties never pass."""
        return 0.0

    @property
    def counts(self) -> tuple[int, int, int]:
        """What the factory has counted."""
        outcomes = self.factory.outcomes
        return outcomes["accepted"], outcomes["refused"], outcomes["unchecked"]

    async def delayed(self, seconds: float) -> None:
        """See that somebody waits for so long, and let the time pass."""
        await until(self.clock.getDelayedCalls, "somebody waits")
        [call] = self.clock.getDelayedCalls()
        assert call.getTime() - self.clock.seconds() == pytest.approx(seconds)
        self.clock.advance(seconds)


@pytest_twisted.ensureDeferred
async def test_afterAFailureTheNextIsLookedAtTwoSecondsLaterRightOrWrong(
    listening: Listen, connected: Connect
) -> None:
    checker = Asked(_no, _yes, _no, _no)
    guarded = Guarded(checker)
    port = listening(guarded.sessions)
    peer, other = await connected(port), await connected(port)
    peer.send(b"{'a': '1'}\n")
    assert await peer.receive(len(NO) + 1) == NO + b"\n"
    for name, seconds, reply in [("b", 2, YES), ("c", 2, NO), ("d", 4, NO)]:
        asked = len(checker.names)
        other.send(f"{{'{name}': '1'}}\n".encode())
        await until(guarded.clock.getDelayedCalls, "it waits")
        assert (len(checker.names), bytes(other.received)) == (asked, b"")
        await guarded.delayed(seconds)
        assert await other.receive(len(reply) + 1) == reply + b"\n"
    assert guarded.counts == (1, 3, 0)


@pytest_twisted.ensureDeferred
async def test_malformedCredentialsCostAndWaitAsAWrongPasswordDoes(
    listening: Listen, connected: Connect
) -> None:
    guarded = Guarded()
    peer = await connected(listening(guarded.sessions))
    peer.send(b"one\ntwo\nthree\n")
    await guarded.delayed(2)
    await guarded.delayed(4)
    assert await peer.rest() == (NO + b"\n") * 3
    assert guarded.sources.penalties == {"login": 3}
    assert guarded.counts == (0, 3, 0)


@pytest_twisted.ensureDeferred
async def test_aFifthAttemptFromOneSourceIsToldThatNobodyCanCheckItNow(
    listening: Listen, connected: Connect
) -> None:
    answers = [Deferred[bytes]() for _ in range(4)]
    checker = Asked(*[lambda d=d: d for d in answers], _yes)
    guarded = Guarded(checker)
    port = listening(guarded.sessions)
    peers = [await connected(port) for _ in range(4)]
    for peer in peers:
        peer.send(RIGHT + b"\n")
    await until(lambda: len(checker.names) == 4, "four are being checked")
    fifth = await connected(port)
    for _ in range(4):
        fifth.send(RIGHT + b"\n")
        assert await fifth.receiveUntil(b"\n") == CANNOT_CHECK + b"\n"
    for answer in answers:
        answer.callback(b"")
    for peer in peers:
        assert await peer.receiveUntil(b"\n") == YES + b"\n"
    fifth.send(RIGHT + b"\n")
    assert await fifth.receiveUntil(b"\n") == YES + b"\n"
    assert guarded.counts == (5, 0, 4)
    assert guarded.sources.penalties == {}


@pytest.mark.parametrize("again", ["when a check ends", "after a while"])
@pytest_twisted.ensureDeferred
async def test_aCheckerThatIsTooBusyIsNotAskedAgainAtOnce(
    listening: Listen, connected: Connect, again: str
) -> None:
    answer: Deferred[bytes] = Deferred()
    checker = Asked(lambda: answer, _busy, _yes)
    guarded = Guarded(checker)
    port = listening(guarded.sessions)
    first, other = await connected(port), await connected(port)
    first.send(RIGHT + b"\n")
    await until(lambda: checker.names, "it is being checked")
    for _ in range(3):
        other.send(RIGHT + b"\n")
        assert await other.receiveUntil(b"\n") == CANNOT_CHECK + b"\n"
    assert len(checker.names) == 2
    if again == "when a check ends":
        answer.callback(b"")
    else:
        guarded.clock.advance(RESPITE)
    other.send(RIGHT + b"\n")
    assert await other.receiveUntil(b"\n") == YES + b"\n"
    assert guarded.factory.outcomes["unchecked"] == 3


@pytest_twisted.ensureDeferred
async def test_whatCannotBeCheckedIsHeldAgainstNobody(
    listening: Listen, connected: Connect
) -> None:
    guarded = Guarded(Asked(_busy, _broken, _busy))
    peer = await connected(listening(guarded.sessions))
    peer.send((RIGHT + b"\n") * 3)
    peer.halfClose()
    assert await peer.rest() == (CANNOT_CHECK + b"\n") * 3
    assert guarded.counts == (0, 0, 3)
    assert guarded.sources.penalties == {}


@pytest_twisted.ensureDeferred
async def test_whoeverLeavesWhileWaitingIsNotLookedAtAndMakesRoom(
    listening: Listen, connected: Connect
) -> None:
    guarded = Guarded(Asked(_no))
    port = listening(guarded.sessions)
    peers = [await connected(port) for _ in range(4)]
    peers[0].send(WRONG + b"\n")
    await peers[0].receiveUntil(b"\n")
    for peer in peers:
        peer.send(RIGHT + b"\n")
    await until(lambda: len(guarded.clock.getDelayedCalls()) == 4, "all wait")
    for peer in peers:
        peer.reset()
    await until(lambda: not guarded.sessions.sessions, "all have left")
    assert guarded.clock.getDelayedCalls() == []
    assert guarded.counts == (0, 1, 0)
    assert guarded.factory.attempts.begin("127.0.0.1", "a", b"") is not None


@pytest_twisted.ensureDeferred
async def test_whoeverLeavesWhileBeingCheckedHasGuessedAllTheSame(
    listening: Listen, connected: Connect
) -> None:
    answers = [Deferred[bytes]() for _ in range(4)]
    checker = Asked(*[lambda d=d: d for d in answers])
    guarded = Guarded(checker)
    port = listening(guarded.sessions)
    peers = []
    for number in range(4):
        peer = await connected(port)
        peer.send(f"{{'a': '{number}'}}\n".encode())
        peers.append(peer)
    await until(lambda: len(checker.names) == 4, "they are being checked")
    for peer in peers:
        peer.reset()
    await until(lambda: not guarded.sessions.sessions, "all have left")
    late = await connected(port)
    late.send(RIGHT + b"\n")
    assert await late.receiveUntil(b"\n") == CANNOT_CHECK + b"\n"
    for answer in answers:
        answer.errback(UnauthorizedLogin())
    assert guarded.counts == (0, 4, 1)
    assert guarded.sources.penalties == {"login": 4}
    late.send(RIGHT + b"\n")
    await until(guarded.clock.getDelayedCalls, "the next waits for all their failures")
    assert guarded.clock.getDelayedCalls()[0].getTime() == 15


@pytest_twisted.ensureDeferred
async def test_aFailureElsewhereDelaysAnAccountsOwnerForAMoment(
    listening: Listen, connected: Connect
) -> None:
    guarded = Guarded(Asked(_no, _yes, _yes))
    peer = await connected(listening(guarded.sessions))
    peer.send(WRONG + b"\n")
    await peer.receiveUntil(b"\n")
    owner = await connected(listening(guarded.sessions, interface="::1"))
    owner.send(RIGHT + b"\n")
    await guarded.delayed(0.25)
    owner.send(RIGHT + b"\n")  # known here, from now on
    assert await owner.receive(2 * len(YES) + 2) == (YES + b"\n") * 2


@pytest_twisted.ensureDeferred
async def test_exemptSourcesAndUNIXSocketsHaveNoLimits(
    listening: Listen, connected: Connect, tmp_path: Path
) -> None:
    guarded = Guarded(Asked(*[_no] * 20), exempt=["127.0.0.1"])
    for port in (listening(guarded.sessions), listening(guarded.sessions, unix=f"{tmp_path}/s")):
        for _ in range(3):
            peer = await connected(port)
            peer.send((WRONG + b"\n") * 3)
            assert await peer.rest() == (NO + b"\n") * 3
    assert guarded.counts == (0, 18, 0)
    assert guarded.sources.penalties == {}


@pytest_twisted.ensureDeferred
async def test_guessesOverUDPWaitButAreNotHeldAgainstWhoTheySeemToComeFrom(
    listening: Listen, connected: Connect, speaking: Speak
) -> None:
    from twisted.internet import reactor

    guarded = Guarded(Asked(_no, _no, _yes))
    datagrams = DatagramSessions(
        guarded.factory, DatagramOptions(), reactor, guarded.sessions.admission
    )
    forger = speaking(listening(datagrams))
    forger.send(WRONG)
    assert await forger.receive() == NO
    forger.send(UNKNOWN)
    await guarded.delayed(2)
    assert await forger.receive() == NO
    honest = await connected(listening(guarded.sessions))
    honest.send(repr({"bob": ""}).encode() + b"\n")
    assert await honest.receiveUntil(b"\n") == YES + b"\n"
    assert guarded.sources.penalties == {}


def test_theLimitsAreOptions() -> None:
    given = {"auth": ACCOUNTS, "max_attempts": "1", "failure_delay": "0.5", "max_failure_delay": 1}
    factory: Any = serviceSettings("login", given).makeFactory()
    first = factory.attempts.begin("a", "b", b"c")
    assert factory.attempts.begin("a", "b", b"c") is None
    factory.attempts.end(first, False)
    second = factory.attempts.begin("a", "b", b"d")
    assert factory.attempts.takeTurn(second) == pytest.approx(0.5, abs=0.1)
    for key in ("max_attempts", "failure_delay", "max_failure_delay"):
        with pytest.raises(SettingsError, match=rf"login\.{key}: must be >= 0, not -1"):
            serviceSettings("login", {**given, key: -1})


# Twisted's own checkers, by the descriptions that --auth takes.


@pytest.fixture
def passwordFile(tmp_path: Path) -> Path:
    file = tmp_path / "passwords"
    file.write_bytes(f"alice:wonder\n张三:{PASSWORD}\nbob:\n".encode())
    return file


def outcome(description: str, name: str, password: str) -> bool:
    found: list[Any] = []
    LoginFactory(auth=[description]).check(name, password).addBoth(found.append)
    [result] = found
    if isinstance(result, Failure):
        result.raiseException()
    assert isinstance(result, bool)
    return result


@pytest.mark.parametrize(
    ("name", "password", "accepted"),
    [
        ("张三", PASSWORD, True),
        ("alice", "wonder", True),
        ("bob", "", True),
        ("alice", "wonder ", False),
        ("alice", "", False),
        ("Alice", "wonder", False),
        ("nobody", "", False),
    ],
)
def test_strcredsFileAndMemoryWork(
    passwordFile: Path, name: str, password: str, accepted: bool
) -> None:
    assert outcome(f"file:{passwordFile}", name, password) is accepted
    assert outcome(f"memory:alice:wonder:张三:{PASSWORD}:bob:", name, password) is accepted


def test_aPasswordFileIsFoundFromAnywhere(
    passwordFile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(passwordFile.parent)
    factory = LoginFactory(auth=["file:passwords"])
    monkeypatch.chdir("/")  # as twistd --rundir does before the first login
    found: list[bool] = []
    factory.check("alice", "wonder").addCallback(found.append)
    assert found == [True]


class _HasLine:
    """A pwd module that knows one account."""

    def __init__(self, crypted: str) -> None:
        self.pw_passwd = crypted

    def getpwnam(self, name: str) -> _HasLine:
        if name != "alice":
            raise KeyError(name)
        return self


@pytest.mark.skipif(find_spec("crypt") is None, reason="Python has no module crypt since 3.13")
@pytest.mark.filterwarnings("ignore:'(crypt|spwd)' is deprecated:DeprecationWarning")
def test_strcredsUnixWorks(monkeypatch: pytest.MonkeyPatch) -> None:
    import crypt

    # No account of this machine has a password that a test may know.
    monkeypatch.setitem(sys.modules, "pwd", _HasLine(crypt.crypt("wonder", crypt.METHOD_SHA512)))
    monkeypatch.setitem(sys.modules, "spwd", None)
    assert outcome("unix", "alice", "wonder") is True
    assert outcome("unix:", "alice", "wonder!") is False
    assert outcome("unix", "bob", "wonder") is False


@pytest.mark.parametrize(
    ("description", "why"),
    [
        ("nosuch:x", "there is no such checker; there are accounts, anonymous, file, memory, unix"),
        (f"memory:张三:{PASSWORD}:x", "memory: argstring must be in format U:P:..."),
        ("file", "'file' requires a filename"),
        ("file:nowhere/passwords", "file: there is no file nowhere/passwords"),
        ("anonymous", "anonymous does not check user names and passwords"),
    ],
)
def test_aCheckerThatCannotBeHadIsSaidSoWithoutItsSecrets(
    description: str, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
        LoginFactory(auth=[ACCOUNTS, description])
    assert capfd.readouterr() == ("", "")


def test_unixWithoutTheModuleCryptIsSaidSo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crypt", None)
    with pytest.raises(ValueError, match="unix needs the module crypt, which Python has no more"):
        checkerFor("unix")


def test_aFactorysReprShowsNoPassword() -> None:
    assert PASSWORD not in repr(LoginFactory(auth=[ACCOUNTS]))
    assert PASSWORD not in str(vars(LoginFactory(auth=[ACCOUNTS])).get("checkers"))


# No password in any log.


def searchable(events: Logged) -> Logged:
    assert any("login: " in str(event.get("log_format")) for event in events), "it logs at all"
    return events


@pytest.mark.parametrize("framing", ["auto", "line", "chunk", "netstring", "raw"])
@pytest_twisted.ensureDeferred
async def test_noLogShowsAPasswordWhateverIsDoneWithIt(framing: str, connected: Connect) -> None:
    with logged() as events:
        async with serving("login", framing=framing, max_message="2000") as served:
            for message in (
                RIGHT,
                UNKNOWN,
                f'{{"username": "张三", "password": "{PASSWORD}"}}'.encode(),
                PASSWORD.encode(),
                f"{{'{PASSWORD}': '{PASSWORD}'}} \xff".encode("latin-1", "replace"),
                PASSWORD.encode() * 1000,
                b"%d:%b," % (len(RIGHT), RIGHT),
            ):
                peer = await connected(served)
                peer.send(message + b"\n")
                peer.halfClose()
                await peer.rest()
            peer = await connected(served)
            peer.send(RIGHT)
            peer.reset()
            await peer.closed
    assert searchable(events).tells(PASSWORD) == []
    assert events.grave == []


@pytest_twisted.ensureDeferred
async def test_noLogShowsAPasswordOfADatagram() -> None:
    with logged() as events:
        async with serving("login", UDP) as served:
            messages = [RIGHT, UNKNOWN, PASSWORD.encode(), PASSWORD.encode() * 1000]
            assert await inThread(tutorialClient, served.address, messages, "udp") == [
                YES,
                *[NO] * 3,
            ]
    assert searchable(events).tells(PASSWORD) == []


def test_theSearchWouldFindAPassword(loggedErrors: LoggedErrors) -> None:
    from twisted.logger import Logger

    with logged() as events:
        Logger().debug("{x}", x=PASSWORD)
        Logger().debug("hidden", x=[{b"y": PASSWORD.encode()}])
        Logger().debug("error", x=LoginFailed(PASSWORD))
        Logger().failure("failed", Failure(RuntimeError(PASSWORD)))
        Logger().debug("nothing")
    assert len(events.tells(PASSWORD)) == 4
    loggedErrors.take(RuntimeError)
