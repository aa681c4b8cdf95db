"""What the cached function of a reader depends on: the row that it reads, or the whole table."""

from __future__ import annotations

from pgcachewatch import Row
from pgcachewatch.aio.caching import CacheKeywords
from tests.checker.plan import TABLE, ReaderTask


def dependency(task: ReaderTask) -> CacheKeywords:
    """Options of the cache. The function's one parameter is called `key`, as the table's key is."""
    return {"rows": Row(TABLE, key="key")} if task.is_by_row else {"tables": [TABLE]}
