"""Who waits for a channel to be listened to. Bound: each is answered, or cancelled at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, KeysView


class Waiters:
    """By channel."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    @property
    def channels(self) -> KeysView[str]:
        """Those that somebody waits for."""
        return self._waiting.keys()

    def add(self, channel: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(channel, []).append(future)
        return future

    def answer(self, channel: str, error: Exception | None = None) -> None:
        """All who wait for this one."""
        for waiter in self._waiting.pop(channel, ()):
            if waiter.done():
                continue  # whoever asked has gone
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    def answer_each(self, channels: Iterable[str]) -> None:
        for channel in self._waiting.keys() & set(channels):
            self.answer(channel)

    def cancel(self, channel: str) -> None:
        """Nobody wants this one any more."""
        for waiter in self._waiting.pop(channel, ()):
            waiter.cancel()

    def close(self) -> None:
        """Whoever still waits is cancelled."""
        for waiter in [waiter for waiters in self._waiting.values() for waiter in waiters]:
            waiter.cancel()
        self._waiting.clear()
