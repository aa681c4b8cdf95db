"""The channels that somebody wants, and who waits until LISTEN on one of them is proven.

A channel is wanted through any number of sessions, and proven on one of them. Bound: the limit that is given with each
wish; whoever waits is answered, refused or cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from pgcachewatch.errors import ConfigurationError, LimitExceeded
from pgcachewatch.protocol.messages import TOKEN_CHANNEL
from pgcachewatch_daemon.sql.entries import JOURNAL_CHANNEL
from pgcachewatch_daemon.sql.functions import CATALOGUE_CHANNEL
from pgcachewatch_daemon.waiters import Waiters

# Heard from the start, counted against nobody, no events.
OWN_CHANNELS = (TOKEN_CHANNEL, CATALOGUE_CHANNEL, JOURNAL_CHANNEL)
CHANNEL_BYTES = 63  # NAMEDATALEN - 1; PostgreSQL cuts longer names off silently, and would then notify another channel


class Wanted:
    """In the order they were asked for. `proven`: LISTENed on the session there is."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._waiters = Waiters()
        self.proven: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._names))

    def missing(self, most: int) -> list[str]:
        """The first of those that are not proven."""
        return [name for name in self._names if name not in self.proven][:most]

    def ask(self, channel: str, *, limit: int) -> asyncio.Future[None]:
        """Done once it is proven; at once with the error when it can not be had."""
        refusal = self._refusal(channel, limit)
        if refusal is None:
            self._names[channel] = None
            return self._waiters.add(channel)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(refusal)
        return future

    def _refusal(self, channel: str, limit: int) -> ConfigurationError | LimitExceeded | None:
        size = len(channel.encode("utf-8", "surrogatepass"))
        if not 1 <= size <= CHANNEL_BYTES or "\0" in channel:
            return ConfigurationError(f"a channel name has 1 to {CHANNEL_BYTES} bytes and no NUL, not {channel[:80]!r}")
        if channel in OWN_CHANNELS:
            return ConfigurationError(f"{channel} is the relay's own and has no events; choose another")
        if channel in self._names or len(self._names) < limit:
            return None
        return LimitExceeded(
            f"channel {channel!r} would be one more than the limit of {limit} channels: "
            "use fewer channels, or raise channels_limit",
            rule="W-LIMIT-6",
            limit="channels",
            allowed=limit,
            value=limit + 1,
        )

    def refuse(self, channel: str, error: Exception) -> None:
        """PostgreSQL would not LISTEN to it: that concerns those who asked for it, nobody else."""
        self._names.pop(channel, None)
        self._waiters.answer(channel, error)

    def answer(self, channel: str) -> None:
        """Notifications of it are being read."""
        self._waiters.answer(channel)

    def answer_proven(self) -> None:
        self._waiters.answer_each(self.proven)

    def retain(self, channels: Iterable[str]) -> None:
        """Forget those that are not among these and that nobody waits for."""
        needed = set(channels) | self._waiters.channels
        self._names = {name: None for name in self._names if name in needed}

    def close(self) -> None:
        """Whoever still waits is cancelled."""
        self._waiters.close()
