"""What a client that comes back can make the relay do: no more than it would cost to let it flush."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch.models import Event, Gap, Scope
from pgcachewatch.protocol.messages import Mode
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.core.audience import Framing
from pgcachewatch_daemon.core.history import Entry
from pgcachewatch_daemon.core.outbox import OutboxLimits, Packet
from pgcachewatch_daemon.core.replay import OUTBOXES, TooMuch, replay
from pgcachewatch_daemon.core.subscriptions import Wishes

SENT_AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
MANY = 1_000  # subscriptions of one connection (W-LIMIT-3)


def event(table: str, *keys: str, channel: str = "c") -> Event:
    fields = {"channel": channel, "table": table, "operation": "update", "sent_at": SENT_AT, "keys": keys or None}
    return Event.model_validate(fields)


def entries(changes: Iterable[Event | Gap]) -> list[Entry]:
    return [Entry(seq, change, 1, 0.0) for seq, change in enumerate(changes, 1)]


def subscriptions(*tables: str | None, mode: Mode = "invalidate") -> list[Subscription]:
    return [Subscription(sid, sid, "c", table, mode=mode) for sid, table in enumerate(tables, 1)]


class Relay:
    """Counts the frames that it makes."""

    def __init__(self) -> None:
        self.frames = 0

    def frame(self, text: str) -> bytes:
        self.frames += 1
        return text.encode()

    def replay(self, changes: Iterable[Event | Gap], wished: list[Subscription]) -> list[Packet] | TooMuch:
        missed, framing = entries(changes), Framing(self.frame)
        return replay(missed, wished, since=0, head=len(missed), framing=framing, limits=OutboxLimits())


def items(packets: list[Packet] | TooMuch) -> list[tuple[object, ...]]:
    assert isinstance(packets, list)
    return [tuple(item) for packet in packets for item in json.loads(packet.data).get("i", [])]


def test_a_stream_is_given_up_at_its_bytes_and_not_behind_the_whole_history() -> None:
    relay = Relay()
    changes = [event("t", str(number)) for number in range(10_000)]

    assert relay.replay(changes, subscriptions(*["t"] * MANY, mode="stream")) == TooMuch()
    assert relay.frames <= 1 + OUTBOXES * OutboxLimits().bytes // (MANY * 50)


def test_a_change_that_concerns_a_thousand_subscriptions_costs_a_flush_and_not_a_minute() -> None:
    row = event("t", "1")
    wished = subscriptions(*["t"] * MANY)

    assert Relay().replay([row] * 10_000, wished) == TooMuch()
    assert len(items(Relay().replay([row] * 50, wished))) == MANY


def test_subscriptions_to_other_tables_cost_nothing() -> None:
    wished = subscriptions(*(f"t{number}" for number in range(MANY)))
    changes = [event(f"t{number % 2_000}", "1") for number in range(10_000)]

    assert sorted(items(Relay().replay(changes, wished))) == [(sid, "*", "1") for sid in range(1, MANY + 1)]


def test_a_subscription_that_forgets_everything_is_not_asked_key_by_key() -> None:
    keys = [str(number) for number in range(2_000)]
    changes = [*[event("bulk", *keys)] * 500, event("quiet", "7")]

    assert items(Relay().replay(changes, subscriptions("bulk", "quiet"))) == [(1, "*", None), (2, "*", "7")]


PLACES = st.tuples(st.sampled_from(["c", "d"]), st.sampled_from(["a", "b", None]))
CHANGES = st.one_of(
    st.builds(lambda place, key: event(place[1] or "z", key, channel=place[0]), PLACES, st.sampled_from("12")),
    st.builds(lambda place: Gap(Scope(*place), "forced"), PLACES),
)


@given(st.lists(PLACES, max_size=6), st.lists(CHANGES, max_size=8))
def test_each_subscription_is_told_what_it_would_have_been_told_live(
    places: list[tuple[str, str | None]], changes: list[Event | Gap]
) -> None:
    wished = [Subscription(sid, sid, channel, table) for sid, (channel, table) in enumerate(places, 1)]
    live = [item for change in changes for item in Wishes(tuple(wished)).items_for(change)]
    wide = {item[0] for item in live if item[2] is None}
    told = {(item[0], None if item[0] in wide else item[2]) for item in live}

    assert {(item[0], item[2]) for item in items(Relay().replay(changes, wished))} == told
