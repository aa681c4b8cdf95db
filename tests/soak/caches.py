"""A process of caching programs: `python -m tests.soak.caches TASK`, `size` clients of our own library.

Each has one cache by table and one by row over the rows that the checker's writer changes, reads them at its leisure
and asks for a barrier now and then. Every fourth takes part in the durable consumer as well. The checker looks for
stale reads with all rigour; here a value that is older than the one before is enough to fail.

Bound: VIOLATIONS_KEPT texts.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

import pgcachewatch
from pgcachewatch import Row
from pgcachewatch.errors import PGCacheWatchError
from pgcachewatch.models import Gap
from tests.checker.plan import TABLE, from_argument
from tests.checker.source import SOURCE_ERRORS, Source, Value
from tests.soak.crowd import Report, take_part
from tests.soak.plan import CONSUMER, JOBS, CrowdTask
from tests.soak.tape import Numbers

KEYS = 16
CONSUMES_EVERY = 4
BARRIER_EVERY_S = 5.0
RETRY_S = 0.5
VIOLATIONS_KEPT = 20


class Program:
    """One client and its caches."""

    def __init__(self, task: CrowdTask, number: int) -> None:
        self.takes_jobs = number % CONSUMES_EVERY == 0
        self.calls: Counter[str] = Counter()
        self.violations: list[str] = []
        self.versions: dict[str, dict[int, int]] = {"by table": {}, "by row": {}}
        self.jobs = Numbers()
        self.job_gaps = 0
        self.is_taking = not self.takes_jobs  # or has been
        self._task = task
        self._chance = random.Random(task.seed * 1_000 + number)
        self._name = f"{task.name}-{number}"

    async def run(self) -> None:
        """For ever; the client itself deals with a relay that is away."""
        async with (
            Source(self._task.dsn, self._chance) as source,
            pgcachewatch.connect(self._task.url, name=self._name) as client,
        ):

            @client.cache(tables=[TABLE])
            async def by_table(key: int) -> Value:
                return await source.load(key)

            @client.cache(rows=Row(TABLE, key="key"))
            async def by_row(key: int) -> Value:
                return await source.load(key)

            async with asyncio.TaskGroup() as group:
                group.create_task(self._read("by table", by_table))
                group.create_task(self._read("by row", by_row))
                group.create_task(self._pass_barriers(client))
                if self.takes_jobs:
                    group.create_task(self._take_jobs(client))

    async def _read(self, cache: str, call: Callable[[int], Awaitable[Value]]) -> None:
        versions = self.versions[cache]
        while True:
            await asyncio.sleep(self._chance.expovariate(self._task.per_s))
            key = self._chance.randrange(KEYS)
            try:
                version, _ = await call(key)
            except SOURCE_ERRORS:
                self.calls["failed"] += 1
                continue
            self.calls[cache] += 1
            if version < versions.get(key, 0) and len(self.violations) < VIOLATIONS_KEPT:
                self.violations.append(f"{self._name} {cache}: key {key} was at {versions[key]}, then at {version}")
            versions[key] = version

    async def _pass_barriers(self, client: pgcachewatch.Client) -> None:
        while True:
            await asyncio.sleep(self._chance.uniform(0, 2 * BARRIER_EVERY_S))
            try:
                await client.barrier()
            except PGCacheWatchError:
                self.calls["barrier lost"] += 1
            else:
                self.calls["barrier"] += 1

    async def _take_jobs(self, client: pgcachewatch.Client) -> None:
        async def be_told(gap: Gap) -> None:
            self.job_gaps += 1

        while True:
            try:
                async with client.events(JOBS, operations={"insert"}, consumer=CONSUMER, on_gap=be_told) as events:
                    self.is_taking = True
                    async for event in events:
                        for key in event.keys or ():
                            self.jobs.add(int(key))
            except PGCacheWatchError:
                self.calls["consumer refused"] += 1
                await asyncio.sleep(RETRY_S)


def report_of(programs: list[Program]) -> Report:
    """What the judge wants to know."""
    calls: Counter[str] = Counter()
    for each in programs:
        calls += each.calls
    return {
        "calls": calls,
        "violations": [text for each in programs for text in each.violations],
        "versions": [versions for each in programs for versions in each.versions.values()],
        "jobs": [span for each in programs for span in each.jobs.spans],
        "is_there": all(each.is_taking for each in programs),
        "job_gaps": sum(each.job_gaps for each in programs),
    }


async def main(task: CrowdTask) -> None:
    """Read until the soak says stop."""
    programs = [Program(task, number) for number in range(task.size)]
    await take_part(task.directory, task.name, [each.run() for each in programs], lambda: report_of(programs))


if __name__ == "__main__":
    asyncio.run(main(from_argument(CrowdTask, sys.argv[1])))
