"""Readers of our client: what the cached function depends on, the row it reads or the table, and what was flushed."""

from __future__ import annotations

from pgcachewatch import Row, Status
from pgcachewatch.aio.caching import CacheKeywords
from tests.checker.plan import TABLE, ReaderTask


def dependency(task: ReaderTask) -> CacheKeywords:
    """Options of the cache. The function's one parameter is called `key`, as the table's key is."""
    return {"rows": Row(TABLE, key="key")} if task.is_by_row else {"tables": [TABLE]}


def flushes_of(status: Status) -> tuple[int, str]:
    """What a reader's Flushes looks at."""
    return status.gaps, status.position.epoch if status.position is not None else ""
