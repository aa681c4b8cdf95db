"""Answers barriers: those without a token by the loopback, those with one when its transaction has been published.

The cores decide (core/loopback, core/tokens), the hub queues the answer behind each event it speaks of. What is asked
for and can not be answered by an event or a proof of its own accord makes the source send a loopback now. Bound: of one
client, as many as the limits say in a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never, cast

from pgcachewatch.protocol import codec, messages
from pgcachewatch.protocol.relay_session import BarrierRequested
from pgcachewatch_daemon.core.allowance import Allowance
from pgcachewatch_daemon.core.audience import Subscriber
from pgcachewatch_daemon.core.hub import Hub
from pgcachewatch_daemon.core.loopback import BarrierWait, Full, Loopback, LoopbackResult
from pgcachewatch_daemon.core.tokens import Awaited, Lost, Passed, Tokens

TOKEN_LOST = (
    "the relay can not know this token any more: PostgreSQL was lost since, or it is too old; "
    "ask without a token once COMMIT has returned"
)


class Barriers:
    """Every barrier of the relay. `now_ms` is its monotonic clock; `hasten` makes the source loop back now."""

    def __init__(
        self,
        hub: Hub,
        loopback: Loopback,
        tokens: Tokens,
        *,
        now_ms: Callable[[], float],
        hasten: Callable[[], None],
    ) -> None:
        self._hub = hub
        self._loopback = loopback
        self._tokens = tokens
        self._now_ms = now_ms
        self._hasten = hasten
        self._allowances: dict[Subscriber, Allowance] = {}  # of those that have asked

    # --- what clients ask

    def ask(self, subscriber: Subscriber, asked: BarrierRequested) -> None:
        """Answer now, or as soon as it is true."""
        now_ms, per_s = self._now_ms(), self._loopback.limits.barriers_per_s
        wait_s = self._allowances.setdefault(subscriber, Allowance()).take(per_s=per_s, now_s=now_ms / 1_000)
        if wait_s:
            text = f"more than {per_s:g} barriers in one second: one barrier serves all who wait"
            self._send_error(subscriber, asked.id, "too_many_barriers", text, after_ms=wait_s * 1_000)
            return
        if asked.token is None:
            refused = self._loopback.request(subscriber, asked.id, now_ms=now_ms)
            if refused is None:
                self._hasten()
            else:
                self._refuse(subscriber, asked.id, refused)
            return
        match self._tokens.request(subscriber, asked.id, asked.token, now_ms=now_ms):
            case Passed():
                self._hub.barrier_passed(subscriber, asked.id)
            case Awaited(needs_proof):
                if needs_proof:
                    self._hasten()
            case Lost():
                self._lost(subscriber, asked.id)
            case Full() as full:
                self._refuse(subscriber, asked.id, full)
            case other:
                assert_never(other)

    def drop(self, subscriber: Subscriber) -> None:
        """The connection that asked is gone."""
        self._allowances.pop(subscriber, None)
        self._loopback.drop(subscriber)
        self._tokens.drop(subscriber)

    # --- what the source tells

    def looped_back(self, result: LoopbackResult) -> None:
        """Behind the mark of this loopback."""
        self._pass(result.barriers)
        for wait in self._tokens.proven(result.as_of_ms):
            self._lost(cast(Subscriber, wait.subscriber), wait.id)

    def token_notified(self, token: str) -> None:
        if self._tokens.arrived(token, now_ms=self._now_ms()):
            self._hasten()

    def tokens_settled(self) -> bool:
        """True when somebody was answered."""
        passed = self._tokens.settled()
        self._pass(passed)
        return bool(passed)

    def source_up(self) -> None:
        self._tokens.source_up()

    def source_lost(self) -> None:
        for wait in self._tokens.source_lost():
            self._lost(cast(Subscriber, wait.subscriber), wait.id)

    # --- answers

    def _pass(self, waits: tuple[BarrierWait, ...] | list[BarrierWait]) -> None:
        for wait in waits:
            self._hub.barrier_passed(cast(Subscriber, wait.subscriber), wait.id)

    def _lost(self, subscriber: Subscriber, identity: int) -> None:
        self._send_error(subscriber, identity, "token_lost", TOKEN_LOST)

    def _refuse(self, subscriber: Subscriber, identity: int, full: Full) -> None:
        text = f"too many barriers wait, the limit is {full.limit}: await those you asked for"
        self._send_error(subscriber, identity, "too_many_barriers", text)

    def _send_error(
        self, subscriber: Subscriber, identity: int, code: str, text: str, *, after_ms: float | None = None
    ) -> None:
        """`after_ms`: asking again then can help."""
        error = messages.Err(id=identity, code=code, message=text, retry=after_ms is not None, after_ms=after_ms)
        self._hub.send(subscriber, codec.encode(error))
