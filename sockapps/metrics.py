"""
What Prometheus is told: added up when it asks, so that no message pays for it.

Every family is there from the start, and every C{why} with a 0, as Prometheus advises: what is
missing can be neither graphed nor alerted on. No label's value ever comes from a peer.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from math import inf
from typing import TYPE_CHECKING, Any

import attrs
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sockapps.counts import DROPS, ENDINGS, REFUSALS
from sockapps.datagrams import DatagramSessions
from sockapps.interfaces import IMeasured
from sockapps.limits import OFFENCES
from sockapps.printable import shown

if TYPE_CHECKING:
    from sockapps.limits import Sources
    from sockapps.listening import Listening
    from sockapps.streams import StreamSessions

    Sessions = StreamSessions | DatagramSessions


@attrs.frozen
class Family:
    """
    What is said of one kind of figure that every endpoint has.

    @ivar name: Without the prefix, the unit and C{_total}.
    @ivar help: What it counts, and in which unit.
    @ivar kind: Whether it only grows, or goes up and down.
    @ivar labels: What it is told apart by, beside the service and the endpoint.
    """

    name: str
    help: str
    kind: Any = CounterMetricFamily
    unit: str = ""
    labels: tuple[str, ...] = ()

    def make(self) -> Any:
        """Make what is filled with one scrape's figures."""
        labels = ("service", "endpoint", *self.labels)
        return self.kind(f"sockapps_{self.name}", self.help, labels=labels, unit=self.unit)


_LIMIT = "+Inf is no limit."

FAMILIES = (
    Family("sessions_open", "Sessions that are open now.", GaugeMetricFamily),
    Family("sessions", "Sessions that have begun."),
    Family("session_endings", "Sessions that have ended, by why.", labels=("why",)),
    Family(
        "refused",
        "Connections turned away before they reached the app, by why.",
        labels=("why",),
    ),
    Family(
        "datagrams_dropped",
        "Datagrams that did not reach the app, or whose reply was not sent, by why.",
        labels=("why",),
    ),
    Family("messages", "Messages that the app was given."),
    Family("received_bytes", "Bytes that came, without the headers of packets.", unit="bytes"),
    Family("sent_bytes", "Bytes of what the app has written.", unit="bytes"),
    Family("replies_unsent", "Replies that the network did not take, over UDP."),
    Family(
        "decided_by_quiet",
        "Connections whose first message had no LF, so that only a gap has shown its end.",
    ),
    Family(
        "sessions_max",
        "Sessions that may be open at once: over UDP at this endpoint, otherwise at all endpoints "
        f"of the service together. {_LIMIT}",
        GaugeMetricFamily,
    ),
    Family(
        "source_sessions_max",
        f"Connections that one source may have to the service at once. {_LIMIT}",
        GaugeMetricFamily,
    ),
    Family(
        "source_session_rate_max",
        f"New connections a second that one source may begin. {_LIMIT}",
        GaugeMetricFamily,
    ),
    Family(
        "source_message_rate_max",
        f"Messages a second that one source may send. {_LIMIT}",
        GaugeMetricFamily,
    ),
)
"""What every endpoint is asked for."""

Figures = Counter[tuple[str, ...]]
"""The figures of one endpoint, by the name of their family and by the values of its own labels."""


def services(listenings: Iterable[Listening]) -> Iterator[tuple[Listening, Sessions]]:
    """Leave out what has no sessions, as the admin listener itself."""
    for listening in listenings:
        if listening.sessions is not None:
            yield listening, listening.sessions


def totals(sessions: Sessions) -> dict[str, int]:
    """
    Add up what the sessions of one endpoint did, the ended and the open ones together.

    @return: The figures by the names of their L{FAMILIES}.
    """
    counts, openNow = sessions.counts, sessions.open()
    messages, received, sent = counts.messages, counts.received, counts.sent
    for session in openNow:
        messages += session.messages
        received += session.received
        sent += session.sent
    return {
        "sessions_open": len(openNow),
        "sessions": counts.opened,
        "messages": messages,
        "received_bytes": received,
        "sent_bytes": sent,
        "replies_unsent": counts.unsent,
        "decided_by_quiet": counts.decidedByQuiet,
    }


