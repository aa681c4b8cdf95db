"""How visitors are sent away, so that each knows why and when to come back.

Whoever has joined gets `bye` behind what it is still told; who has not is refused, on the plain path by the answer and
else by the close. Those who leave together are told times that differ.
"""

from __future__ import annotations

from collections.abc import Iterable

from pgcachewatch.protocol import codec
from pgcachewatch_daemon import wishes
from pgcachewatch_daemon.core.hub import Hub
from pgcachewatch_daemon.departures import Departures
from pgcachewatch_daemon.gate import CLOSE_CODE
from pgcachewatch_daemon.inspection import Inspection
from pgcachewatch_daemon.io import http
from pgcachewatch_daemon.io.http import Answer
from pgcachewatch_daemon.visitor import Visitor

RETYPED_JITTER_MS = DISMISSED_JITTER_MS = 1_000.0
DRAINED = 4000


class Farewells:
    """The ways out."""

    def __init__(self, hub: Hub, departures: Departures, inspection: Inspection) -> None:
        self._hub = hub
        self._departures = departures
        self._inspection = inspection

    def turn_away(self, visitor: Visitor, answer: Answer, code: int, reason: str) -> None:
        """End a visitor that has not joined: by the answer on the plain path, else by the close."""
        if visitor.session is None:
            visitor.connection.answer(answer.status, answer.headers, answer.body)
        else:
            visitor.connection.close(code, reason)

    def dismiss(self, visitor: Visitor, code: int, reason: str) -> None:
        """What the visitor could see is over."""
        if visitor.session is not None:
            visitor.session.close()  # what it still says is not heard
        if visitor.subscriber is None:
            self.turn_away(visitor, http.refuse(401, reason), code, codec.shorten(reason))
            return
        jitter_ms = 0.0 if code == CLOSE_CODE["expired"] else DISMISSED_JITTER_MS
        self._hub.send_away(visitor.subscriber, code, reason=codec.shorten(reason), jitter_ms=jitter_ms)
        self._departures.write_own(visitor.subscriber)
        if visitor.connection.is_live:
            # Its socket is full. Whoever reads slowly must not be told for longer what it may see no more.
            visitor.connection.abort(code)

    def retyped(self, visitors: Iterable[Visitor], tables: frozenset[str]) -> None:
        """Columns of these tables are not what they were: who writes values by their old types asks anew (W-ROW-4)."""
        for visitor in tuple(visitors):
            subscriber = visitor.subscriber
            if subscriber is not None and any(
                wishes.is_outdated(each, visitor.types_of(each.sid), self._inspection)
                for each in visitor.subscriptions
                if each.table in tables
            ):
                reason = "a column's type has changed; subscribe anew"
                self._hub.send_away(subscriber, DRAINED, reason=reason, jitter_ms=RETYPED_JITTER_MS)
