"""
Tests for L{sockapps.workers}, with real threads.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.internet.task import Clock

from sockapps.workers import DEFERENCE, Busy, Workers
from tests.sockets import PATIENCE, bounded, until


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What lets jobs go on; it is open when the test ends."""
    made = threading.Event()
    yield made
    made.set()


def failureOf(deferred: Deferred[Any]) -> type[BaseException] | None:
    """Tell how a Deferred has failed by now."""
    failures: list[Any] = []
    deferred.addErrback(failures.append)
    return failures[0].type if failures else None


@pytest_twisted.ensureDeferred
async def test_workIsDoneInAThreadOfItsOwnAndItsResultComesBack() -> None:
    workers = Workers(1, 0, "testing")

    def work(a: int, b: int) -> tuple[int, str]:
        return a + b, threading.current_thread().name

    assert not any("testing" in thread.name for thread in threading.enumerate())
    result, name = await bounded(workers.run(work, 1, b=2), lambda: "the job")
    assert result == 3
    assert "testing" in name
    assert await bounded(workers.run(work, 2, b=2), lambda: "the job") == (4, name)


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has no priority of its own elsewhere")
@pytest_twisted.ensureDeferred
async def test_theReactorGoesBeforeTheWorkers() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    before = niceness()
    assert before < 19
    theirs = await bounded(Workers(1, 0, "testing").run(niceness), lambda: "the job")
    assert theirs == min(19, before + DEFERENCE)
    assert niceness() == before


@pytest_twisted.ensureDeferred
async def test_errorsPassThrough() -> None:
    def fail() -> None:
        raise LookupError("as it happens")

    with pytest.raises(LookupError, match="as it happens"):
        await bounded(Workers(1, 0, "testing").run(fail), lambda: "the job")


@pytest_twisted.ensureDeferred
async def test_whereTheQueueIsFullItIsBusyAtOnce(gate: threading.Event) -> None:
    workers = Workers(2, 1, "testing")
    jobs = [workers.run(gate.wait, PATIENCE) for _ in range(3)]
    refused = [workers.run(gate.wait, PATIENCE) for _ in range(2)]
    assert [failureOf(job) for job in refused] == [Busy, Busy]
    assert workers.busy == 2
    gate.set()
    assert await bounded(gatherResults(jobs), lambda: "the jobs") == [True, True, True]
    assert await bounded(workers.run(gate.wait), lambda: "a job more") is True


@pytest_twisted.ensureDeferred
async def test_noMoreJobsRunAtOnceThanThereAreThreads(gate: threading.Event) -> None:
    running: list[int] = []
    most: list[int] = []
    bothRun = threading.Barrier(2)

    def work() -> None:
        running.append(1)
        most.append(len(running))
        bothRun.wait(PATIENCE)
        running.pop()

    workers = Workers(2, 8, "testing")
    await bounded(gatherResults([workers.run(work) for _ in range(10)]), lambda: "the jobs")
    assert max(most) == 2


@pytest_twisted.ensureDeferred
async def test_whoGivesUpHasNotFreedTheThread(gate: threading.Event) -> None:
    def work() -> None:
        gate.wait(PATIENCE)
        raise LookupError("nobody waits for this any more")

    clock = Clock()
    workers = Workers(1, 0, "testing")
    job = workers.run(work)
    job.addTimeout(2, clock)  # type: ignore[arg-type]
    clock.advance(2)
    assert failureOf(job) is TimeoutError
    assert failureOf(workers.run(work)) is Busy
    gate.set()
    await until(lambda: workers._unfinished == 0, "the job is done")
    assert await bounded(workers.run(gate.is_set), lambda: "the next job") is True


@pytest_twisted.ensureDeferred
async def test_theThreadsStopWithTheReactor() -> None:
    from twisted.internet import reactor

    real: Any = reactor

    class Stopping:
        """The real reactor, but that what it would call when it stops can be called here."""

        callFromThread = real.callFromThread

        def addSystemEventTrigger(self, phase: str, event: str, stop: Any) -> None:
            assert (phase, event) == ("during", "shutdown")
            self.stop = stop

    stopping: Any = Stopping()
    workers = Workers(1, 0, "stopping", stopping)
    await bounded(workers.run(lambda: None), lambda: "the job")
    assert any("stopping" in thread.name for thread in threading.enumerate())
    stopping.stop()
    assert not any("stopping" in thread.name for thread in threading.enumerate())
