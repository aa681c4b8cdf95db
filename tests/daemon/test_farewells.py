"""Each who has to go is told why, in the language of its path, and when to come back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgcachewatch.protocol.relay_session import RelaySession, Subscription
from pgcachewatch_daemon.core.audience import Subscriber
from pgcachewatch_daemon.core.hub import Hub
from pgcachewatch_daemon.departures import Departures
from pgcachewatch_daemon.farewells import DISMISSED_JITTER_MS, DRAINED, RETYPED_JITTER_MS, Farewells
from pgcachewatch_daemon.inspection import Inspection
from pgcachewatch_daemon.io import http
from pgcachewatch_daemon.io.websocket import Connection
from pgcachewatch_daemon.sql.columns import Accepted
from pgcachewatch_daemon.visitor import Visitor

EXPIRED = 4200
REVOKED = 4201


class Exit:
    """Connection, hub, departures and inspection as far as somebody who leaves meets them."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.is_live = True
        self.does_read = True
        self.farewells = Farewells(cast(Hub, self), cast(Departures, self), cast(Inspection, self))

    def visitor(self, *, is_plain: bool = False, told: tuple[Subscription, ...] | None = None) -> Visitor:
        """`told`: what it has subscribed to, once it has joined."""
        session = None if is_plain else RelaySession(default_channel="c", subscriptions_limit=9)
        visitor = Visitor(cast(Connection, self), session)
        if told is not None:
            group = SimpleNamespace(subscriptions=told)
            visitor.subscriber = cast(Subscriber, SimpleNamespace(group=group))
        return visitor

    def answer(self, status: int, headers: object, body: bytes) -> None:
        self.said.append(("answer", status))

    def close(self, code: int, reason: str) -> None:
        self.said.append(("close", code, reason))

    def abort(self, code: int) -> None:
        self.said.append(("abort", code))

    def send_away(self, subscriber: Subscriber, code: int, *, reason: str, jitter_ms: float) -> None:
        self.said.append(("bye", code, jitter_ms))

    def write_own(self, subscriber: Subscriber) -> None:
        self.is_live = not self.does_read

    def judge(self, subscription: Subscription) -> Accepted:
        return Accepted(("int8",), None, is_journalled=False)


def test_who_has_not_joined_is_refused_in_the_language_of_its_path() -> None:
    exits = Exit()
    refused = http.refuse(503, "the relay is going away")

    exits.farewells.turn_away(exits.visitor(is_plain=True), refused, DRAINED, "why")
    exits.farewells.turn_away(exits.visitor(), refused, DRAINED, "why")

    assert exits.said == [("answer", 503), ("close", DRAINED, "why")]


def test_who_has_not_joined_and_may_see_nothing_any_more_is_refused_too() -> None:
    exits = Exit()

    exits.farewells.dismiss(exits.visitor(is_plain=True), REVOKED, "revoked")
    exits.farewells.dismiss(exits.visitor(), REVOKED, "revoked")

    assert exits.said == [("answer", 401), ("close", REVOKED, "revoked")]


@pytest.mark.parametrize(("code", "jitter_ms"), [(EXPIRED, 0.0), (REVOKED, DISMISSED_JITTER_MS)])
def test_those_who_are_dismissed_together_come_back_apart(code: int, jitter_ms: float) -> None:
    exits = Exit()

    exits.farewells.dismiss(exits.visitor(told=()), code, "why")

    assert exits.said == [("bye", code, jitter_ms)]


def test_who_does_not_read_its_goodbye_is_cut() -> None:
    exits = Exit()
    exits.does_read = False

    exits.farewells.dismiss(exits.visitor(told=()), REVOKED, "revoked")

    assert exits.said == [("bye", REVOKED, DISMISSED_JITTER_MS), ("abort", REVOKED)]


def test_only_those_go_who_were_told_another_type_of_a_table_that_changed() -> None:
    exits = Exit()
    users, orders = Subscription(1, 1, "c", table="users"), Subscription(1, 1, "c", table="orders")
    visitors = [exits.visitor(told=told) for told in ((users,), (users,), (orders,), ())]
    for visitor, types in zip(visitors, ("int4", "int8", "int4", "int4"), strict=True):
        visitor.told_types(1, (types,))

    exits.farewells.retyped([*visitors, exits.visitor()], frozenset({"users"}))

    assert exits.said == [("bye", DRAINED, RETYPED_JITTER_MS)]
