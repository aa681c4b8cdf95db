"""Bounded, in order, and never silently short."""

from __future__ import annotations

import json

import pytest

from pgcachewatch.protocol import codec, messages
from pgcachewatch.protocol.relay_session import CloseWith
from pgcachewatch_daemon.core.outbox import Outbox, OutboxLimits, Packet, bounded_ev
from pgcachewatch_daemon.core.stats import HubStats


def outbox(*, stream: bool = False, **limits: int) -> Outbox:
    return Outbox(OutboxLimits(**limits), frame=str.encode, stats=HubStats(), is_stream=stream)


def ev(seq: int, *items: codec.Item) -> Packet:
    return Packet(codec.encode_ev(seq - 1, seq, items).encode(), "event", seq - 1, seq, items)


def control(text: str) -> Packet:
    return Packet(text.encode(), "control")


def drained(box: Outbox) -> list[dict[str, object]]:
    return [json.loads(frame) for frame in box.drain()]


def test_below_the_limit_packets_leave_as_they_came() -> None:
    box = outbox()
    packets = [ev(1, (1, "u", "5")), control('{"t":"pong"}'), ev(2, (1, "u", "5"))]
    for packet in packets:
        box.offer(packet)
    assert box.drain() == [packet.data for packet in packets]
    assert not box.has_pending
    assert box.size_bytes == 0


def test_past_the_limit_keys_collapse_into_one_message_over_the_whole_stretch() -> None:
    box = outbox(bytes=100)
    for seq in range(1, 9):
        box.offer(ev(seq, (1, "u", str(seq % 2))))
    assert drained(box) == [
        {"t": "ev", "p": 0, "s": 8, "i": [[1, "*", "1"], [1, "*", "0"]]},
        {"t": "mark", "p": 8, "s": 8},
    ]
    box.offer(ev(9, (1, "u", "5")))
    assert drained(box)[0]["p"] == 8


def test_more_keys_than_the_limit_widen_the_loudest_subscription_and_then_everything() -> None:
    box = outbox(bytes=1, keys=2)
    box.offer(ev(1, (2, "u", "quiet")))
    for seq in range(2, 6):
        box.offer(ev(seq, (1, "u", str(seq))))
    assert drained(box)[0]["i"] == [[1, "*", None], [2, "*", "quiet"]]
    for seq in range(6, 12):
        box.offer(ev(seq, (seq, "u", None)))
    assert drained(box)[0]["i"] == [[0, "*", None]]


def test_long_keys_count_by_their_bytes() -> None:
    box = outbox(bytes=1, key_bytes=10)
    box.offer(ev(1, (1, "u", "x" * 11)))
    assert drained(box)[0]["i"] == [[1, "*", None]]


def test_answers_go_ahead_of_the_conflated_set_and_barriers_behind_it() -> None:
    box = outbox(bytes=1)
    box.offer(ev(1, (1, "u", "5")))
    box.offer(Packet(b'{"t":"barrierok"}', "barrier"))
    box.offer(Packet(b"", "mark", 1, 2, as_of_ms=7.0))
    box.offer(control('{"t":"subok"}'))
    assert [message["t"] for message in drained(box)] == ["subok", "ev", "mark", "barrierok"]


def test_a_reset_voids_what_was_pending_and_the_chain_goes_on_from_it() -> None:
    box = outbox(bytes=40)
    for seq in range(1, 5):
        box.offer(ev(seq, (1, "u", "5")))
    box.offer(Packet(b'{"t":"reset"}', "reset"))
    box.offer(ev(1, (1, "u", "6")))
    assert [message["t"] for message in drained(box)] == ["reset", "ev", "mark"]


@pytest.mark.rule("W-SLOW-2")
def test_a_full_stream_is_dropped_and_closed() -> None:
    box = outbox(stream=True, bytes=100)
    for seq in range(1, 9):
        box.offer(ev(seq, (1, "u", None, {"table": "t"})))
    assert box.close is not None
    assert box.close.code == 4103
    assert not box.is_conflating


@pytest.mark.rule("W-SLOW-2")
def test_a_replay_leaves_what_is_new_its_room() -> None:
    for stream in (True, False):
        box = outbox(stream=stream, bytes=200)
        box.replay([ev(seq, (1, "u", "5")) for seq in range(1, 100)])
        box.offer(ev(100, (1, "u", "6")))
        assert box.close is None
        assert [message["s"] for message in drained(box)] == list(range(1, 101))


def test_a_replay_is_conflated_with_what_is_new() -> None:
    box = outbox(bytes=200)
    box.replay([ev(1, (1, "u", "5"))])
    for seq in range(2, 30):
        box.offer(ev(seq, (1, "u", "6")))
    conflated, mark = drained(box)
    assert (conflated["p"], conflated["s"]) == (0, 29)
    assert conflated["i"] == [[1, "*", "5"], [1, "*", "6"]]
    assert mark["p"] == 29


def test_who_asks_and_never_reads_is_closed() -> None:
    box = outbox(bytes=10, control_bytes=100)
    box.offer(ev(1, (1, "u", "5")))
    for _ in range(20):
        box.offer(control('{"t":"pong","id":1}'))
    assert box.close is not None
    assert box.close.code == 4105


@pytest.mark.rule("W-SLOW-2")
def test_nothing_is_sent_behind_a_queue_that_was_dropped() -> None:
    box = outbox(stream=True, bytes=100)
    for seq in range(1, 9):
        box.offer(ev(seq, (1, "u", None, {"table": "t"})))
    assert box.close is not None
    assert drained(box) == []


def test_what_was_queued_before_a_planned_end_is_still_sent() -> None:
    box = outbox()
    box.offer(ev(1, (1, "u", "5")))
    box.close = CloseWith(4000, "drain")
    box.offer(ev(2, (1, "u", "6")))
    assert [message["s"] for message in drained(box)] == [1]


def test_the_first_reason_to_close_stays() -> None:
    box = outbox()
    box.drop(CloseWith(4103, "first"))
    box.drop(CloseWith(4105, "second"))
    assert box.close == CloseWith(4103, "first")


@pytest.mark.rule("W-LIMIT-2")
def test_a_message_over_the_frame_limit_says_everything_instead() -> None:
    rest = messages.RELAY_FRAME_BYTES - len(codec.encode_ev(1, 2, [(1, "*", "")]))
    fits, too_much = [(1, "*", "k" * rest)], [(1, "*", "k" * (rest + 1))]
    assert len(bounded_ev(1, 2, fits).encode()) == messages.RELAY_FRAME_BYTES
    assert json.loads(bounded_ev(1, 2, fits))["i"] == [[1, "*", "k" * rest]]
    assert json.loads(bounded_ev(1, 2, too_much))["i"] == [[0, "*", None]]
