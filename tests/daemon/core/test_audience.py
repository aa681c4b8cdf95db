"""Members in step share what they are sent; those apart are sent the same, and nobody anything twice."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgcachewatch_daemon.core.audience import Audience, Framing, Subscriber
from pgcachewatch_daemon.core.outbox import Outbox, OutboxLimits, Packet
from pgcachewatch_daemon.core.stats import HubStats

ROOMY = OutboxLimits()
FRAMING = Framing(str.encode)


def audience_of(limits: OutboxLimits = ROOMY, *, is_stream: bool = False) -> Audience:
    return Audience(limits, FRAMING, stats=HubStats(), is_stream=is_stream)


def entered(audience: Audience, limits: OutboxLimits = ROOMY) -> Subscriber:
    subscriber = Subscriber(Outbox(limits, frame=str.encode, stats=HubStats()), FRAMING)
    audience.enter(subscriber)
    return subscriber


def in_step(audience: Audience) -> Subscriber:
    subscriber = entered(audience)
    audience.step_in(subscriber)
    assert subscriber.outbox is None
    return subscriber


def event(seq: int) -> Packet:
    return Packet(b"%d," % seq, "event", seq - 1, seq, [(1, "u", str(seq))])


def taken(audience: Audience, writes: int = 100) -> list[tuple[bytes, list[Subscriber]]]:
    shares = []
    while share := audience.take(writes=writes, size_bytes=1 << 20):
        shares.append((share.data, list(share.members)))
    return shares


def test_what_gathers_for_all_in_step_is_taken_once_as_one_piece() -> None:
    audience = audience_of()
    members = [in_step(audience) for _ in range(3)]
    audience.offer(event(1))
    audience.offer(event(2))

    share = audience.take(writes=100, size_bytes=1 << 20)

    assert share is not None
    assert (share.data, share.frames, list(share.members)) == (b"1,2,", 2, members)
    assert taken(audience) == []


def test_a_slice_has_so_many_writes_and_what_comes_meanwhile_goes_behind_it() -> None:
    audience = audience_of()
    one, two, three = (in_step(audience) for _ in range(3))
    audience.offer(event(1))

    first = audience.take(writes=2, size_bytes=1 << 20)
    audience.offer(event(2))

    assert first is not None
    assert list(first.members) == [one, two]
    assert taken(audience) == [(b"1,", [three]), (b"2,", [one, two, three])]


def test_a_slice_has_so_many_bytes_and_never_less_than_one_write() -> None:
    audience = audience_of()
    for _ in range(3):
        in_step(audience)
    audience.offer(event(1))

    sizes = []
    while share := audience.take(writes=100, size_bytes=1):
        sizes.append(len(share.members))
    assert sizes == [1, 1, 1]


def test_who_steps_out_has_all_it_was_still_to_be_written() -> None:
    audience = audience_of()
    one, two, three = (in_step(audience) for _ in range(3))
    audience.offer(event(1))
    audience.take(writes=1, size_bytes=1 << 20)
    audience.offer(event(2))

    assert one.drain() == [b"2,"], "the first piece was written to it"
    assert two.drain() == [b"1,", b"2,"]
    assert taken(audience) == [(b"1,", [three]), (b"2,", [three])]


def test_who_is_apart_is_offered_each_packet_and_steps_in_behind_what_waits() -> None:
    audience = audience_of()
    one, two = in_step(audience), in_step(audience)
    audience.offer(event(1))
    assert one.drain() == [b"1,"]

    audience.step_in(one)
    assert one in audience.apart, "the others are still to be written what it was written"
    assert taken(audience) == [(b"1,", [two])]
    assert one not in audience.apart
    audience.offer(event(2))
    assert taken(audience) == [(b"2,", [two, one])]


def test_who_has_something_pending_again_does_not_step_in() -> None:
    audience = audience_of()
    one, two = in_step(audience), in_step(audience)
    audience.offer(event(1))
    one.drain()
    audience.step_in(one)
    audience.offer(event(2))

    assert taken(audience) == [(b"1,2,", [two])]
    assert one.drain() == [b"2,"]


def test_what_nobody_waits_for_is_forgotten() -> None:
    audience = audience_of()
    one = in_step(audience)
    audience.offer(event(1))
    audience.step_out(one)
    assert not audience.has_work

    audience.step_in(one)
    assert one.drain() == [b"1,"]
    audience.step_in(one)
    audience.offer(event(2))
    assert taken(audience) == [(b"2,", [one])]


def test_who_leaves_is_written_nothing_more() -> None:
    audience = audience_of()
    one, two = in_step(audience), in_step(audience)
    audience.offer(event(1))
    audience.take(writes=1, size_bytes=1 << 20)
    audience.leave(two)

    assert taken(audience) == []
    assert list(audience.members) == [one]


@pytest.mark.rule("W-SLOW-1")
def test_more_than_an_outbox_for_all_in_step_conflates_for_all_of_them() -> None:
    audience = audience_of(OutboxLimits(bytes=10, keys=2))
    one = in_step(audience)
    for seq in range(1, 10):
        audience.offer(event(seq))

    share = audience.take(writes=1, size_bytes=1 << 20)

    assert share is not None
    assert share.data == b'{"t":"ev","p":0,"s":9,"i":[[1,"*",null]]}{"t":"mark","p":9,"s":9}'
    assert list(share.members) == [one]


@pytest.mark.rule("W-SLOW-2")
def test_a_stream_is_filling_at_half_its_room_and_loses_nothing_beyond_it() -> None:
    audience = audience_of(OutboxLimits(bytes=10), is_stream=True)
    one = in_step(audience)
    filling = []
    for seq in range(1, 9):
        audience.offer(event(seq))
        filling.append(audience.is_filling)

    assert filling == [False, False, True, True, True, True, True, True]
    assert taken(audience) == [(b"1,2,3,4,5,6,7,8,", [one])]
    assert not audience.is_filling


@dataclass
class Reader:
    """A member with a socket that takes everything, and what it has read."""

    subscriber: Subscriber
    read: list[int] = field(default_factory=list)
    expected: list[int] = field(default_factory=list)
    is_full: bool = False

    def take(self, data: bytes) -> None:
        self.read += [int(text) for text in data.decode().split(",") if text]


class Departing(RuleBasedStateMachine):
    """Members come, fill up, ask for something of their own, and go, between slices of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.audience = audience_of()
        self.readers: list[Reader] = []
        self.seq = 0

    @rule()
    def enter(self) -> None:
        self.readers.append(Reader(entered(self.audience)))

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        self.audience.leave(reader.subscriber)
        self.readers.remove(reader)

    @rule()
    def offer(self) -> None:
        self.seq += 1
        self.audience.offer(event(self.seq))
        for reader in self.readers:
            reader.expected.append(self.seq)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def send_one(self, data: st.DataObject) -> None:
        """Something of its own: 0."""
        reader = data.draw(st.sampled_from(self.readers))
        reader.subscriber.own_outbox().offer(Packet(b"0,", "control"))
        reader.expected.append(0)

    @rule(writes=st.integers(1, 3), fills=st.booleans())
    def write_share(self, writes: int, fills: bool) -> None:
        share = self.audience.take(writes=writes, size_bytes=1 << 20)
        for subscriber in share.members if share is not None else ():
            assert share is not None
            reader = next(each for each in self.readers if each.subscriber is subscriber)
            assert not reader.is_full, "a full socket is not written to"
            reader.take(share.data)
            if fills:
                reader.is_full = True
                self.audience.step_out(subscriber)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def write_own(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        reader.is_full = False
        reader.take(b"".join(reader.subscriber.drain()))
        self.audience.step_in(reader.subscriber)

    @invariant()
    def each_has_read_a_beginning_of_what_it_was_offered(self) -> None:
        for reader in self.readers:
            assert reader.read == reader.expected[: len(reader.read)]

    def teardown(self) -> None:
        for reader in self.readers:
            reader.take(b"".join(reader.subscriber.drain()))
            assert reader.read == reader.expected
        super().teardown()


TestDeparting = Departing.TestCase
TestDeparting.settings = settings(max_examples=150, stateful_step_count=40)
