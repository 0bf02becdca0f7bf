"""
Blocking work in a few threads of its own, with a queue that has an end.

The reactor's own pool is shared with name look-ups: slow work there delays every connection made
by name. And a pool whose queue has no end turns overload into a wait without end.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from twisted.internet import defer
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from sockapps.globalreactor import globalReactor

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorFromThreads

P = ParamSpec("P")
T = TypeVar("T")


DEFERENCE = 10
"""How much nicer than the reactor a worker is, where the system has that."""


class Busy(Exception):
    """Every worker has work and the queue is full: ask again later."""


class _Worker(threading.Thread):
    """A thread that lets the reactor go first where there are not processors for both."""

    def run(self) -> None:
        if sys.platform == "linux":  # elsewhere it would be the whole process
            with suppress(OSError):  # forbidden, in a sandbox
                own = os.getpriority(os.PRIO_PROCESS, 0)
                os.setpriority(os.PRIO_PROCESS, 0, own + DEFERENCE)
        super().run()


class Workers:
    """
    A few threads, started with the first job and stopped with the reactor.

    @ivar threads: How many jobs run at once.
    @ivar queue: How many more may wait.
    @ivar busy: How many jobs were refused so far.
    """

    def __init__(
        self,
        threads: int,
        queue: int,
        name: str,
        reactor: IReactorFromThreads | None = None,
    ) -> None:
        self.threads = threads
        self.queue = queue
        self.busy = 0
        self._name = name
        self._reactor: Any = reactor or globalReactor()
        self._unfinished = 0
        self._pool: ThreadPool | None = None

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> defer.Deferred[T]:
        """
        Call C{work} in one of the threads.

        @return: A Deferred of what it returned or raised; it fails with L{Busy} at once where
            the queue is full.
        """
        if self._unfinished >= self.threads + self.queue:
            self.busy += 1
            return defer.fail(Busy(f"all {self.threads} {self._name} workers have work"))
        pool = self._pool or self._start()
        self._unfinished += 1
        done = deferToThreadPool(self._reactor, pool, work, *args, **kwargs)

        # The job itself ends the count, not whoever waits for it: a caller that gave up after a
        # time-out has not freed the thread.
        answer: defer.Deferred[T] = defer.Deferred()

        def finished(result: Any) -> None:
            self._unfinished -= 1
            if not answer.called:
                answer.callback(result)

        done.addBoth(finished)
        return answer

    def _start(self) -> ThreadPool:
        # Not before the first job: a thread does not survive the fork of a daemon.
        self._pool = pool = ThreadPool(0, self.threads, self._name)
        pool.threadFactory = _Worker
        pool.start()
        self._reactor.addSystemEventTrigger("during", "shutdown", pool.stop)
        return pool
