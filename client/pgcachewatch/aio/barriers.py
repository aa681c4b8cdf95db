"""Barriers under way: who waits, what was sent, and what is missing when time runs out (G3).

A barrier holds for the connection it was sent on, because only there its answer is queued behind the events. When the
connection is lost each waiting barrier is sent anew on the next one, behind everything that was replayed.

A barrier on a token waits for one transaction, so nobody shares it. When the relay can not know the token any more, the
answer is LOST, and a barrier without it takes its place: the caller's COMMIT has returned by then, or he would not ask.

Bound: SENT_LIMIT requests are under way at once. Those that come while it is reached share one further request, sent
when an answer makes room: it starts later than each of them, so its answer holds for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pgcachewatch.errors import BarrierTimeout, ConnectionFailed
from pgcachewatch.protocol.client_session import Rejected

SENT_LIMIT = 8
TOKEN_LOST = "token_lost"
RETRY_AFTER_S = 0.1
IDS_FROM = 2**20  # subscriptions count from 1 and end at far less
REMEDIES = {
    "connection": "the relay can not be reached; see client.status.last_error",
    "welcome": "the relay took the connection and has not welcomed it yet",
    "source": "the relay lost PostgreSQL and waits for it",
    "barrierok": "the relay or PostgreSQL is slow; allow more time",
}


@dataclass(frozen=True, slots=True)
class OnToken:
    """One barrier on a token. `landed` is False when the token is lost."""

    token: str
    landed: asyncio.Future[bool]


class Barriers:
    """`send` puts a barrier with this id on the open connection and says whether there was one."""

    def __init__(self, send: Callable[[int, str | None], bool], missing: Callable[[], str]) -> None:
        self._send = send
        self._missing = missing
        self._last_id = IDS_FROM
        self._failed_by: BaseException | None = None
        self._sent: dict[int, list[asyncio.Future[None]]] = {}  # by request: who waits for it
        self._on_tokens: dict[int, OnToken] = {}
        self._next: list[asyncio.Future[None]] = []  # who could not be sent for yet

    async def wait(self, *, timeout_s: float) -> None:
        """Returns when a barrier sent after this call has passed. Raises BarrierTimeout, or what `fail` was told."""
        if self._failed_by is not None:
            raise self._failed_by
        try:
            async with asyncio.timeout(timeout_s):
                await self._start()
        except TimeoutError:
            raise self._timed_out(timeout_s) from None

    async def wait_for_token(self, token: str, *, timeout_s: float) -> None:
        """Returns when the transaction that notified `token` was applied. Raises as `wait` does."""
        if self._failed_by is not None:
            raise self._failed_by
        waiting = OnToken(token, asyncio.get_running_loop().create_future())
        self._ask(waiting)
        try:
            async with asyncio.timeout(timeout_s):
                if not await waiting.landed:
                    await self._start()
        except TimeoutError:
            raise self._timed_out(timeout_s) from None
        finally:
            self._on_tokens = {key: one for key, one in self._on_tokens.items() if one is not waiting}

    def _timed_out(self, timeout_s: float) -> BarrierTimeout:
        missing = self._missing()
        return BarrierTimeout(
            f"the barrier did not pass within {timeout_s:g} s: no {missing} yet; {REMEDIES[missing]}", missing=missing
        )

    def _ask(self, waiting: OnToken) -> None:
        self._last_id += 1
        self._on_tokens[self._last_id] = waiting
        self._send(self._last_id, waiting.token)

    def passed(self, identity: int) -> None:
        waiting = self._on_tokens.pop(identity, None)
        if waiting is not None:
            _land(waiting, True)
            return
        for landed in self._sent.pop(identity, ()):
            if not landed.done():
                landed.set_result(None)
        self._send_next()

    def rejected(self, rejected: Rejected) -> bool:
        """False when the id is no barrier's."""
        waiting = self._on_tokens.pop(rejected.id, None) if rejected.id is not None else None
        if waiting is not None:
            self._rejected_token(waiting, rejected)
            return True
        waiters = self._sent.pop(rejected.id, None) if rejected.id is not None else None
        if waiters is None:
            return False
        if rejected.may_retry:
            delay_s = max(RETRY_AFTER_S, (rejected.after_ms or 0.0) / 1000)
            self._next += waiters
            asyncio.get_running_loop().call_later(delay_s, self._send_next)
        else:
            _fail(waiters, _refusal(rejected))
        return True

    def _rejected_token(self, waiting: OnToken, rejected: Rejected) -> None:
        if rejected.code == TOKEN_LOST:
            _land(waiting, False)
        elif rejected.may_retry:
            delay_s = max(RETRY_AFTER_S, (rejected.after_ms or 0.0) / 1000)
            asyncio.get_running_loop().call_later(delay_s, self._ask_again, waiting)
        elif not waiting.landed.done():
            waiting.landed.set_exception(_refusal(rejected))

    def _ask_again(self, waiting: OnToken) -> None:
        if not waiting.landed.done():
            self._ask(waiting)

    def connected(self, *, is_resumed: bool = False) -> None:
        """A new connection is welcomed: nothing sent before will be answered, and what waits can go.

        Not resumed: this relay may never have heard the tokens.
        """
        on_tokens, self._on_tokens = list(self._on_tokens.values()), {}
        for waiting in on_tokens:
            if is_resumed:
                self._ask(waiting)
            else:
                _land(waiting, False)
        for waiters in self._sent.values():
            self._next += waiters
        self._sent.clear()
        self._send_next()

    def fail(self, error: BaseException) -> None:
        """Nothing will be answered any more, now or later."""
        self._failed_by = error
        waiters = [landed for each in (*self._sent.values(), self._next) for landed in each]
        self._sent.clear()
        self._next = []
        for one in self._on_tokens.values():
            if not one.landed.done():
                one.landed.set_exception(error)
        _fail(waiters, error)

    def _start(self) -> asyncio.Future[None]:
        """A future for one caller, done when a request that is sent from now on has passed."""
        landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next.append(landed)
        self._send_next()
        return landed

    def _send_next(self) -> None:
        waiters = [landed for landed in self._next if not landed.done()]
        self._next = waiters
        if not waiters or len(self._sent) >= SENT_LIMIT:
            return
        self._last_id += 1
        if self._send(self._last_id, None):
            self._sent[self._last_id] = waiters
            self._next = []


def _fail(waiters: Iterable[asyncio.Future[None]], error: BaseException) -> None:
    for landed in waiters:
        if not landed.done():
            landed.set_exception(error)
            landed.exception()  # seen: a waiter that is cancelled this instant must not make asyncio complain


def _land(waiting: OnToken, is_known: bool) -> None:
    if not waiting.landed.done():
        waiting.landed.set_result(is_known)


def _refusal(rejected: Rejected) -> ConnectionFailed:
    return ConnectionFailed(f"the relay refused the barrier: {rejected.code}: {rejected.message}")
