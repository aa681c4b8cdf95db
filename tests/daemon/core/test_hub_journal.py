"""What the hub tells those who resume from a place in the journal, and whom a lost LISTEN concerns."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from pgcachewatch.models import Event, Position
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.core.audience import Subscriber
from pgcachewatch_daemon.core.history import HistoryLimits, JournalFloor
from pgcachewatch_daemon.core.hub import Hub
from pgcachewatch_daemon.core.snapshot import Snapshot
from tests.daemon.core.test_hub import event, make_hub, publish

EPOCH = "00000000000000aa"
FIRST = 2 << 32
EARLIER = (1 << 32) + 7  # a sequence of the life before
NOTHING = JournalFloor(Snapshot(1, 1))


def change(xid: int, key: str) -> Event:
    return event("c1", "users", key).model_copy(update={"xid": xid})


def started(*changes: Event, floor: JournalFloor = NOTHING, history: HistoryLimits | None = None) -> Hub:
    """A relay that has just started on a journal whose past is `changes`."""
    hub = make_hub(history=history)
    hub.source_restored("start", start=Position(EPOCH, FIRST), floor=floor)
    hub.notifications_lost(now_s=0.0)
    for each in changes:
        publish(hub, each)
    return hub


def resumed(
    hub: Hub, place: str | None, *, is_journalled: bool = True, epoch: str = EPOCH, s: int = EARLIER
) -> Subscriber:
    wish = Subscription(sid=1, id=1, channel="c1", table="users", is_journalled=is_journalled)
    hello = messages.Hello(resume=messages.Resume(e=epoch, s=EARLIER, j=place))
    return hub.join(hello, [wish], now_ms=0.0)


def told(subscriber: Subscriber) -> tuple[bool, list[list[object]]]:
    """Whether it resumed, and the items that it was replayed; asserts that the chain begins at its cursor."""
    frames = [json.loads(frame) for frame in subscriber.drain()]
    chained = [frame for frame in frames if frame["t"] in ("ev", "mark")]
    if frames[0]["resumed"]:
        assert chained[0]["p"] == EARLIER
        assert chained[-1]["s"] >= FIRST
    return frames[0]["resumed"], [item for frame in chained for item in frame.get("i", [])]


@pytest.mark.rule("W-JOURNAL-2")
def test_what_may_not_be_in_the_place_is_replayed_and_nothing_else() -> None:
    hub = started(change(5, "a"), change(8, "b"), change(6, "c"))
    assert told(resumed(hub, "6:8:6")) == (True, [[1, "*", "b"], [1, "*", "c"]])
    assert told(resumed(hub, "9:9:")) == (True, [])


@pytest.mark.rule("W-JOURNAL-1")
def test_a_client_is_shown_the_last_place_as_it_joins_as_the_relay_may_end_before_the_next_mark() -> None:
    hub = started(change(5, "a"))
    assert "j" not in shown(hub)
    hub.mark(1.0, position="6:6:")
    publish(hub, change(7, "b"))
    assert shown(hub)["j"] == "6:6:"
    hub.source_restored("journal_lost", start=Position(EPOCH, FIRST + (1 << 32)), floor=NOTHING)
    assert "j" not in shown(hub)


def shown(hub: Hub) -> dict[str, object]:
    """The mark that a new client is sent."""
    wish = Subscription(sid=1, id=1, channel="c1", table="users", is_journalled=True)
    frames = [json.loads(frame) for frame in hub.join(messages.Hello(), [wish], now_ms=0.0).drain()]
    (mark,) = [frame for frame in frames if frame["t"] == "mark"]
    return dict(mark)


@pytest.mark.rule("W-JOURNAL-2")
def test_a_subscription_that_is_not_wholly_journalled_is_told_everything() -> None:
    hub = started(change(5, "a"))
    assert told(resumed(hub, "9:9:", is_journalled=False)) == (True, [[1, "*", None]])


@pytest.mark.parametrize(
    ("place", "epoch"),
    [(None, EPOCH), ("9:9:", "00000000000000bb"), ("3:9:3", EPOCH)],
    ids=["no place", "another epoch", "a transaction that ran then and may be pruned"],
)
def test_what_can_not_be_proven_is_an_honest_flush(place: str | None, epoch: str) -> None:
    hub = started(change(5, "a"), floor=JournalFloor(Snapshot(5, 5), 4))
    assert told(resumed(hub, place, epoch=epoch))[0] is False


def test_a_history_that_forgot_a_change_says_so_of_places_before_it() -> None:
    hub = started(change(5, "a"), change(6, "b"), change(7, "c"), history=HistoryLimits(events=2))
    assert told(resumed(hub, "5:5:"))[0] is False
    assert told(resumed(hub, "6:6:")) == (True, [[1, "*", "b"], [1, "*", "c"]])


@pytest.mark.rule("W-JOURNAL-2")
def test_what_is_not_journalled_is_told_everything_though_the_history_forgot_why() -> None:
    hub = started(change(5, "a"), change(6, "b"), change(7, "c"), history=HistoryLimits(events=2))
    assert told(resumed(hub, "6:6:", is_journalled=False))[1][0] == [1, "*", None]


@pytest.mark.rule("W-RESUME-3")
def test_a_hole_in_a_channel_is_told_also_to_who_resumes_from_a_place() -> None:
    hub = started(change(5, "a"))
    seq = hub.position.seq
    publish(hub, change(7, "b"))
    stream = Subscription(sid=1, id=1, channel="c1", table="users", mode="stream")
    for one, is_journalled in itertools.product((stream, replace(stream, mode="invalidate")), (True, False)):
        wish = replace(one, is_journalled=is_journalled)
        hello = messages.Hello(resume=messages.Resume(e=EPOCH, s=seq, j="3:3:"))
        frames = [json.loads(each) for each in hub.join(hello, [wish], now_ms=0.0, is_log_whole=False).drain()]
        assert frames[0]["resumed"]
        cursor = seq
        for frame in (each for each in frames if each["t"] in ("ev", "mark")):
            assert frame["p"] == cursor
            assert frame["s"] >= cursor, "what the client was told before is not told again behind its cursor"
            cursor = frame["s"]
        items = [tuple(item[:3]) for frame in frames for item in frame.get("i", [])]
        assert ((1, "*", None) in items) is not is_journalled


def test_a_lost_listen_is_told_to_those_who_are_notified_only() -> None:
    hub = started()
    journalled = resumed(hub, "9:9:")
    notified = resumed(hub, "9:9:", is_journalled=False)
    for each in (journalled, notified):
        each.drain()
    hub.source_lost("connection_lost", now_ms=1.0)
    hub.notifications_lost(now_s=1.0)
    assert [json.loads(frame)["t"] for frame in journalled.drain()] == ["stale"]
    assert [json.loads(frame)["t"] for frame in notified.drain()] == ["stale", "ev"]


@pytest.mark.rule("W-JOURNAL-1")
def test_a_mark_shows_the_place_that_was_read() -> None:
    hub = started()
    client = resumed(hub, "9:9:")
    client.drain()
    hub.mark(5.0, None, "7:9:7")
    assert json.loads(client.drain()[-1])["j"] == "7:9:7"