def reasons(sessions: Sessions) -> dict[str, dict[str, int]]:
    """
    Say why sessions have ended or never begun, those reasons too that there were none for.

    @return: The figures by the names of their L{FAMILIES}, and by why.
    """
    counts = sessions.counts
    said = {
        "session_endings": {**dict.fromkeys(ENDINGS, 0), **counts.ended},
        "refused": {**dict.fromkeys(REFUSALS, 0), **counts.refused},
    }
    if isinstance(sessions, DatagramSessions):
        said["datagrams_dropped"] = {**dict.fromkeys(DROPS, 0), **counts.dropped}
    return said


class ServiceCollector(Collector):
    """
    Tell Prometheus of some listenings, and of the sources of the whole process.

    @param listenings: They may change from one scrape to the next.
    """

    def __init__(self, listenings: Sequence[Listening], sources: Sources) -> None:
        self._listenings = listenings
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """Add everything up."""
        yield from self._endpoints()
        outcomes = self._outcomes()
        if outcomes.samples:
            yield outcomes
        yield from self._process()

    def _endpoints(self) -> Iterable[Metric]:
        endpoints: dict[tuple[str, str], Figures] = {}
        limits: dict[tuple[str, str], dict[str, float]] = {}
        for listening, sessions in services(self._listenings):
            # Two that are called the same are one to Prometheus, which takes no series twice.
            place = shown(listening.service), shown(listening.description)
            figures = endpoints.setdefault(place, Counter())
            figures.update({(name,): value for name, value in totals(sessions).items()})
            for name, ways in reasons(sessions).items():
                figures.update({(name, why): value for why, value in ways.items()})
            limits[place] = dict(_limits(sessions))
        families = {family.name: family.make() for family in FAMILIES}
        for place, figures in endpoints.items():
            for (name, *labels), value in figures.items():
                families[name].add_metric((*place, *labels), value)
            for name, limit in limits[place].items():
                families[name].add_metric(place, limit or inf)
        return [family for family in families.values() if family.samples]

    def _outcomes(self) -> Metric:
        family = CounterMetricFamily(
            "sockapps_outcomes",
            "What the messages of an app came to that tells, by a name of the app's.",
            labels=("service", "outcome"),
        )
        figures: dict[str, Counter[str]] = {}
        counted: set[int] = set()
        for listening, sessions in services(self._listenings):
            measured = IMeasured(sessions.appFactory, None)
            # All endpoints of a service have the same factory.
            if measured is not None and id(measured) not in counted:
                counted.add(id(measured))
                figures.setdefault(shown(listening.service), Counter()).update(measured.outcomes)
        for service, outcomes in figures.items():
            for outcome, times in outcomes.items():
                family.add_metric((service, outcome), times)
        return family

    def _process(self) -> Iterable[Metric]:
        sources = self._sources
        options: Any = sources.options
        penalties = CounterMetricFamily(
            "sockapps_penalties", "Penalties that sources were given, by kind.", labels=["kind"]
        )
        for kind, times in {**dict.fromkeys(OFFENCES, 0), **sources.penalties}.items():
            penalties.add_metric([kind], times)
        yield penalties
        for name, value, help in (
            ("sources_penalized", sources.penalized, "Sources that have a penalty now."),
            ("sources_max", options.maxSources, "Sources that can be remembered at once."),
            ("connections_open", sources.connections, "Connections to all services now."),
            (
                "connections_max",
                options.maxConnections or inf,
                f"Connections to all services together that there may be at once. {_LIMIT}",
            ),
        ):
            yield GaugeMetricFamily(f"sockapps_{name}", help, value)
        build = GaugeMetricFamily(
            "sockapps_build_info",
            "Always 1; the labels say what runs.",
            labels=["version", "twisted", "python"],
        )
        build.add_metric([version("sockapps"), version("twisted"), platform.python_version()], 1)
        yield build


def _limits(sessions: Sessions) -> Iterator[tuple[str, float]]:
    """Find the limits of one endpoint, by the names of their families; 0: there is none."""
    admission: Any = sessions.admission  # only a client's own sessions have none
    options = admission.options
    yield "source_message_rate_max", options.messageRate
    if isinstance(sessions, DatagramSessions):
        yield "sessions_max", sessions.options.maxPeers
    else:
        yield "sessions_max", options.maxConnections
        yield "source_sessions_max", options.maxConnectionsPerSource
        yield "source_session_rate_max", options.connectionRate


def makeRegistry(listenings: Sequence[Listening], sources: Sources) -> CollectorRegistry:
    """Make what C{prometheus_client} writes out, with the process's own metrics in it too."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector(listenings, sources))
    ProcessCollector(registry=registry)
    return registry
