"""What a cached function says of its own reads: which snapshot it read in, for `client.cache(consistency="snapshot")`.

    @client.cache(rows=Row("users", id="user_id"), consistency="snapshot")
    async def get_user(user_id: int) -> User | None:
        row = await replica.fetchrow(
            "SELECT u.*, pg_current_snapshot()::text AS snapshot, pg_is_in_recovery() AS standby "
            "FROM (SELECT) AS one LEFT JOIN users AS u ON u.id = $1", user_id
        )
        pgcachewatch.read_in(row["snapshot"], standby=row["standby"])
        ...

The running fill is found through the context, so that what the function returns stays what it is. A value that was not
shown to contain each change that was applied spoils what is made of it: a cached function that is given such a value by
another one is not stored either.

Bound: SNAPSHOTS_PER_RUN; a run that names more is not stored.
"""

from __future__ import annotations

from pgcachewatch.aio.flight import CURRENT
from pgcachewatch.core.snapshots import Snapshot

SNAPSHOTS_PER_RUN = 1_000


def read_in(snapshot: str, *, standby: bool = False) -> None:
    """Tell the cache which snapshot the running function read in: `pg_current_snapshot()::text` of the same statement.

    Of the same statement, or of the same REPEATABLE READ transaction: a later one would claim changes that were not
    read. `standby` is `pg_is_in_recovery()`, asked there too, because a standby's snapshot says less than its text. A
    function that reads several times tells each. Elsewhere than in a cached function this does nothing; a cache without
    `consistency="snapshot"` does not ask. Raises ConfigurationError for a text that is no snapshot.

    >>> read_in("10:20:10,14")
    """
    parsed = Snapshot.parse(snapshot, is_standby=standby)
    node = CURRENT.get()
    if node is None:
        return
    if len(node.snapshots) < SNAPSHOTS_PER_RUN:
        node.snapshots.add(parsed)
    else:
        node.is_unproven = True


def spoil() -> None:
    """The function that is running, if any, was given a value that may lack a change that was applied."""
    node = CURRENT.get()
    if node is not None:
        node.is_unproven = True
