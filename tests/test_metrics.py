"""
What Prometheus is told: by its names, in its format, and nothing that a peer has made up.
"""

from __future__ import annotations

import shutil
import subprocess
from math import inf
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import pytest_twisted
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openFamilies
from prometheus_client.parser import text_string_to_metric_families as textFamilies

from sockapps.counts import DROPS, ENDINGS, REFUSALS
from sockapps.limits import OFFENCES
from sockapps.metrics import makeRegistry
from sockapps.options import ProcessOptions
from tests.operators import Offered, offering, talking
from tests.peers import TCP, UDP
from tests.sockets import Connect, Speak, until

Labels = tuple[tuple[str, str], ...]


class Scraped:
    """What one scrape has told, read as Prometheus reads it."""

    def __init__(self, offered: Offered) -> None:
        self.text = generate_latest(makeRegistry(offered.listenings, offered.sources)).decode()
        self.families = {family.name: family for family in textFamilies(self.text)}
        self.samples = [each for family in self.families.values() for each in family.samples]

    def __call__(self, name: str, **labels: str) -> Any:
        """Find the one value of that name that has those labels."""
        [found] = [
            sample.value for sample in self.named(name) if sample.labels.items() >= labels.items()
        ]
        return found

    def named(self, name: str) -> list[Any]:
        """Find all of that name."""
        return [sample for sample in self.samples if sample.name == f"sockapps_{name}"]


@pytest_twisted.ensureDeferred
async def test_everything_is_there_from_the_start_and_0() -> None:
    async with offering() as offered:
        offered.add("echo")
        offered.add("upper", UDP)
        scraped = Scraped(offered)
    for family, whys, services in (
        ("session_endings_total", ENDINGS, ("echo", "upper")),
        ("refused_total", REFUSALS, ("echo", "upper")),
        ("datagrams_dropped_total", DROPS, ("upper",)),
    ):
        for service in services:
            assert [scraped(family, service=service, why=why) for why in whys] == [0] * len(whys)
    for kind in OFFENCES:
        assert scraped("penalties_total", kind=kind) == 0
    for family in (
        "sessions_open",
        "sessions_total",
        "messages_total",
        "received_bytes_total",
        "sent_bytes_total",
        "replies_unsent_total",
        "decided_by_quiet_total",
    ):
        assert scraped(family, service="echo") == scraped(family, service="upper") == 0
    assert scraped("connections_open") == scraped("sources_penalized") == 0


@pytest_twisted.ensureDeferred
async def test_what_open_sessions_do_counts_at_once_and_still_when_they_have_ended(
    connected: Connect,
) -> None:
    async with offering() as offered:
        echo = offered.add("echo")
        sessions: Any = echo.sessions
        first, second = await talking(connected, echo, 2)
        second.send(b"more\n")
        await second.receiveUntil(b"\n")
        scraped = Scraped(offered)
        assert scraped("sessions_open") == scraped("connections_open") == 2
        done = {
            name: scraped(name)
            for name in (
                "sessions_total",
                "messages_total",
                "received_bytes_total",
                "sent_bytes_total",
            )
        }
        assert list(done.values()) == [2, 3, 11, 26]
        assert scraped("session_endings_total", why="peer") == 0

        first.close()
        await first.closed
        await until(lambda: len(sessions.open()) == 1, "the session has ended")
        scraped = Scraped(offered)
        assert scraped("sessions_open") == scraped("connections_open") == 1
        assert scraped("session_endings_total", why="peer") == 1
        assert {name: scraped(name) for name in done} == done


@pytest_twisted.ensureDeferred
async def test_who_is_turned_away_is_counted_by_why(connected: Connect) -> None:
    async with offering() as offered:
        echo = offered.add("echo", deny=["127.0.0.0/8"])
        peer = await connected(echo.port)
        await peer.closed
        scraped = Scraped(offered)
    assert scraped("refused_total", why="denied") == 1
    assert scraped("refused_total", why="penalty") == scraped("sessions_total") == 0


@pytest_twisted.ensureDeferred
async def test_what_logins_came_to_is_counted_once_for_all_endpoints_of_a_service(
    connected: Connect, tmp_path: Path
) -> None:
    (tmp_path / "passwords").write_text("bob:secret")
    async with offering() as offered:
        login = offered.add("login", [TCP, UDP], auth=f"file:{tmp_path / 'passwords'}")
        offered.add("echo")
        before = Scraped(offered)
        peer = await connected(login.port)
        for password in ("wrong", "secret"):
            peer.send(f"{{'bob': '{password}'}}\n".encode())
            await peer.receiveUntil(b"\n")
        scraped = Scraped(offered)
    for outcome, times in (("accepted", 1), ("refused", 1), ("unchecked", 0)):
        assert before("outcomes_total", service="login", outcome=outcome) == 0
        assert scraped("outcomes_total", service="login", outcome=outcome) == times
    assert {sample.labels["service"] for sample in scraped.named("outcomes_total")} == {"login"}


