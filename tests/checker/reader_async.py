"""A process that reads through our client: `python -m tests.checker.reader_async TASK`."""

from __future__ import annotations

import asyncio
import random
import sys

import pgcachewatch
from pgcachewatch.errors import PGCacheWatchError
from tests.checker.plan import ReaderTask, from_argument
from tests.checker.reading import Subject, read_until_stopped, write_summary
from tests.checker.rows import dependency, flushes_of
from tests.checker.source import Source, Value

BARRIER_TIMEOUT_S = 5.0


async def main(task: ReaderTask) -> None:
    """Read until the run says stop."""
    async with (
        Source(task.dsn, random.Random(task.seed)) as source,
        pgcachewatch.connect(task.url, staleness=task.staleness_s, name=task.name) as client,
    ):

        @client.cache(**dependency(task))
        async def version_of(key: int) -> Value:
            return await source.load(key)

        subject = Subject(
            call=version_of,
            state=lambda: client.status.state,
            barrier=lambda: client.barrier(timeout=BARRIER_TIMEOUT_S),
            barrier_errors=(PGCacheWatchError,),
            fresh=client.fresh,
            flushes=lambda: flushes_of(client.status),
        )
        summary = await read_until_stopped(task, subject)
        status = client.status
        summary.counters = {"gaps": status.gaps, "resumes": status.resumes, "reconnects": status.reconnects}
    write_summary(task, summary)


if __name__ == "__main__":
    asyncio.run(main(from_argument(ReaderTask, sys.argv[1])))
