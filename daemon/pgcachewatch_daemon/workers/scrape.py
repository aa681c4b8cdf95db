"""One scrape of the whole relay: every worker is asked, and what they counted is added up.

A worker that does not answer within ANSWER_S is left out with its gauges and counted as silent; its counters stay as
they were heard last, and so do those of workers that have ended. One round is under way at a time; who asks meanwhile
gets its result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pgcachewatch_daemon.io.metrics import Exposition, Reading
from pgcachewatch_daemon.sights import Sights, together
from pgcachewatch_daemon.workers.messages import Ask, Message
from pgcachewatch_daemon.workers.sums import nothing, total, without_gauges

ANSWER_S = 1.0


class Counting(Protocol):
    """A worker that can be asked."""

    readings: Mapping[str, Reading]
    sights: Sights | None

    def say(self, *messages: Message) -> None: ...


class Scrapes:
    """`workers` are those to ask, `own` reads what the primary counts itself."""

    def __init__(self, workers: Callable[[], Sequence[Counting]], own: Callable[[], Mapping[str, Reading]]) -> None:
        self.silences = 0
        self._workers = workers
        self._own = own
        self._ended: Mapping[str, Reading] = {}  # counters of workers that are no more
        self._number = 0
        self._missing: set[Counting] = set()
        self._waiting: list[tuple[asyncio.Future[bytes], bool]] = []  # True for OpenMetrics
        self._timer: asyncio.TimerHandle | None = None
        self._is_look = False  # the round under way
        self.sum: Mapping[str, Reading] = {}  # of the last round
        self._exposition = Exposition(lambda: self.sum)

    def ask(self, *, is_openmetrics: bool = False) -> asyncio.Future[bytes]:
        """The text of /metrics; every worker that answers has handled all that was said to it before this call."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, is_openmetrics))
        if len(self._waiting) == 1:
            self._begin()
        return future

    async def look(self) -> Sights:
        """Clients and tables for people, while `sum` is of the same round."""
        while self._waiting and not self._is_look:
            await self.ask()  # what is under way did not ask for them
        self._is_look = True
        await self.ask()
        return together([worker.sights for worker in self._workers() if worker.sights is not None])

    def counted(
        self, worker: Counting, number: int, readings: Mapping[str, Reading], sights: Sights | None = None
    ) -> None:
        """A worker's answer."""
        worker.readings, worker.sights = readings, sights
        if number == self._number and worker in self._missing:
            self._missing.discard(worker)
            self._end_if_complete()

    def gone(self, worker: Counting) -> None:
        """A worker has ended; it answers no more, and what it counted stays."""
        self._ended = total([self._ended, without_gauges(worker.readings)])
        worker.readings, worker.sights = {}, None
        if worker in self._missing:
            self._missing.discard(worker)
            self._end_if_complete()

    def close(self) -> None:
        """Nobody is answered any more."""
        if self._timer is not None:
            self._timer.cancel()
        for future, _ in self._waiting:
            future.cancel()
        self._waiting.clear()

    def _begin(self) -> None:
        self._number += 1
        workers = self._workers()
        self._missing = set(workers)
        self._timer = asyncio.get_running_loop().call_later(ANSWER_S, self._end)
        for place, worker in enumerate(workers):
            # Each has the whole history: one is enough to tell of the tables in it.
            worker.say(Ask(self._number, self._is_look, self._is_look and place == 0))
        self._end_if_complete()

    def _end_if_complete(self) -> None:
        if self._waiting and not self._missing:
            self._end()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._is_look = False
        missing, self._missing = self._missing, set()
        self.silences += len(missing)
        heard = [
            without_gauges(worker.readings) if worker in missing else worker.readings for worker in self._workers()
        ]
        self.sum = total([nothing(), self._own(), self._ended, *heard])
        waiting, self._waiting = self._waiting, []
        wanted = {is_openmetrics for _, is_openmetrics in waiting}
        texts = {each: self._exposition.render(is_openmetrics=each) for each in wanted}
        for future, is_openmetrics in waiting:
            if not future.done():
                future.set_result(texts[is_openmetrics])
