"""Each wish of a client is answered in its place: granted with what is to be said of it, or refused."""

from __future__ import annotations

import pytest

from pgcachewatch.models import Gap, Scope
from pgcachewatch.protocol import codec, messages
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.core.audience import Framing
from pgcachewatch_daemon.core.granted import Granted
from pgcachewatch_daemon.core.history import History, HistoryLimits
from pgcachewatch_daemon.core.hub import Hub, HubSettings
from pgcachewatch_daemon.io.backplane_memory import MemoryBackplane


def make_hub() -> Hub:
    return Hub(
        MemoryBackplane(lambda: "0" * 16),
        History(HistoryLimits()),
        HubSettings("node", 500.0),
        framing=Framing(str.encode),
    )


@pytest.mark.rule("W-ROW-2")
@pytest.mark.rule("W-ROW-3")
def test_a_refused_wish_is_answered_in_its_place_and_is_no_subscription() -> None:
    hub = make_hub()
    before = hub.position
    hub.publish(Gap(Scope("c1", "orders"), "unreadable"), channel="c1", payload="", now_s=0.0)
    wishes: list[Subscription | Granted | messages.Err] = [
        Subscription(1, 10, "c1", table="users"),
        messages.Err(id=11, code="unknown_table", message="no"),
        Granted(Subscription(3, 12, "c1", table="users", columns=("id",)), ("int8",), "odd"),
    ]
    resume = messages.Resume(e=before.epoch, s=before.seq)
    subscriber = hub.join(messages.Hello(resume=resume), wishes, now_ms=0.0)
    answers = [codec.decode_relay(frame.decode())[0] for frame in subscriber.drain()]
    assert [each.t for each in answers] == ["welcome", "subok", "err", "subok", "mark"]
    assert answers[3] == messages.Subok(id=12, sid=3, s=1, types=["int8"], notice="odd")
    assert subscriber.group is not None
    assert [each.id for each in subscriber.group.subscriptions] == [10, 12]
    hub.subscribe(subscriber, Granted(Subscription(4, 13, "c1", table="x", columns=("a",)), ("text",)))
    assert [codec.decode_relay(frame.decode())[0] for frame in subscriber.drain()] == [
        messages.Subok(id=13, sid=4, s=1, types=["text"])
    ]


def test_one_client_is_sent_away_with_a_bye_and_the_others_stay() -> None:
    hub = make_hub()
    one, other = (hub.join(messages.Hello(), [Subscription(1, 1, "c1")], now_ms=0.0) for _ in range(2))
    hub.send_away(one, 4000, reason="subscribe anew", jitter_ms=5.0)
    assert b'"bye"' in one.drain()[-1]
    assert one.close is not None
    assert one.close.code == 4000
    assert other.close is None
