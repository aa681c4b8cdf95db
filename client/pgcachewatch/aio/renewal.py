"""Tokens of a client that has a source of them: one for each connection, and another before the relay ends it.

A source that is a plain function runs in a thread, because it may ask a server and the event loop has hits to serve. A
coroutine function runs on the client's loop. What it raises is reported without its text, which may hold a secret; the
exception itself is the report's cause.

The new token is asked for while the last quarter of the old one is left, a minute at most, and at a moment drawn from
the first half of that: so the clients of one deployment do not ask in the same instant. When that fails it is tried
again while there is time. After that the relay closes, and the next connection asks. Bounds: one renewal at a time,
RENEW_SPACING_S between two, SOURCE_TIMEOUT_S for a source.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from pgcachewatch.errors import ConnectionFailed

TokenSource = Callable[[], str | Awaitable[str]]
Token = str | TokenSource

SOURCE_TIMEOUT_S = 30.0
RENEW_PART = 0.25
RENEW_LEFT_MOST_S = 60.0
RENEW_SPACING_S = 1.0


async def obtain(token: Token | None) -> str | None:
    """The token to show now. Raises ConnectionFailed when the source has none."""
    if token is None or isinstance(token, str):
        return token
    try:
        async with asyncio.timeout(SOURCE_TIMEOUT_S):
            found = token() if inspect.iscoroutinefunction(token) else await asyncio.to_thread(token)
            if inspect.isawaitable(found):
                found = await found
    except Exception as error:  # a user's function may raise anything
        raise ConnectionFailed(f"the source of tokens raised {type(error).__name__}; see the cause") from error
    if not isinstance(found, str):
        raise ConnectionFailed(f"the source of tokens returned {type(found).__name__}; let it return a text")
    return found


class Renewal:
    """For one connection. `offer` says a token to the relay, `report` is told what went wrong."""

    def __init__(
        self,
        token: Token | None,
        *,
        offer: Callable[[str], None],
        report: Callable[[ConnectionFailed], None],
        chance: Callable[[], float],
    ) -> None:
        self._token = token
        self._offer = offer
        self._report = report
        self._chance = chance
        self._end_s = float("inf")  # by the loop's clock
        self._task: asyncio.Task[None] | None = None

    def ends_in(self, left_s: float | None) -> None:
        """The relay says how long the token is good for yet; None: it does not end by itself."""
        self.stop()
        if left_s is None or not callable(self._token):
            return
        self._end_s = asyncio.get_running_loop().time() + left_s
        early_s = min(RENEW_LEFT_MOST_S, left_s * RENEW_PART)
        self._begin(max(RENEW_SPACING_S, left_s - early_s * (1 - self._chance() / 2)))

    def refused_for_now(self, after_s: float) -> bool:
        """The relay could not check what was offered. False when nothing was: then the refusal is of something else."""
        if self._task is None or not self._task.done():
            return False
        self._begin(max(RENEW_SPACING_S, after_s))
        return True

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _begin(self, delay_s: float) -> None:
        self._task = asyncio.get_running_loop().create_task(self._renew(delay_s), name="pgcachewatch-renewal")

    async def _renew(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(delay_s)
            try:
                token = await obtain(self._token)
            except ConnectionFailed as error:
                self._report(error)
                left_s = self._end_s - loop.time()
                if left_s <= 0:
                    return  # the relay closes, and the next connection asks again
                delay_s = max(RENEW_SPACING_S, left_s / 4)
                continue
            assert token is not None, "there is a source"
            self._offer(token)
            return
