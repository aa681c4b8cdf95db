"""SQLAlchemy 2 with asyncio: SELECTs that are cached by statement, with the tables taken from their SQL.

    reads = CachedReads(engine, cache)
    rows = await reads.rows(select(User.id, User.name).where(User.id == 5), session)

After a commit, `await client.barrier()` makes each hit in this process contain it.
"""

try:
    import sqlalchemy.ext.asyncio  # noqa: F401  # said here, where the remedy can be
except ImportError as error:
    raise ImportError(
        "pgcachewatch.contrib.sqlalchemy needs SQLAlchemy 2 for asyncio: pip install 'sqlalchemy[asyncio]>=2.0'"
    ) from error

from pgcachewatch.contrib.sqlalchemy.reads import CachedReads

__all__ = ["CachedReads"]
