"""A process of threads that read through our client for threads: `python -m tests.checker.reader_sync TASK`.

The function runs in the caller's thread and asks the database through an event loop of its own, because the only
driver at hand is an asynchronous one. Calls end in several threads, so taking the instant and writing the record is
one step under a lock: the analysis needs the records in the order in which the calls ended.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable

import pgcachewatch
from pgcachewatch.errors import PGCacheWatchError
from tests.checker.child import END_WITHIN_S, say_ready, stop_event
from tests.checker.plan import ReaderFiles, ReaderTask, from_argument
from tests.checker.reading import (
    BARRIER_EVERY_S,
    BURST,
    REST_AFTER_ERROR_S,
    WATCH_EVERY_S,
    Flushes,
    StateLog,
    Summary,
    write_summary,
)
from tests.checker.records import HIT, RUN, RecordFile
from tests.checker.rows import dependency, flushes_of
from tests.checker.source import SOURCE_ERRORS, Source, Value

BARRIER_TIMEOUT_S = 5.0
THREADS = 2


class SyncReader:
    """The threads of one process."""

    def __init__(
        self, task: ReaderTask, client: pgcachewatch.sync.Client, load: Callable[[int], Value], records: RecordFile
    ) -> None:
        self._task = task
        self._client = client
        self._records = records
        self._lock = threading.Lock()
        self._is_stopping = False
        self.summary = Summary()
        self._call: Callable[[int], Value] = client.cache(load, **dependency(task))

    def run(self, log: StateLog) -> None:
        """Until the run says stop."""
        threads = [threading.Thread(target=self._read, args=(number,), daemon=True) for number in range(THREADS)]
        threads.append(threading.Thread(target=self._pass_barriers, daemon=True))
        while self._client.status.state != "live":
            time.sleep(WATCH_EVERY_S)
        say_ready()
        stop = stop_event()
        for thread in threads:
            thread.start()
        while not stop.wait(WATCH_EVERY_S):
            log.look()
        self._is_stopping = True
        deadline_s = time.monotonic() + END_WITHIN_S
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        self.summary.hung = sum(thread.is_alive() for thread in threads)
        status = self._client.status
        self.summary.counters = {"gaps": status.gaps, "resumes": status.resumes, "reconnects": status.reconnects}

    def _read(self, number: int) -> None:
        chance = random.Random(f"{self._task.seed} {number}")
        rest_s = BURST * THREADS / self._task.reads_per_s
        while not self._is_stopping:
            try:
                for key in chance.choices(self._task.keys, k=BURST):
                    self._read_one(key)
            except SOURCE_ERRORS:
                self.summary.errors += 1
                time.sleep(REST_AFTER_ERROR_S)
            time.sleep(chance.random() * 2 * rest_s)

    def _read_one(self, key: int) -> None:  # hot path
        started_s = time.monotonic()
        version, began_s = self._call(key)
        with self._lock:
            self._records.read(key, version, started_s, time.monotonic(), HIT if began_s < started_s else RUN)
            self.summary.calls += 1

    def _pass_barriers(self) -> None:
        while not self._is_stopping:
            time.sleep(BARRIER_EVERY_S)
            called_s = time.monotonic()
            try:
                self._client.barrier(timeout=BARRIER_TIMEOUT_S)
            except PGCacheWatchError:
                self.summary.barriers_failed += 1
                continue
            with self._lock:
                self._records.barrier(called_s, time.monotonic())


async def _serve(source: Source, loop_is_up: threading.Event) -> None:
    async with source:
        loop_is_up.set()
        await asyncio.Event().wait()


def main(task: ReaderTask) -> None:
    """Read until the run says stop."""
    loop = asyncio.new_event_loop()
    source = Source(task.dsn, random.Random(task.seed))
    is_up = threading.Event()
    threading.Thread(target=lambda: loop.run_until_complete(_serve(source, is_up)), daemon=True).start()
    is_up.wait()

    def load(key: int) -> Value:
        return asyncio.run_coroutine_threadsafe(source.load(key), loop).result()

    files = ReaderFiles.of(task.directory, task.name)
    with (
        RecordFile(files.reads) as records,
        files.states.open("w") as states,
        pgcachewatch.sync.connect(task.url, staleness=task.staleness_s, name=task.name) as client,
    ):
        reader = SyncReader(task, client, load, records)
        flushes = Flushes(lambda: flushes_of(client.status))
        reader.run(StateLog(states, lambda: client.status.state, flushes))
        reader.summary.kept_epoch_flushes = flushes.in_one_epoch
    write_summary(task, reader.summary)


if __name__ == "__main__":
    main(from_argument(ReaderTask, sys.argv[1]))
