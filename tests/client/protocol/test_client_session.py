"""The client's end of a connection: order of deliveries, the chain, flushes, and what a hostile relay can do."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch.models import EVERYTHING, Position, Scope
from pgcachewatch.protocol import codec, messages
from pgcachewatch.protocol.client_session import (
    Advance,
    Authenticated,
    BarrierPassed,
    Change,
    ClientSession,
    ClockSample,
    CloseWith,
    Delivery,
    Flush,
    Granted,
    Invalidate,
    Leaving,
    Opened,
    Proof,
    Rejected,
    SourceLost,
)

EPOCH = "00000000000000aa"
OTHER = "00000000000000bb"


def welcome(*, seq: int = 7, resumed: bool = False, epoch: str = EPOCH) -> str:
    return codec.encode(messages.Welcome(e=epoch, s=seq, resumed=resumed, now=1_000, hb_ms=500, node="n"))


def subok(identity: int = 1, sid: int = 1) -> str:
    return codec.encode(messages.Subok(id=identity, sid=sid, s=7))


def live_session() -> ClientSession:
    session = ClientSession(subscriptions=[messages.Sub(id=1)])
    session.hello(now_s=10.0)
    session.receive(welcome())
    session.receive(subok())
    return session


def violation(deliveries: list[Delivery]) -> CloseWith:
    flush, close = deliveries[-2:]
    assert isinstance(flush, Flush)
    assert flush.scope == EVERYTHING
    assert isinstance(close, CloseWith)
    return close


def test_the_hello_carries_resume_and_every_subscription() -> None:
    session = ClientSession(
        subscriptions=[messages.Sub(id=1), messages.Sub(id=2, table="t")],
        resume=Position(EPOCH, 5),
        token="x",
    )
    hello = json.loads(session.hello(now_s=0.0))
    assert hello["resume"] == {"e": EPOCH, "s": 5}
    assert [sub["id"] for sub in hello["subs"]] == [1, 2]
    assert hello["token"] == "x"


@pytest.mark.rule("W-RESUME-1")
def test_a_welcome_that_did_not_resume_flushes_everything_before_it_moves() -> None:
    session = ClientSession(subscriptions=[], resume=Position(OTHER, 99))
    session.hello(now_s=10.0)
    assert session.receive(welcome(seq=7)) == [
        Opened(False, "n", 0.5),
        Flush(EVERYTHING, "link_lost"),
        Advance(Position(EPOCH, 7)),
        ClockSample(10.0, 1_000),
    ]


@pytest.mark.rule("W-RESUME-2")
def test_a_resumed_welcome_keeps_the_cursor_where_it_was() -> None:
    session = ClientSession(subscriptions=[messages.Sub(id=1)], resume=Position(EPOCH, 5))
    session.hello(now_s=10.0)
    opened = session.receive(welcome(seq=7, resumed=True))
    assert not any(isinstance(delivery, Flush) for delivery in opened)
    session.receive(subok())
    assert session.receive('{"t":"ev","p":5,"s":7,"i":[[1,"u","42"]]}') == [
        Invalidate((Change(1, "u", "42"),)),
        Advance(Position(EPOCH, 7)),
    ]


@pytest.mark.rule("W-RESUME-2")
@pytest.mark.parametrize("resume", [None, Position(OTHER, 5)])
def test_a_resume_nobody_asked_for_is_a_violation(resume: Position | None) -> None:
    session = ClientSession(subscriptions=[], resume=resume)
    session.hello(now_s=0.0)
    assert violation(session.receive(welcome(resumed=True))).rule == "W-RESUME-2"


def test_an_event_drops_first_then_advances_then_proves() -> None:
    ev, mark = '{"t":"ev","p":7,"s":8,"i":[[1,"u","5"]]}', '{"t":"mark","p":8,"s":9,"as_of":50}'
    frame = f'[{ev},{mark},{{"t":"barrierok","id":3,"s":9}}]'
    assert live_session().receive(frame) == [
        Invalidate((Change(1, "u", "5"),)),
        Advance(Position(EPOCH, 8)),
        Advance(Position(EPOCH, 9)),
        Proof(50.0),
        BarrierPassed(3),
    ]


@pytest.mark.rule("W-CHAIN-1")
@pytest.mark.parametrize(
    "frame",
    [
        '{"t":"ev","p":8,"s":9,"i":[[1,"u","5"]]}',
        '{"t":"ev","p":6,"s":8,"i":[]}',
        '{"t":"ev","p":7,"s":6,"i":[]}',
        '{"t":"mark","p":8,"s":9,"as_of":1}',
    ],
)
def test_a_break_of_the_chain_flushes_everything_and_starts_from_nothing(frame: str) -> None:
    session = live_session()
    deliveries = session.receive(frame)
    assert violation(deliveries).rule == "W-CHAIN-1"
    assert not any(isinstance(delivery, Invalidate | Proof | Advance) for delivery in deliveries)
    assert session.cursor is None


@pytest.mark.rule("W-CHAIN-2")
def test_skipped_sequences_between_p_and_s_are_no_gap() -> None:
    assert live_session().receive('{"t":"mark","p":7,"s":700,"as_of":1}') == [
        Advance(Position(EPOCH, 700)),
        Proof(1.0),
    ]


@pytest.mark.rule("W-MARK-3")
def test_a_mark_proves_nothing_before_each_subscription_is_live() -> None:
    session = ClientSession(subscriptions=[messages.Sub(id=1), messages.Sub(id=2)])
    session.hello(now_s=0.0)
    session.receive(welcome())
    session.receive(subok(1, 1))
    assert session.receive('{"t":"mark","p":7,"s":7,"as_of":1}') == []
    session.receive(subok(2, 2))
    assert session.receive('{"t":"mark","p":7,"s":7,"as_of":2}') == [Proof(2.0)]


@pytest.mark.rule("W-MARK-1")
def test_a_mark_without_as_of_only_advances() -> None:
    assert live_session().receive('{"t":"mark","p":7,"s":8}') == [Advance(Position(EPOCH, 8))]


@pytest.mark.rule("W-EV-1")
def test_sid_zero_flushes_everything_and_null_keys_pass_through() -> None:
    assert live_session().receive('{"t":"ev","p":7,"s":9,"i":[[0,"*",null]]}') == [
        Flush(EVERYTHING, "overflow"),
        Advance(Position(EPOCH, 9)),
    ]
    assert live_session().receive('{"t":"ev","p":7,"s":9,"i":[[1,"*",null]]}')[0] == Invalidate((Change(1, "*", None),))


@pytest.mark.rule("W-EV-2")
@pytest.mark.parametrize(
    "item", ["[]", "[1]", '[1,"u"]', '["1","u",null]', "[1,2,null]", '[1,"u",5]', '[1,"u",null,7]']
)
def test_a_malformed_item_is_a_violation(item: str) -> None:
    assert violation(live_session().receive(f'{{"t":"ev","p":7,"s":8,"i":[{item}]}}')).rule == "W-EV-2"


@pytest.mark.rule("W-FORWARD-1")
@pytest.mark.rule("W-EV-4")
def test_an_item_may_carry_a_detail_and_elements_nobody_knows_yet() -> None:
    (first, _) = live_session().receive('{"t":"ev","p":7,"s":8,"i":[[1,"i",null,{"table":"t"},"new"]]}')
    assert first == Invalidate((Change(1, "i", None, {"table": "t"}),))


@pytest.mark.rule("W-EV-3")
def test_a_sid_never_given_is_a_gap_and_an_ended_one_is_skipped() -> None:
    assert violation(live_session().receive('{"t":"ev","p":7,"s":8,"i":[[2,"u",null]]}')).rule == "W-EV-3"
    ended = live_session()
    ended.unsubscribe(1)
    assert ended.receive('{"t":"ev","p":7,"s":8,"i":[[1,"u",null]]}') == [Advance(Position(EPOCH, 8))]


@pytest.mark.rule("W-SUB-2")
def test_a_sid_given_twice_is_a_violation() -> None:
    session = live_session()
    session.subscribe(messages.Sub(id=2))
    assert violation(session.receive(subok(2, 1))).rule == "W-SUB-2"


def test_a_subscription_ended_before_its_answer_stays_ended() -> None:
    session = live_session()
    session.subscribe(messages.Sub(id=2))
    session.unsubscribe(2)
    assert session.receive(subok(2, 2)) == []
    assert session.receive('{"t":"ev","p":7,"s":8,"i":[[2,"u",null]]}') == [Advance(Position(EPOCH, 8))]
    assert session.is_granted


@pytest.mark.rule("W-SUB-5")
def test_a_later_subscription_is_granted_by_its_own_id() -> None:
    session = live_session()
    assert '"id":2' in session.subscribe(messages.Sub(id=2, table="t"))
    assert session.receive(subok(2, 2)) == [Granted(2, 7)]


@pytest.mark.rule("W-RESET-1")
def test_a_reset_flushes_its_scope_and_a_new_epoch_flushes_everything() -> None:
    reset = f'{{"t":"reset","e":"{EPOCH}","s":9,"scope":{{"channel":"c","schema":"s","table":"t"}}}}'
    assert live_session().receive(reset) == [
        Flush(Scope("c", "t", "s"), "source_lost"),
        Advance(Position(EPOCH, 9)),
    ]
    session = live_session()
    assert session.receive(reset.replace(EPOCH, OTHER))[0] == Flush(EVERYTHING, "source_lost")
    assert session.cursor == Position(OTHER, 9)
    assert session.receive('{"t":"mark","p":9,"s":9,"as_of":5}') == [Proof(5.0)]


@pytest.mark.rule("W-STALE-1")
def test_stale_is_told_and_moves_nothing() -> None:
    session = live_session()
    assert session.receive('{"t":"stale","since":5,"reason":"connection lost"}') == [SourceLost("connection lost")]
    assert session.cursor == Position(EPOCH, 7)


def test_pings_give_clock_samples_and_forgotten_ones_give_none() -> None:
    session = live_session()
    asked = [json.loads(session.ping(now_s=20.0 + number))["id"] for number in range(9)]
    assert session.receive(f'{{"t":"pong","id":{asked[8]},"now":5}}') == [ClockSample(28.0, 5.0)]
    assert session.receive(f'{{"t":"pong","id":{asked[0]},"now":5}}') == []
    assert session.receive(f'{{"t":"pong","id":{asked[8]},"now":5}}') == []


@pytest.mark.rule("W-ID-1")
def test_request_ids_are_one_number_space() -> None:
    session = live_session()
    assert json.loads(session.barrier(5))["id"] == 5
    assert json.loads(session.ping(now_s=0.0))["id"] > 2**40


@pytest.mark.rule("W-ERR-1")
@pytest.mark.rule("W-CLOSE-2")
def test_refusals_and_farewells_are_told() -> None:
    session = live_session()
    session.subscribe(messages.Sub(id=2))
    refused = '{"t":"err","id":2,"code":"forbidden","message":"no","retry":false}'
    assert session.receive(refused) == [Rejected(2, "forbidden", "no", False, None)]
    assert session.is_granted
    assert session.receive('{"t":"bye","code":4000,"after_ms":5,"jitter_ms":9}') == [Leaving(4000, 5.0, 9.0)]


@pytest.mark.rule("W-ORDER-1")
@pytest.mark.parametrize("frame", ['{"t":"mark","p":0,"s":0}', '{"t":"subok","id":1,"sid":1,"s":0}'])
def test_anything_before_welcome_is_a_violation(frame: str) -> None:
    session = ClientSession(subscriptions=[messages.Sub(id=1)])
    session.hello(now_s=0.0)
    violation(session.receive(frame))
    assert session.receive(welcome()) == []


@pytest.mark.rule("W-FRAME-1")
@pytest.mark.parametrize("frame", [b"x", "", "{", "[]]"])
def test_a_bad_frame_is_a_violation(frame: str | bytes) -> None:
    assert violation(live_session().receive(frame)).rule == "W-FRAME-1"


@pytest.mark.rule("W-FORWARD-2")
def test_an_unknown_message_is_skipped() -> None:
    assert live_session().receive('{"t":"dance"}') == []


def test_a_closed_session_keeps_its_cursor_and_hears_nothing() -> None:
    session = live_session()
    session.close()
    assert session.cursor == Position(EPOCH, 7)
    assert session.receive('{"t":"mark","p":7,"s":8}') == []


relay_frames = st.lists(
    st.sampled_from(
        [
            welcome(),
            welcome(resumed=True),
            subok(),
            '{"t":"ev","p":7,"s":8,"i":[[1,"u","5"]]}',
            '{"t":"ev","p":8,"s":9,"i":[[0,"*",null]]}',
            '{"t":"mark","p":7,"s":8,"as_of":1}',
            f'{{"t":"reset","e":"{OTHER}","s":7}}',
            '{"t":"stale","since":1,"reason":""}',
            '{"t":"barrierok","id":1,"s":1}',
            '{"t":"bye","code":4000}',
            "{",
        ]
    )
    | st.text(max_size=20),
    max_size=8,
)


@given(relay_frames)
def test_no_sequence_of_frames_raises_and_a_lost_place_is_always_a_flush(frames: list[str]) -> None:
    session = ClientSession(subscriptions=[messages.Sub(id=1)])
    session.hello(now_s=0.0)
    for frame in frames:
        deliveries = session.receive(frame)
        if any(isinstance(delivery, CloseWith) for delivery in deliveries):
            violation(deliveries)
            assert session.cursor is None


@pytest.mark.rule("W-STAMP-1")
@pytest.mark.parametrize(
    ("rest", "xid"), [([{"x": 12}], 12), ([], None), ([None], None), ([{"x": "12"}], None), ([{"x": True}], None)]
)
def test_a_change_has_the_transaction_that_its_item_tells(rest: list[object], xid: int | None) -> None:
    session = live_session()

    (invalidate, _) = session.receive(json.dumps({"t": "ev", "p": 7, "s": 8, "i": [[1, "u", "5", *rest]]}))

    assert isinstance(invalidate, Invalidate)
    assert invalidate.changes[0].xid == xid


@pytest.mark.rule("W-STAMP-2")
def test_a_proof_has_the_snapshot_that_its_mark_shows() -> None:
    session = live_session()

    assert session.receive(codec.encode_mark(7, 7, 1_200.0, "10:20:10")) == [Proof(1_200.0, "10:20:10")]


def test_a_mark_with_what_is_no_snapshot_is_malformed() -> None:
    session = live_session()

    deliveries = session.receive('{"t":"mark","p":7,"s":7,"as_of":1.0,"x":"10"}')

    assert violation(deliveries).rule == "W-FRAME-3"


# --- frames that came at once


def ev(previous: int, *items: str) -> str:
    return f'{{"t":"ev","p":{previous},"s":{previous + 1},"i":[{",".join(items)}]}}'


FIVE, SIX, ALL = '[1,"u","5"]', '[1,"u","6"]', '[0,"*",null]'


def test_events_in_a_row_are_one_invalidate_and_one_advance() -> None:
    session = live_session()

    assert list(session.receive_many([ev(7, FIVE), f"[{ev(8, SIX)},{ev(9)}]", ev(10, FIVE)])) == [
        Invalidate((Change(1, "u", "5"), Change(1, "u", "6"), Change(1, "u", "5"))),
        Advance(Position(EPOCH, 11)),
    ]
    assert session.cursor == Position(EPOCH, 11)


def test_a_message_between_events_keeps_its_place() -> None:
    mark, passed = '{"t":"mark","p":8,"s":8,"as_of":50}', '{"t":"barrierok","id":3,"s":8}'
    assert list(live_session().receive_many([ev(7, FIVE), mark, passed, ev(8, SIX)])) == [
        Invalidate((Change(1, "u", "5"),)),
        Advance(Position(EPOCH, 8)),
        Proof(50.0),
        BarrierPassed(3),
        Invalidate((Change(1, "u", "6"),)),
        Advance(Position(EPOCH, 9)),
    ]


def test_a_flush_of_everything_between_events_keeps_its_place() -> None:
    assert list(live_session().receive_many([ev(7, FIVE), ev(8, ALL, SIX)])) == [
        Invalidate((Change(1, "u", "5"),)),
        Flush(EVERYTHING, "overflow"),
        Invalidate((Change(1, "u", "6"),)),
        Advance(Position(EPOCH, 9)),
    ]


@pytest.mark.rule("W-CHAIN-1")
@pytest.mark.rule("W-EV-2")
@pytest.mark.parametrize("bad", [ev(9, SIX), ev(8, SIX, "[1]"), ev(8, ALL, SIX, "[1]"), "{", '{"t":"ev"}'])
def test_what_came_before_a_violation_is_told_and_nothing_behind_it(bad: str) -> None:
    session = live_session()

    first, advance, *others = session.receive_many([ev(7, FIVE), bad, ev(8, SIX), ev(10, SIX)])

    assert (first, advance) == (Invalidate((Change(1, "u", "5"),)), Advance(Position(EPOCH, 8)))
    violation(others)
    assert len(others) == 2
    assert session.cursor is None


def test_a_frame_is_looked_at_when_what_came_before_it_was_applied() -> None:
    session = live_session()
    mark = '{"t":"mark","p":8,"s":8,"as_of":50}'
    applied: list[Delivery] = []
    for delivery in session.receive_many([ev(7, FIVE), '{"t":"stale","since":1,"reason":""}', mark]):
        applied.append(delivery)
        if isinstance(delivery, SourceLost):
            session.subscribe(messages.Sub(id=2))

    assert not any(isinstance(delivery, Proof) for delivery in applied), "W-MARK-3: a subscription is not live yet"


def test_a_session_that_is_closed_by_what_was_told_reads_no_further() -> None:
    session = live_session()
    told = session.receive_many(['{"t":"bye","code":4000}', ev(7, FIVE)])

    assert next(told) == Leaving(4000, 0, 0)
    session.close()

    assert list(told) == []
    assert session.cursor == Position(EPOCH, 7)


def merged(deliveries: list[Delivery]) -> list[object]:
    """Without how changes in a row are divided, and the positions between them."""
    found: list[object] = []
    for delivery in deliveries:
        if isinstance(delivery, Invalidate):
            if not (found and isinstance(found[-1], list)):
                found.append([])
            found[-1] += delivery.changes  # type: ignore[operator]  # a list, as was just seen
        elif not isinstance(delivery, Advance):
            found.append(delivery)
    return found


EVENTS = st.builds(
    lambda previous, items: ev(previous, *items),
    st.integers(7, 9),
    st.lists(st.sampled_from([FIVE, SIX, ALL, '[1,"u",null,{"x":5}]', "[2]", '[3,"u",null]']), max_size=3),
)


@given(
    st.lists(EVENTS | relay_frames.map(lambda frames: f"[{','.join(frames[:2])}]") | st.just("[]"), max_size=6),
    st.lists(st.integers(0, 6), max_size=3),
)
def test_frames_mean_the_same_however_many_come_at_once_and_however_they_are_read(
    frames: list[str], cuts: list[int]
) -> None:
    one_by_one, at_once, by_models = live_session(), live_session(), live_session()
    places = sorted({0, *cuts, len(frames)})

    singly = [delivery for frame in frames for delivery in one_by_one.receive(frame)]
    together = [
        delivery for start, end in itertools.pairwise(places) for delivery in at_once.receive_many(frames[start:end])
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "decode_evs", lambda frame: None)
        modelled = [delivery for frame in frames for delivery in by_models.receive(frame)]

    assert merged(singly) == merged(together) == merged(modelled)
    assert one_by_one.cursor == at_once.cursor == by_models.cursor
    assert one_by_one.state is at_once.state is by_models.state


@pytest.mark.rule("W-TOKEN-6")
def test_the_time_that_a_token_has_left_is_told_in_seconds() -> None:
    session = live_session()
    assert session.receive('{"t":"authok","token_ms":2500.0}') == [Authenticated(2.5)]
    assert session.receive('{"t":"authok"}') == [Authenticated(None)]
    assert session.is_open
