"""How a process reads: several calls at once, over and over, with a barrier now and then; and what it writes down.

The same loop serves our client, its threads and the original library. What differs between them is a Subject: how to
call the cached function, and what else it offers.

A call that is given up by its caller, or that ends with the function's own error, is no read. A call that does not end
at all is counted as hung. Bounds: CALLERS calls at once.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TextIO

from tests.checker.child import run_until_stopped, say_ready
from tests.checker.plan import ReaderFiles, ReaderTask
from tests.checker.records import HIT, RUN, RecordFile
from tests.checker.source import SOURCE_ERRORS, Value

CALLERS = 8
BURST = 64  # calls in a row of one caller, then it rests
PATIENCE_SHARE = 0.02  # of the bursts, one call is given up early
PATIENCE_S = 0.01
FRESH_SHARE = 0.05  # of the bursts, one call asks to bypass the cache
BARRIER_EVERY_S = 0.1
WATCH_EVERY_S = 0.005
HUNG_AFTER_S = 30.0  # longer than any fault, and than any timeout of the function
REST_AFTER_ERROR_S = 0.02


def nothing_fresh() -> AbstractContextManager[object]:
    return nullcontext()


def never_flushed() -> tuple[int, str]:
    return 0, ""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is being checked. `state` is "live" when hits may be served, `barrier_errors` are what a barrier may raise.

    `may_give_up` is False where a cancelled call is known to harm other calls, and would end the run at its start.
    `flushes` is what Flushes looks at.
    """

    call: Callable[[int], Awaitable[Value]]
    state: Callable[[], str]
    barrier: Callable[[], Awaitable[object]] | None = None
    barrier_errors: tuple[type[Exception], ...] = ()
    fresh: Callable[[], AbstractContextManager[object]] = nothing_fresh
    may_give_up: bool = True
    flushes: Callable[[], tuple[int, str]] = never_flushed


@dataclass(slots=True)
class Summary:
    """What a reader counted that is not a read. Errors are the function's own; hung calls never ended.

    `kept_epoch_flushes`: times when all was flushed although the epoch stayed the same.
    """

    calls: int = 0
    errors: int = 0
    given_up: int = 0
    barriers_failed: int = 0
    hung: int = 0
    kept_epoch_flushes: int = 0
    counters: dict[str, int] = field(default_factory=dict)


class Flushes:
    """Counts how often everything was flushed, and how often so in one epoch: where continuity need not have ended.

    `status` is the client's: its `gaps` and the epoch of its position.
    """

    def __init__(self, status: Callable[[], tuple[int, str]]) -> None:
        self._status = status
        self._gaps, self._epoch = 0, ""
        self.in_one_epoch = 0

    def look(self) -> None:
        """Call it often."""
        gaps, epoch = self._status()
        if epoch == self._epoch:
            self.in_one_epoch += gaps - self._gaps
        self._gaps, self._epoch = gaps, epoch


class StateLog:
    """Writes down each change of state with its instant."""

    def __init__(self, file: TextIO, state: Callable[[], str], flushes: Flushes) -> None:
        self._file = file
        self._state = state
        self._flushes = flushes
        self._last = ""

    def look(self) -> None:
        """Call it often."""
        self._flushes.look()
        state = self._state()
        if state != self._last:
            self._last = state
            self._file.write(f"{time.monotonic()!r} {state}\n")


async def read_until_stopped(task: ReaderTask, subject: Subject) -> Summary:
    """Read until the run says stop. Says ready at the first live state."""
    files = ReaderFiles.of(task.directory, task.name)
    summary = Summary()
    with RecordFile(files.reads) as records, files.states.open("w") as states:
        flushes = Flushes(subject.flushes)
        log = StateLog(states, subject.state, flushes)
        while subject.state() != "live":  # noqa: ASYNC110  # a subject announces nothing
            await asyncio.sleep(WATCH_EVERY_S)
        say_ready()
        callers = [
            Caller(subject, records, summary, random.Random(f"{task.seed} {number}"), task) for number in range(CALLERS)
        ]
        tasks = [asyncio.create_task(caller.run()) for caller in callers]
        tasks.append(asyncio.create_task(_watch(log, callers, summary)))
        if subject.barrier is not None:
            tasks.append(asyncio.create_task(_pass_barriers(subject, subject.barrier, records, summary)))
        summary.hung = max(summary.hung, await run_until_stopped(*tasks))
        summary.kept_epoch_flushes = flushes.in_one_epoch
    return summary


def write_summary(task: ReaderTask, summary: Summary) -> None:
    """Leave it for the run; a reader without one did not end in order."""
    ReaderFiles.of(task.directory, task.name).summary.write_text(json.dumps(asdict(summary)))


class Caller:
    """One of those who call at once."""

    def __init__(
        self, subject: Subject, records: RecordFile, summary: Summary, chance: random.Random, task: ReaderTask
    ) -> None:
        self._subject = subject
        self._records = records
        self._summary = summary
        self._chance = chance
        self._keys = task.keys
        self._rest_s = BURST * CALLERS / task.reads_per_s
        self.calling_since_s = math.inf

    async def run(self) -> None:
        while True:
            try:
                await self.burst()
            except SOURCE_ERRORS:
                self._summary.errors += 1
                await asyncio.sleep(REST_AFTER_ERROR_S)
            if self._subject.may_give_up and self._chance.random() < PATIENCE_SHARE:
                await self.give_up_early()
            self.calling_since_s = math.inf
            await asyncio.sleep(self._chance.random() * 2 * self._rest_s)

    async def burst(self) -> None:  # hot path
        """BURST calls in a row, each written down when it ends. The function's own error ends the burst."""
        call, record, clock = self._subject.call, self._records.read, time.monotonic
        keys = self._chance.choices(self._keys, k=BURST)
        if self._chance.random() < FRESH_SHARE:
            with self._subject.fresh():
                await self._read(keys[0])
        for key in keys:
            self.calling_since_s = started_s = clock()
            version, began_s = await call(key)
            record(key, version, started_s, clock(), HIT if began_s < started_s else RUN)
            self._summary.calls += 1

    async def _read(self, key: int) -> None:
        self.calling_since_s = started_s = time.monotonic()
        version, began_s = await self._subject.call(key)
        self._records.read(key, version, started_s, time.monotonic(), HIT if began_s < started_s else RUN)

    async def give_up_early(self) -> None:
        """One call whose caller does not wait to the end."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._read(self._chance.choice(self._keys))
        except TimeoutError:
            self._summary.given_up += 1
        except SOURCE_ERRORS:
            self._summary.errors += 1


async def _watch(log: StateLog, callers: Sequence[Caller], summary: Summary) -> None:
    while True:
        log.look()
        hung_before_s = time.monotonic() - HUNG_AFTER_S
        summary.hung = max(summary.hung, sum(caller.calling_since_s < hung_before_s for caller in callers))
        await asyncio.sleep(WATCH_EVERY_S)


async def _pass_barriers(
    subject: Subject, barrier: Callable[[], Awaitable[object]], records: RecordFile, summary: Summary
) -> None:
    while True:
        await asyncio.sleep(BARRIER_EVERY_S)
        called_s = time.monotonic()
        try:
            await barrier()
        except subject.barrier_errors:
            summary.barriers_failed += 1
        else:
            records.barrier(called_s, time.monotonic())
