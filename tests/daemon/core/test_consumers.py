"""One consumer against every order of events: nothing is lost, nothing is two takers', nothing is passed over."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgcachewatch.models import EVERYTHING, Event, Gap, PGChannel
from pgcachewatch.protocol.messages import Want
from pgcachewatch_daemon.core.consumers import (
    Consumer,
    ConsumerLimits,
    ConsumerStats,
    Give,
    Saved,
    TakeBack,
    Told,
)
from pgcachewatch_daemon.core.pages import PAGE_ROWS, Entry, Filter, Page, Place

AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
START = Place("e", "100:100:")
LIMITS = ConsumerLimits(timeout_s=10.0, tries=3, retry_s=1.0)
WANTED = Filter((Want(channel="c", table="t"),))
GAP = Gap(EVERYTHING, "pruned", "rows are gone")


def event(*keys: str, table: str = "t") -> Event:
    return Event(channel=PGChannel("c"), operation="update", sent_at=AT, table=table, keys=keys or None)


def page(place: Place, until: int, *changes: Event, first: int = 1, has_more: bool = False) -> Page:
    """Rows with the numbers from `first` on, each of a transaction of its own."""
    entries = [Entry(f"{100 + seq}:{seq}", seq, change) for seq, change in enumerate(changes, first)]
    return Page(entries, place, f"{until}:{until}:", entries[-1].seq if has_more else None)


def consumer(saved: Saved | None = None, limits: ConsumerLimits = LIMITS) -> Consumer:
    return Consumer(limits, WANTED, saved or Saved(START), stats=ConsumerStats())


def given(told: Sequence[Told]) -> list[tuple[object, str, int]]:
    return [(one.taker, one.job.id, one.tries) for one in told if isinstance(one, Give)]


@pytest.mark.rule("W-CONSUMER-2")
def test_the_place_moves_past_an_event_only_when_all_before_it_are_acknowledged() -> None:
    one = consumer()
    one.join("a", 10, now_s=0)
    one.offer(page(START, 104, event("1"), event("2"), event("3")), now_s=0)

    one.done("a", ["102:2"], now_s=1)
    assert one.place == START
    assert one.to_save().done == ("102:2",)
    one.done("a", ["101:1"], now_s=1)
    assert one.place == Place("e", "100:100:", "104:104:", 2)
    assert one.to_save().done == ()
    one.done("a", ["103:3"], now_s=1)
    assert one.place == Place("e", "104:104:")


def test_what_was_acknowledged_ahead_of_the_place_is_not_given_after_a_restart() -> None:
    one = consumer()
    one.join("a", 10, now_s=0)
    one.offer(page(START, 104, event("1"), event("2"), event("3")), now_s=0)
    one.done("a", ["102:2"], now_s=1)
    one.failed("a", ["101:1"], "x", now_s=1)

    other = consumer(one.to_save())
    other.join("b", 10, now_s=5)
    told = other.offer(page(START, 105, event("1"), event("2"), event("3"), event("4")), now_s=5)

    assert given(told) == [("b", "101:1", 2), ("b", "103:3", 1), ("b", "104:4", 1)]


@pytest.mark.rule("W-CONSUMER-3")
def test_a_taker_has_no_more_than_it_asked_for_and_each_has_its_turn() -> None:
    one = consumer()
    one.join("a", 2, now_s=0)
    one.join("b", 1, now_s=0)
    told = one.offer(page(START, 109, *(event(str(key)) for key in range(5))), now_s=0)
    assert [(taker, job) for taker, job, _ in given(told)] == [("a", "101:1"), ("b", "102:2"), ("a", "103:3")]

    told = one.done("b", ["102:2"], now_s=1)
    assert given(told) == [("b", "104:4", 1)]


@pytest.mark.rule("W-CONSUMER-3")
def test_a_job_waits_for_earlier_ones_on_its_row_and_on_its_whole_table() -> None:
    one = consumer()
    one.join("a", 10, now_s=0)
    changes = (event("1"), event("1", "2"), event("3"), event(), event("3"), event("9", table="other"))
    told = one.offer(page(START, 109, *changes), now_s=0)
    assert [job for _, job, _ in given(told)] == ["101:1", "103:3", "106:6"]

    assert [job for _, job, _ in given(one.done("a", ["101:1"], now_s=1))] == ["102:2"]
    assert given(one.done("a", ["102:2"], now_s=1)) == []
    assert [job for _, job, _ in given(one.done("a", ["103:3"], now_s=1))] == ["104:4"]
    assert [job for _, job, _ in given(one.done("a", ["104:4"], now_s=1))] == ["105:5"]


@pytest.mark.rule("W-CONSUMER-4")
def test_of_a_taker_that_is_lost_only_the_oldest_job_counts_as_tried() -> None:
    one = consumer()
    one.join("a", 10, now_s=0)
    one.offer(page(START, 109, event("1"), event("2")), now_s=0)
    one.join("b", 10, now_s=0)

    assert given(one.leave("a", now_s=1, is_lost=True)) == [("b", "101:1", 2), ("b", "102:2", 1)]
    one.join("c", 10, now_s=2)
    assert given(one.leave("b", now_s=2, is_lost=False)) == [("c", "101:1", 2), ("c", "102:2", 1)]


@pytest.mark.rule("W-CONSUMER-8")
def test_a_taker_that_says_nothing_loses_its_jobs_until_it_speaks() -> None:
    one = consumer()
    one.join("a", 2, now_s=0)
    one.offer(page(START, 109, event("1"), event("2"), event("3")), now_s=0)
    one.done("a", ["101:1"], now_s=8)
    assert one.due_s == 18
    assert one.tick(17.9) == []

    assert one.tick(18) == [TakeBack("a", ("102:2", "103:3"))]
    assert given(one.join("b", 1, now_s=19)) == [("b", "102:2", 2)]
    assert given(one.done("a", [], now_s=20)) == [("a", "103:3", 1)]


def test_who_is_late_with_its_word_is_believed() -> None:
    one = consumer()
    one.join("a", 1, now_s=0)
    one.offer(page(START, 109, event("1")), now_s=0)
    one.tick(10)
    one.join("b", 1, now_s=10)

    assert one.done("a", ["101:1"], now_s=11) == [TakeBack("b", ("101:1",))]
    assert one.pending == 0


@pytest.mark.rule("W-CONSUMER-4")
def test_what_is_given_back_comes_again_after_a_pause_that_doubles_and_at_last_is_buried() -> None:
    one = consumer()
    one.join("a", 1, now_s=0)
    one.offer(page(START, 109, event("1"), event("1")), now_s=0)

    assert given(one.failed("a", ["101:1"], "no", now_s=1)) == []
    assert one.due_s == 2
    assert given(one.tick(2)) == [("a", "101:1", 2)]
    one.failed("a", ["101:1"], "no", now_s=3)
    assert given(one.tick(4.9)) == []
    assert given(one.tick(5)) == [("a", "101:1", 3)]
    one.failed("a", ["101:1"], "never", now_s=6)
    assert one.has_letters
    saved = one.to_save()
    assert [(letter.id, letter.reason, letter.tries) for letter in saved.letters] == [("101:1", "never", 3)]
    assert saved.place == START

    assert given(one.saved(saved, now_s=7)) == [("a", "102:2", 1)]
    assert given(consumer(saved).offer(page(START, 109, event("1")), now_s=9)) == []


@pytest.mark.rule("W-CONSUMER-5")
def test_a_gap_holds_the_place_and_is_never_buried() -> None:
    one = consumer()
    one.join("a", 5, now_s=0)
    end = Place("f", "900:900:")
    told = one.gap("gap:1", GAP, now_s=0, end=end)
    assert given(told) == [("a", "gap:1", 1)]
    assert one.reading == end
    told = one.offer(page(end, 910, event("1")), now_s=0)
    one.done("a", ["101:1"], now_s=0)
    assert one.place == START
    for number in range(10):
        one.failed("a", ["gap:1"], "no", now_s=100 * number)
        assert given(one.tick(100 * number + 99)) == [("a", "gap:1", number + 2)]

    one.done("a", ["gap:1"], now_s=2_000)
    assert one.place == Place("f", "910:910:")


@pytest.mark.rule("W-CONSUMER-7")
def test_what_a_client_did_before_its_connection_was_lost_is_known_before_it_is_read_again() -> None:
    one = consumer()
    one.join("a", 5, now_s=0, done=["101:1", "99:1"], held="103:3")
    one.join("b", 5, now_s=0)
    told = one.offer(page(START, 109, event("1"), event("2"), event("3")), now_s=0)

    assert [job for _, job, _ in given(told)] == ["102:2"]
    one.done("a", ["103:3"], now_s=0)
    assert one.pending == 1
    assert one.to_save().done == ("103:3",)


def test_nothing_is_given_while_it_may_be_somebody_elses() -> None:
    one = consumer()
    one.pause()
    one.join("a", 5, now_s=0)
    assert one.offer(page(START, 109, event("1")), now_s=0) == []
    assert given(one.resume(now_s=1)) == [("a", "101:1", 1)]


class AnyOrder(RuleBasedStateMachine):
    """A world of takers around one consumer, with relays that stop and start from what was stored last."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.limits = ConsumerLimits(timeout_s=10.0, tries=3, retry_s=1.0, pending=PAGE_ROWS + 5)
        self.rows: list[Event] = []  # the journal: the row with number n is rows[n - 1], of transaction 100 + n
        self.holding: dict[str, dict[str, None]] = {}
        self.handled: set[str] = set()
        self.letters: set[str] = set()
        self.lost_words: set[str] = set()  # handled, and not stored when the relay died: they come again
        self.last_taker = 0
        self.saved = Saved(START)
        self.one = Consumer(self.limits, WANTED, self.saved, stats=ConsumerStats())

    def hear(self, told: Sequence[Told]) -> None:
        for each in told:
            assert isinstance(each.taker, str)
            if isinstance(each, TakeBack):
                for identity in each.ids:
                    self.holding[each.taker].pop(identity)
            else:
                identity = each.job.id
                assert not any(identity in holding for holding in self.holding.values()), "two takers have one job"
                assert identity not in self.handled - self.lost_words, "an acknowledged job comes again"
                assert identity not in self.letters
                self.holding[each.taker][identity] = None

    @rule(keys=st.lists(st.sampled_from(["1", "2", "3"]), max_size=2, unique=True))
    def commit(self, keys: list[str]) -> None:
        self.rows.append(event(*keys))

    @precondition(lambda self: self.one.has_room)
    @rule(size=st.integers(1, 3))
    def read(self, size: int) -> None:
        place = self.one.reading
        until = place.until or f"{101 + len(self.rows)}:{101 + len(self.rows)}:"
        last = int(until.partition(":")[0]) - 101
        first = place.after if place.until else int(place.snapshot.partition(":")[0]) - 101
        numbers = range(max(first, 0) + 1, last + 1)
        entries = [Entry(f"{100 + number}:{number}", number, self.rows[number - 1]) for number in numbers][:size]
        has_more = len(numbers) > len(entries)
        self.hear(self.one.offer(Page(entries, place, until, entries[-1].seq if has_more else None), now_s=self.now_s))

    @rule(prefetch=st.integers(1, 3))
    def join(self, prefetch: int) -> None:
        self.last_taker += 1
        name = f"taker{self.last_taker}"
        self.holding[name] = {}
        self.hear(self.one.join(name, prefetch, now_s=self.now_s))

    @precondition(lambda self: self.holding)
    @rule(data=st.data(), is_lost=st.booleans())
    def leave(self, data: st.DataObject, is_lost: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.holding)))
        del self.holding[name]
        self.hear(self.one.leave(name, now_s=self.now_s, is_lost=is_lost))

    @precondition(lambda self: any(self.holding.values()))
    @rule(data=st.data(), is_done=st.booleans())
    def answer(self, data: st.DataObject, is_done: bool) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, jobs in self.holding.items() if jobs)))
        identity = data.draw(st.sampled_from(sorted(self.holding[name])))
        del self.holding[name][identity]
        if is_done:
            self.handled.add(identity)
            self.lost_words.discard(identity)
            self.hear(self.one.done(name, [identity], now_s=self.now_s))
        else:
            self.hear(self.one.failed(name, [identity], "no", now_s=self.now_s))

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.hear(self.one.tick(self.now_s))

    @rule()
    def store(self) -> None:
        self.saved = self.one.to_save()
        self.letters |= {letter.id for letter in self.saved.letters}
        self.hear(self.one.saved(self.saved, now_s=self.now_s))

    @rule()
    def restart(self) -> None:
        """The relay dies: what was said since the last store is lost."""
        self.holding.clear()
        self.one = Consumer(self.limits, WANTED, self.saved, stats=ConsumerStats())
        known = set(self.saved.done)
        self.lost_words = {one for one in self.handled - known if not behind(self.saved.place, one)}

    @invariant()
    def the_place_is_never_ahead(self) -> None:
        for place in (self.one.place, self.saved.place):
            for number in range(1, len(self.rows) + 1):
                identity = f"{100 + number}:{number}"
                if behind(place, identity):
                    assert identity in self.handled | self.letters, f"{identity} was passed over"

    def teardown(self) -> None:
        """With one taker that handles all it gets, everything is handled in the end."""
        for name in sorted(self.holding):
            del self.holding[name]
            self.hear(self.one.leave(name, now_s=self.now_s, is_lost=False))
        self.join(3)
        for _ in range(10 * len(self.rows) + 20):
            self.now_s += 5
            if self.one.has_room:
                self.read(3)
            self.hear(self.one.tick(self.now_s))
            self.store()
            for name, jobs in self.holding.items():
                for identity in tuple(jobs):
                    jobs.pop(identity, None)
                    self.handled.add(identity)
                    self.lost_words.discard(identity)
                    self.hear(self.one.done(name, [identity], now_s=self.now_s))
        everything = {f"{100 + number}:{number}" for number in range(1, len(self.rows) + 1)}
        assert self.handled | self.letters == everything
        assert self.one.pending == 0


def behind(place: Place, identity: str) -> bool:
    xid, seq = map(int, identity.split(":"))
    if xid < int(place.snapshot.partition(":")[0]):
        return True
    return bool(place.until) and xid < int(place.until.partition(":")[0]) and seq <= place.after


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
