"""The channels that somebody wants, and who waits until LISTEN on one of them is proven.

A channel is wanted through any number of sessions, and proven on one of them. One that nobody uses stays wanted, for
who resumes with it, until its place is needed or nobody can resume that far (see core/unused). Bound: the limit that is
given with each wish; whoever waits is answered, refused or cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from pgcachewatch.errors import ConfigurationError, LimitExceeded
from pgcachewatch.protocol.messages import TOKEN_CHANNEL
from pgcachewatch_daemon.core.unused import Unused
from pgcachewatch_daemon.io.postgres.contract import GiveUpReason, SourceStats
from pgcachewatch_daemon.sql.entries import JOURNAL_CHANNEL
from pgcachewatch_daemon.sql.functions import CATALOGUE_CHANNEL
from pgcachewatch_daemon.waiters import Waiters

# Heard from the start, counted against nobody, no events.
OWN_CHANNELS = (TOKEN_CHANNEL, CATALOGUE_CHANNEL, JOURNAL_CHANNEL)
CHANNEL_BYTES = 63  # NAMEDATALEN - 1; PostgreSQL cuts longer names off silently, and would then notify another channel


class Wanted:
    """In the order they were asked for. `given_up` is told of each that was proven, before it is UNLISTENed."""

    def __init__(self, stats: SourceStats, *, given_up: Callable[[str], None] = lambda channel: None) -> None:
        self._stats = stats
        self._given_up = given_up
        self._names: dict[str, None] = {}
        self._waiters = Waiters()
        self._proven: set[str] = set()  # LISTENed on the session there is
        self._leaving: dict[str, None] = {}  # the same, though given up: UNLISTEN is due
        self._unused = Unused()  # of the names

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._names))

    def __contains__(self, channel: str) -> bool:
        return channel in self._names

    def is_proven(self, channel: str) -> bool:
        return channel in self._proven

    def missing(self, most: int) -> list[str]:
        """The first of those that are not proven. Behind `leaving`: the server listens to no more than the limit."""
        return [name for name in self._names if name not in self._proven][:most]

    def leaving(self, most: int) -> list[str]:
        """The first of those to UNLISTEN, which from now on are taken for done."""
        taken = list(self._leaving)[:most]
        for name in taken:
            del self._leaving[name]
        return taken

    def ask(self, channel: str, *, limit: int) -> asyncio.Future[None]:
        """Done once it is proven; at once with the error when it can not be had.

        At the limit it takes the place of the longest unused. Whoever asks uses it, and says so first.
        """
        refusal = self._unusable(channel) or self._make_room(channel, limit)
        if refusal is None:
            self._names[channel] = None
            return self._waiters.add(channel)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(refusal)
        return future

    def _make_room(self, channel: str, limit: int) -> LimitExceeded | None:
        if channel in self._names:
            return None
        # More than one when the limit is lower than it was.
        for unused in self._unused.longest(max(0, len(self._names) + 1 - limit)):
            self._give_up(unused, "displaced")
        if len(self._names) < limit:
            return None
        return LimitExceeded(
            f"channel {channel!r} would be one more than the limit of {limit} channels, all of which are in use: "
            "use fewer channels, or raise channels_limit",
            rule="W-LIMIT-6",
            limit="channels",
            allowed=limit,
            value=limit + 1,
        )

    def _unusable(self, channel: str) -> ConfigurationError | None:
        """Why this name can not be a channel of events; None when it can."""
        size = len(channel.encode("utf-8", "surrogatepass"))
        if not 1 <= size <= CHANNEL_BYTES or "\0" in channel:
            return ConfigurationError(f"a channel name has 1 to {CHANNEL_BYTES} bytes and no NUL, not {channel[:80]!r}")
        if channel in OWN_CHANNELS:
            return ConfigurationError(f"{channel} is the relay's own and has no events; choose another")
        return None

    def use(self, channel: str) -> None:
        self._unused.discard(channel)
        self._count()

    def leave(self, channel: str, *, seq: int) -> None:
        """Nobody uses it any more since this position, nor waits for it."""
        if channel in self._names:
            self._unused.add(channel, seq=seq)
            self._count()

    def give_up_before(self, floor: int) -> None:
        """Those that no resume can need."""
        for channel in self._unused.before(floor):
            self._give_up(channel, "unused")

    def _give_up(self, channel: str, why: GiveUpReason) -> None:
        self._stats.channels_given_up[why] += 1
        was_proven = channel in self._proven
        self._forget(channel)
        self._waiters.cancel(channel)
        if was_proven:
            self._leaving[channel] = None
            self._given_up(channel)

    def forget_unused(self) -> None:
        """Before a session begins."""
        for channel in self._unused.all():
            self._forget(channel)
            self._waiters.cancel(channel)

    def _forget(self, channel: str) -> None:
        self._names.pop(channel, None)
        self._unused.discard(channel)
        self._proven.discard(channel)
        self._count()

    def _count(self) -> None:
        self._stats.channels, self._stats.channels_unused = len(self._proven), len(self._unused)

    def prove(self, channel: str) -> bool:
        """LISTEN has returned. False when the channel was given up meanwhile: then it is to be UNLISTENed."""
        if channel not in self._names:
            self._leaving[channel] = None
            return False
        self._proven.add(channel)
        self._count()
        return True

    def disprove(self) -> None:
        """The session is over."""
        self._proven.clear()
        self._leaving.clear()
        self._count()

    def refuse(self, channel: str, error: Exception) -> None:
        """PostgreSQL would not LISTEN to it: that concerns those who asked for it, nobody else."""
        self._forget(channel)
        self._waiters.answer(channel, error)

    def answer(self, channel: str) -> None:
        """Notifications of it are being read."""
        self._waiters.answer(channel)

    def answer_proven(self) -> None:
        self._waiters.answer_each(self._proven)

    def close(self) -> None:
        """Whoever still waits is cancelled."""
        self._waiters.close()
