"""What clients with stamps are told by the hub, and what slow ones and newcomers are not."""

from __future__ import annotations

import json

import pytest

from pgcachewatch.models import Gap, Position, Scope
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.core.audience import Subscriber
from pgcachewatch_daemon.core.hub import Hub
from pgcachewatch_daemon.core.outbox import OutboxLimits
from pgcachewatch_daemon.core.subscriptions import ITEMS_PER_EVENT, Wishes
from tests.daemon.core.test_hub import event, make_hub, publish

SNAPSHOT = "10:20:10,14"


def enter(hub: Hub, *, has_stamps: bool = True, resume: Position | None = None) -> Subscriber:
    told = messages.Resume(e=resume.epoch, s=resume.seq) if resume else None
    wish = Subscription(sid=1, id=1, channel="c1", table="users", has_stamps=has_stamps)
    return hub.join(messages.Hello(resume=told), [wish], now_ms=0.0)


def frames(subscriber: Subscriber, kind: str) -> list[dict[str, object]]:
    read = [json.loads(frame) for frame in subscriber.drain()]
    return [frame for frame in read if frame["t"] == kind]


@pytest.mark.rule("W-STAMP-1")
def test_an_item_tells_the_transaction_when_it_is_known_and_wanted() -> None:
    change = event("c1", "users", "5", "6").model_copy(update={"xid": 12})
    wide = event().model_copy(update={"xid": 12})
    many = event("c1", "users", *map(str, range(ITEMS_PER_EVENT + 1))).model_copy(update={"xid": 12})
    stamped = Wishes((Subscription(sid=1, id=1, channel="c1", has_stamps=True),))
    plain = Wishes((Subscription(sid=1, id=1, channel="c1"),))

    assert stamped.items_for(change) == [(1, "u", "5", {"x": 12}), (1, "u", "6", {"x": 12})]
    assert stamped.items_for(wide) == stamped.items_for(many) == [(1, "u", None, {"x": 12})]
    assert stamped.items_for(event("c1", "users", "5")) == [(1, "u", "5")]
    assert stamped.items_for(Gap(Scope("c1"), "unreadable")) == [(1, "*", None)]
    assert plain.items_for(change) == [(1, "u", "5"), (1, "u", "6")]


@pytest.mark.rule("W-STAMP-2")
def test_a_snapshot_goes_to_clients_with_stamps_and_is_wanted_only_for_them() -> None:
    hub = make_hub()
    plain = enter(hub, has_stamps=False)
    wanted_before = hub.has_stamps
    stamped = enter(hub)
    assert (wanted_before, hub.has_stamps) == (False, True)

    hub.mark(100.0, SNAPSHOT)

    assert "x" not in frames(plain, "mark")[-1]
    assert frames(stamped, "mark")[-1]["x"] == SNAPSHOT
    hub.leave(stamped)
    assert not hub.has_stamps


@pytest.mark.rule("W-STAMP-3")
def test_who_joins_or_resumes_is_shown_no_snapshot_from_before() -> None:
    hub = make_hub()
    enter(hub)
    hub.mark(100.0, SNAPSHOT)
    cursor = hub.position
    publish(hub, event("c1", "users", "5").model_copy(update={"xid": 12}))

    late, resumed = enter(hub), enter(hub, resume=cursor)

    assert [mark.get("x") for mark in frames(late, "mark")] == [None]
    read = [json.loads(frame) for frame in resumed.drain()]
    assert [frame.get("x") for frame in read] == [None] * len(read)
    assert [frame["i"] for frame in read if frame["t"] == "ev"] == [[[1, "*", "5"]]]


@pytest.mark.rule("W-STAMP-3")
def test_what_is_conflated_has_neither_transactions_nor_a_snapshot() -> None:
    hub = make_hub(outbox=OutboxLimits(bytes=1))
    slow = enter(hub)
    slow.drain()
    hub.mark(100.0, SNAPSHOT)
    publish(hub, event("c1", "users", "5").model_copy(update={"xid": 12}))

    read = [json.loads(frame) for frame in slow.drain()]

    assert [frame.get("i") for frame in read] == [[[1, "*", "5"]], None]
    assert read[-1]["as_of"] == 100.0
    assert "x" not in read[-1]
