"""The relay's end of a connection: order, subscriptions, limits, refusals."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from pgcachewatch.protocol import messages
from pgcachewatch.protocol.relay_session import (
    Acknowledged,
    BarrierRequested,
    CloseWith,
    Effect,
    Opened,
    RelaySession,
    Send,
    Subscribed,
    Subscription,
    TokenOffered,
    Unsubscribed,
)

HELLO = '{"t":"hello","v":1}'


def session(*, opened: bool = True, limit: int = 1_000) -> RelaySession:
    new = RelaySession(default_channel="default", subscriptions_limit=limit)
    if opened:
        new.receive(HELLO, now_ms=0.0)
    return new


def closing(effects: list[Effect]) -> CloseWith:
    assert isinstance(effects[-1], CloseWith)
    return effects[-1]


def error(effects: list[Effect]) -> dict[str, object]:
    assert isinstance(effects[0], Send)
    content: dict[str, object] = json.loads(effects[0].text)
    assert content["t"] == "err"
    return content


@pytest.mark.rule("W-SUB-3")
def test_a_hello_opens_with_its_subscriptions_widened_by_what_they_leave_out() -> None:
    narrow = '{"t":"sub","id":3,"table":"users","ops":["u"],"keys":["5"]}'
    hello = f'{{"t":"hello","v":1,"subs":[{{"t":"sub","id":7}},{narrow}]}}'
    (opened,) = session(opened=False).receive(hello, now_ms=0.0)
    assert isinstance(opened, Opened)
    assert opened.subscriptions == (
        Subscription(sid=1, id=7, channel="default"),
        Subscription(sid=2, id=3, channel="default", table="users", ops=frozenset("u"), keys=frozenset(["5"])),
    )


def test_requests_become_effects_in_order() -> None:
    frame = (
        '[{"t":"sub","id":1,"channel":"c","schema":"s","table":"t","mode":"stream"},{"t":"barrier","id":2},'
        '{"t":"ping","id":3},{"t":"auth","token":"x"},{"t":"ack","s":9},{"t":"unsub","id":1}]'
    )
    assert session().receive(frame, now_ms=12.5) == [
        Subscribed(Subscription(sid=1, id=1, channel="c", schema="s", table="t", mode="stream")),
        BarrierRequested(2),
        Send('{"t":"pong","id":3,"now":12.5}'),
        TokenOffered("x"),
        Acknowledged(9),
        Unsubscribed(1),
    ]


@pytest.mark.rule("W-ORDER-1")
@pytest.mark.parametrize("frame", ['{"t":"ping","id":1}', '{"t":"sub","id":1}', '{"t":"dance"}', '{"t":"ack","s":1}'])
def test_anything_before_hello_closes(frame: str) -> None:
    assert closing(session(opened=False).receive(frame, now_ms=0.0)).code == 4300


@pytest.mark.rule("W-ORDER-1")
def test_a_second_hello_closes() -> None:
    assert closing(session().receive(HELLO, now_ms=0.0)).code == 4300


@pytest.mark.rule("W-FRAME-1")
@pytest.mark.parametrize("frame", [b"\x00", "{", "", "[1,2"])
def test_a_bad_frame_closes_and_says_why_first(frame: str | bytes) -> None:
    effects = session().receive(frame, now_ms=0.0)
    assert error(effects)["code"] == "protocol"
    assert closing(effects).code == 4300
    assert "W-FRAME-1" in closing(effects).reason


def test_nothing_is_read_after_a_violation() -> None:
    violated = session()
    violated.receive("{", now_ms=0.0)
    assert violated.receive('{"t":"ping","id":1}', now_ms=0.0) == []


def test_what_came_before_the_violation_in_its_frame_is_done() -> None:
    with_both = '[{"t":"ping","id":1},{"t":"hello","v":1}]'
    effects = session().receive(with_both, now_ms=1.0)
    assert effects[0] == Send('{"t":"pong","id":1,"now":1.0}')
    assert closing(effects).code == 4300


@pytest.mark.rule("W-FORWARD-2")
def test_an_unknown_message_is_answered_and_the_connection_stays() -> None:
    open_session = session()
    assert error(open_session.receive('{"t":"dance","id":5}', now_ms=0.0))["code"] == "unknown_message"
    assert open_session.is_open


@pytest.mark.rule("W-HELLO-1")
@pytest.mark.rule("W-LIMIT-5")
def test_silence_before_hello_closes_with_4101_and_after_it_does_not() -> None:
    assert closing(session(opened=False).hello_timed_out()).code == 4101
    assert session().hello_timed_out() == []


@pytest.mark.rule("W-LIMIT-1")
def test_a_frame_may_have_the_limit_and_not_a_byte_more() -> None:
    def frame(size: int) -> str:
        head = '{"t":"ping","id":1,"x":"'
        return head + "x" * (size - len(head) - 2) + '"}'

    assert isinstance(session().receive(frame(messages.CLIENT_FRAME_BYTES), now_ms=0.0)[0], Send)
    refused = closing(session().receive(frame(messages.CLIENT_FRAME_BYTES + 1), now_ms=0.0))
    assert refused.code == 4308
    assert "65537" in refused.reason


@pytest.mark.rule("W-LIMIT-3")
def test_subscriptions_may_reach_the_limit_and_one_more_is_refused() -> None:
    full = session(limit=2)
    assert isinstance(full.receive('{"t":"sub","id":1}', now_ms=0.0)[0], Subscribed)
    assert isinstance(full.receive('{"t":"sub","id":2}', now_ms=0.0)[0], Subscribed)
    assert error(full.receive('{"t":"sub","id":3}', now_ms=0.0))["code"] == "too_many_subscriptions"
    full.receive('{"t":"unsub","id":1}', now_ms=0.0)
    assert isinstance(full.receive('{"t":"sub","id":3}', now_ms=0.0)[0], Subscribed)


@pytest.mark.rule("W-LIMIT-3")
@pytest.mark.parametrize(("count", "accepted"), [(1_000, True), (1_001, False)])
def test_a_hello_may_carry_a_thousand_subscriptions(count: int, *, accepted: bool) -> None:
    subs = ",".join(f'{{"t":"sub","id":{number}}}' for number in range(count))
    effects = session(opened=False).receive(f'{{"t":"hello","v":1,"subs":[{subs}]}}', now_ms=0.0)
    assert isinstance(effects[-1], Opened) is accepted
    if not accepted:
        assert closing(effects).code == 4308


def on(identity: int, channel: str) -> str:
    return json.dumps({"t": "sub", "id": identity, "channel": channel})


@pytest.mark.rule("W-LIMIT-8")
def test_channels_may_reach_the_limit_and_one_more_is_refused_until_one_is_left() -> None:
    refusals: Counter[str] = Counter()
    full = RelaySession(default_channel="default", channels_limit=2, refusals=refusals)
    full.receive(HELLO, now_ms=0.0)
    for identity, channel in enumerate(("default", "a", "a", "b", "default")):
        assert isinstance(full.receive(on(identity, channel), now_ms=0.0)[0], Subscribed)
    refused = error(full.receive(on(5, "c"), now_ms=0.0))
    assert (refused["id"], refused["code"]) == (5, "too_many_channels")
    assert "client_channels_limit" in str(refused["message"])
    full.receive('{"t":"unsub","id":1}', now_ms=0.0)
    assert error(full.receive(on(5, "c"), now_ms=0.0))["code"] == "too_many_channels", "one more is on that channel"
    full.refused(2)
    assert isinstance(full.receive(on(5, "c"), now_ms=0.0)[0], Subscribed)
    assert refusals == {"client_channels": 2}


@pytest.mark.rule("W-LIMIT-8")
@pytest.mark.parametrize(("count", "accepted"), [(3, True), (4, False)])
def test_a_hello_may_name_as_many_channels_beside_the_default(count: int, *, accepted: bool) -> None:
    refusals: Counter[str] = Counter()
    new = RelaySession(default_channel="default", channels_limit=3, refusals=refusals)
    channels = ["default", *(f"c{number}" for number in range(count)), "c0"]
    subs = ",".join(on(identity, channel) for identity, channel in enumerate(channels))
    effects = new.receive(f'{{"t":"hello","v":1,"subs":[{subs}]}}', now_ms=0.0)
    assert isinstance(effects[-1], Opened) is accepted
    assert refusals["client_channels"] == (not accepted)
    if not accepted:
        assert closing(effects).code == 4308
        assert "W-LIMIT-8" in closing(effects).reason


@pytest.mark.rule("W-SUB-1")
def test_ids_are_unique_and_known() -> None:
    twice = '{"t":"hello","v":1,"subs":[{"t":"sub","id":7},{"t":"sub","id":7}]}'
    assert closing(session(opened=False).receive(twice, now_ms=0.0)).code == 4300
    used = session()
    used.receive('{"t":"sub","id":1}', now_ms=0.0)
    assert error(used.receive('{"t":"sub","id":1}', now_ms=0.0))["code"] == "duplicate_id"
    assert error(used.receive('{"t":"unsub","id":9}', now_ms=0.0))["code"] == "unknown_id"


@pytest.mark.rule("W-SUB-1")
def test_the_id_of_a_refused_subscription_may_be_tried_again() -> None:
    tried = session(limit=1)
    (first,) = tried.receive('{"t":"sub","id":1}', now_ms=0.0)
    tried.refused(1)
    tried.refused(9)
    assert error(tried.receive('{"t":"unsub","id":1}', now_ms=0.0))["code"] == "unknown_id"
    (second,) = tried.receive('{"t":"sub","id":1}', now_ms=0.0)
    assert isinstance(first, Subscribed)
    assert isinstance(second, Subscribed)
    assert first.subscription.sid != second.subscription.sid


@pytest.mark.rule("W-SUB-2")
def test_a_sid_is_never_given_twice() -> None:
    used = session()
    (first,) = used.receive('{"t":"sub","id":1}', now_ms=0.0)
    used.receive('{"t":"unsub","id":1}', now_ms=0.0)
    (second,) = used.receive('{"t":"sub","id":1}', now_ms=0.0)
    assert isinstance(first, Subscribed)
    assert isinstance(second, Subscribed)
    assert first.subscription.sid != second.subscription.sid
