"""From which position on each channel's events are in the log.

LISTEN on a channel may begin in the middle of an epoch, when somebody first asks for it or when it is asked for again
after it was given up. What it said before is not in the log, and whoever resumes from there has to be told. Who was
told of nothing behind that position may have left before it: while no event came, the two are the same. Bound: the
channels that are listened to.
"""

from __future__ import annotations

from collections.abc import Iterable

from pgcachewatch.protocol.relay_session import Subscription


class Reach:
    """A channel that is not named here is in the log from the beginning of the epoch.

    >>> reach = Reach()
    >>> reach.listened("a", since=7)
    >>> wished = [Subscription(1, 1, "a")]
    >>> reach.is_whole(wished, after=7), reach.is_whole(wished, after=8)
    (False, True)
    """

    def __init__(self) -> None:
        self._since: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._since)

    def listened(self, channel: str, *, since: int) -> None:
        """LISTEN on it was proven when this was the last position, whatever was so before."""
        self._since[channel] = since

    def given_up(self, channel: str) -> None:
        """It is not listened to any more; before anybody resumes with it, it will be anew."""
        self._since.pop(channel, None)

    def forget_all(self) -> None:
        """PostgreSQL is lost: what was missed is told to everyone, by a new epoch or by a gap."""
        self._since.clear()

    def is_whole(self, wished: Iterable[Subscription], *, after: int) -> bool:
        """True when all that these were to be told of after this position was heard.

        LISTEN misses nothing of the journal, which is read.
        """
        return not any(self._since.get(each.channel, -1) >= after for each in wished if not each.is_journalled)
