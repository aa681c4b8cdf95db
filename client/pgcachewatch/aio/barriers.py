"""Barriers under way: who waits, what was sent, and what is missing when time runs out (G3).

A barrier holds for the connection it was sent on, because only there its answer is queued behind the events. When the
connection is lost each waiting barrier is sent anew on the next one, behind everything that was replayed.

Bound: SENT_LIMIT requests are under way at once. Those that come while it is reached share one further request, sent
when an answer makes room: it starts later than each of them, so its answer holds for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pgcachewatch.errors import BarrierTimeout, ConnectionFailed
from pgcachewatch.protocol.client_session import Rejected

SENT_LIMIT = 8
RETRY_AFTER_S = 0.1
IDS_FROM = 2**20  # subscriptions count from 1 and end at far less
REMEDIES = {
    "connection": "the relay can not be reached; see client.status.last_error",
    "welcome": "the relay took the connection and has not welcomed it yet",
    "source": "the relay lost PostgreSQL and waits for it",
    "barrierok": "the relay or PostgreSQL is slow; allow more time",
}


class Barriers:
    """`send` puts a barrier with this id on the open connection and says whether there was one."""

    def __init__(self, send: Callable[[int], bool], missing: Callable[[], str]) -> None:
        self._send = send
        self._missing = missing
        self._last_id = IDS_FROM
        self._failed_by: BaseException | None = None
        self._sent: dict[int, asyncio.Future[None]] = {}
        self._next: asyncio.Future[None] | None = None  # shared by those that could not be sent yet

    async def wait(self, *, timeout_s: float) -> None:
        """Returns when a barrier sent after this call has passed. Raises BarrierTimeout, or what `fail` was told."""
        if self._failed_by is not None:
            raise self._failed_by
        future = self._start()
        try:
            async with asyncio.timeout(timeout_s):
                # Shielded: others may wait for the same one.
                await asyncio.shield(future)
        except TimeoutError:
            missing = self._missing()
            raise BarrierTimeout(
                f"the barrier did not pass within {timeout_s:g} s: no {missing} yet; {REMEDIES[missing]}",
                missing=missing,
            ) from None

    def passed(self, identity: int) -> None:
        future = self._sent.pop(identity, None)
        if future is not None and not future.done():
            future.set_result(None)
        self._send_next()

    def rejected(self, rejected: Rejected) -> bool:
        """False when the id is no barrier's."""
        future = self._sent.pop(rejected.id, None) if rejected.id is not None else None
        if future is None:
            return False
        if rejected.may_retry:
            delay_s = max(RETRY_AFTER_S, (rejected.after_ms or 0.0) / 1000)
            self._join_next(future)
            asyncio.get_running_loop().call_later(delay_s, self._send_next)
        elif not future.done():
            future.set_exception(
                ConnectionFailed(f"the relay refused the barrier: {rejected.code}: {rejected.message}")
            )
            self._consume(future)
        return True

    def connected(self) -> None:
        """A new connection is welcomed: nothing sent before will be answered, and what waits can go."""
        for future in list(self._sent.values()):
            self._join_next(future)
        self._sent.clear()
        self._send_next()

    def fail(self, error: BaseException) -> None:
        """Nothing will be answered any more, now or later."""
        self._failed_by = error
        waiting = [*self._sent.values(), *([self._next] if self._next else [])]
        self._sent.clear()
        self._next = None
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                self._consume(future)

    def _start(self) -> asyncio.Future[None]:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        future = self._next
        if len(self._sent) < SENT_LIMIT:
            self._send_next()
        return future

    def _send_next(self) -> None:
        future = self._next
        if future is None or len(self._sent) >= SENT_LIMIT:
            return
        self._last_id += 1
        if self._send(self._last_id):
            self._sent[self._last_id] = future
            self._next = None

    def _join_next(self, future: asyncio.Future[None]) -> None:
        """Let `future` end as the next barrier does."""
        if future.done():
            return
        if self._next is None:
            self._next = future
            return

        def follow(leader: asyncio.Future[None]) -> None:
            if future.done():
                return
            error = leader.exception()
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
                self._consume(future)

        self._next.add_done_callback(follow)

    @staticmethod
    def _consume(future: asyncio.Future[None]) -> None:
        """A waiter that gave up must not make asyncio complain of an exception nobody saw."""
        future.exception()