@pytest_twisted.ensureDeferred
async def test_datagrams_that_are_dropped_are_counted_by_why(speaking: Speak) -> None:
    async with offering() as offered:
        upper = offered.add("upper", UDP)
        peer = speaking(upper.port)
        peer.send(b"")
        peer.send(b"hi")
        assert await peer.receive() == b"HI"
        scraped = Scraped(offered)
    assert scraped("datagrams_dropped_total", why="empty") == 1
    assert scraped("messages_total") == 1
    assert scraped("received_bytes_total") == scraped("sent_bytes_total") == 2


@pytest_twisted.ensureDeferred
async def test_penalties_are_counted_by_kind() -> None:
    async with offering() as offered:
        offered.sources.penalize("192.0.2.1", "login")
        offered.sources.penalize("192.0.2.1", "login")
        scraped = Scraped(offered)
    assert scraped("penalties_total", kind="login") == 2
    assert scraped("sources_penalized") == 1
    assert "192.0.2.1" not in scraped.text


@pytest_twisted.ensureDeferred
async def test_limits_are_told_and_where_there_is_none_it_is_infinite() -> None:
    async with offering(ProcessOptions(maxConnections=0, maxSources=99)) as offered:
        offered.add("echo", max_connections=7, connection_rate=2.5, message_rate=0)
        offered.add("chat", UDP, max_peers=8)
        offered.add("gate", max_connections=0)
        scraped = Scraped(offered)
        offered.sources.options = ProcessOptions(maxConnections=5)
        assert Scraped(offered)("connections_max") == 5
    assert scraped("sessions_max", service="echo") == 7
    assert scraped("sessions_max", service="chat") == 8
    assert scraped("sessions_max", service="gate") == inf
    assert scraped("source_session_rate_max", service="echo") == 2.5
    assert scraped("source_message_rate_max", service="echo") == inf
    assert scraped("source_sessions_max", service="gate") == 100
    assert scraped("connections_max") == inf
    assert scraped("sources_max") == 99


@pytest_twisted.ensureDeferred
async def test_endpoints_of_one_description_are_one_series(connected: Connect) -> None:
    async with offering() as offered:
        offered.add("echo", [TCP, TCP, "tcp:0:interface=\\:\\:1"])
        for listening in offered.listenings:
            await talking(connected, listening)
        scraped = Scraped(offered)
    assert scraped("sessions_open", endpoint=TCP) == 2
    assert scraped("session_endings_total", endpoint=TCP, why="peer") == 0
    assert scraped("sessions_open", endpoint="tcp:0:interface=\\:\\:1") == 1


@pytest_twisted.ensureDeferred
async def test_a_service_may_be_called_anything() -> None:
    async with offering() as offered:
        listening = offered.add("echo")
        listening.service = '"}\n\\ \udcff\x1b 张三'
        scraped = Scraped(offered)
    assert scraped("sessions_open", service='"}\\n\\ \\udcff\\x1b 张三') == 0


@pytest_twisted.ensureDeferred
async def test_no_label_comes_from_a_peer(connected: Connect, speaking: Speak) -> None:
    async with offering() as offered:
        echo, upper = offered.add("echo"), offered.add("upper", UDP)
        names = {sample.name for sample in Scraped(offered).samples}
        before = [(each.name, each.labels) for each in Scraped(offered).samples]
        await talking(connected, echo)
        peer = speaking(upper.port)
        peer.send(b'canary{why="canary"} 1\n')
        await peer.receive()
        scraped = Scraped(offered)
    assert [(each.name, each.labels) for each in scraped.samples] == before
    assert "sockapps_messages_total" in names
    assert {label for each in scraped.samples for label in each.labels} == {
        "service", "endpoint", "why", "kind", "version", "twisted", "python",
    }  # fmt: skip


@pytest_twisted.ensureDeferred
async def test_the_process_is_measured_too_and_only_in_this_registry() -> None:
    async with offering() as offered:
        scraped = Scraped(offered)
    for name in ("process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds"):
        assert scraped.families[name].samples[0].value > 0
    assert scraped("build_info") == 1
    assert b"sockapps" not in generate_latest(prometheus_client.REGISTRY)


@pytest_twisted.ensureDeferred
async def test_every_family_has_a_help_and_its_type() -> None:
    async with offering() as offered:
        offered.add("upper", UDP)
        scraped = Scraped(offered)
    for name, family in scraped.families.items():
        assert family.documentation.endswith("."), name
        assert family.type in ("counter", "gauge"), name
        assert family.samples, name
    assert scraped.families["sockapps_messages"].type == "counter"
    assert scraped.families["sockapps_sessions_open"].type == "gauge"


@pytest_twisted.ensureDeferred
async def test_open_metrics_can_be_read_too() -> None:
    async with offering() as offered:
        offered.add("upper", UDP)
        registry = makeRegistry(offered.listenings, offered.sources)
    families = {
        each.name: each for each in openFamilies(openmetrics.generate_latest(registry).decode())
    }
    assert families["sockapps_received_bytes"].unit == "bytes"
    assert {sample.name for sample in families["sockapps_sessions"].samples} == {
        "sockapps_sessions_total"
    }


@pytest_twisted.ensureDeferred
async def test_promtool_finds_nothing_to_complain_of(connected: Connect) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here; apt-get install prometheus")
    async with offering() as offered:
        await talking(connected, offered.add("echo", [TCP, TCP]))
        offered.add("chat", UDP)
        text = Scraped(offered).text
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, text=True, capture_output=True, timeout=30
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
