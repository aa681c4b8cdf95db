"""No writer is missed by a relay that falls asleep, whoever commits late and whoever else is awake."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from pgcachewatch_daemon.core.wakefulness import DRAIN_FAST_POLLS, Act, State, Wakefulness, WakeOptions

OPTIONS = WakeOptions()
MANY = OPTIONS.burst + 1


def awake() -> Wakefulness:
    """With the lock, and nothing to do since second 0."""
    wakefulness = Wakefulness(OPTIONS, now_s=0.0)
    assert wakefulness.polled(transactions=MANY, xmin=1, now_s=0.0) is Act.TAKE_LOCK
    wakefulness.lock_taken(True, now_s=0.0)
    return wakefulness


def asleep() -> Wakefulness:
    wakefulness = awake()
    assert wakefulness.polled(transactions=0, xmin=1, now_s=OPTIONS.linger_s) is Act.GIVE_UP_LOCK
    wakefulness.lock_given_up(5)
    assert wakefulness.polled(transactions=0, xmin=6, now_s=OPTIONS.linger_s) is Act.CONFIRM
    wakefulness.confirmed(True)
    assert wakefulness.state is State.ASLEEP
    return wakefulness


def commits(wakefulness: Wakefulness, *, per_s: float, from_s: float, to_s: float) -> list[Act]:
    """Each is notified and read, as long as nobody holds the lock; the relay polls as it wants to."""
    acts, now_s, due_s, xid = [], from_s, from_s, 100
    while now_s < to_s:
        now_s += 1 / per_s
        while due_s < now_s and wakefulness.state is not State.ASLEEP:
            acts.append(wakefulness.polled(transactions=0, xmin=xid, now_s=due_s))
            answer(wakefulness, acts[-1], xid, now_s=due_s)
            due_s += wakefulness.pause_s
        xid += 1
        if not wakefulness.has_lock:
            wakefulness.wake(now_s=now_s)
        acts.append(wakefulness.polled(transactions=1, xmin=xid, now_s=now_s))
        answer(wakefulness, acts[-1], xid, now_s=now_s)
        due_s = max(due_s, now_s)
    return acts


def answer(wakefulness: Wakefulness, act: Act, xid: int, *, now_s: float) -> None:
    match act:
        case Act.TAKE_LOCK:
            wakefulness.lock_taken(True, now_s=now_s)
        case Act.GIVE_UP_LOCK:
            wakefulness.lock_given_up(xid, now_s=now_s)
        case Act.CONFIRM:
            wakefulness.confirmed(True, now_s=now_s)
        case Act.NOTHING:
            pass


def test_it_stays_awake_while_many_commit() -> None:
    wakefulness = awake()
    assert set(commits(wakefulness, per_s=100.0, from_s=0.0, to_s=10.0)) == {Act.NOTHING}
    assert wakefulness.pause_s == OPTIONS.poll_s


@pytest.mark.parametrize("per_s", [1.0, 10.0, 25.0])
def test_few_commits_are_slept_on_as_each_is_notified(per_s: float) -> None:
    wakefulness = asleep()
    assert set(commits(wakefulness, per_s=per_s, from_s=9.0, to_s=30.0)) == {Act.NOTHING}
    assert wakefulness.state is State.ASLEEP


def test_many_commits_wake_it_within_as_many_as_the_burst_has() -> None:
    wakefulness = asleep()
    acts = commits(wakefulness, per_s=1_000.0, from_s=9.0, to_s=9.02)
    assert acts.index(Act.TAKE_LOCK) <= MANY
    assert wakefulness.has_lock


@pytest.mark.parametrize("per_s", [0.5, 10.0, 25.0])
def test_it_falls_asleep_when_only_few_commit(per_s: float) -> None:
    wakefulness = awake()
    acts = [act for act in commits(wakefulness, per_s=per_s, from_s=0.0, to_s=10.0) if act is not Act.NOTHING]
    assert acts == [Act.GIVE_UP_LOCK, Act.CONFIRM]
    assert wakefulness.state is State.ASLEEP


def test_while_it_drains_it_sees_many_commits_by_their_notifications() -> None:
    wakefulness = awake()
    wakefulness.polled(transactions=0, xmin=1, now_s=2.0)
    wakefulness.lock_given_up(9)
    for _ in range(MANY):
        wakefulness.wake(now_s=2.0)
    assert wakefulness.polled(transactions=MANY, xmin=9, now_s=2.0) is Act.TAKE_LOCK


def test_it_drains_until_every_transaction_of_before_is_over() -> None:
    wakefulness = awake()
    wakefulness.polled(transactions=0, xmin=1, now_s=2.0)
    wakefulness.lock_given_up(9)
    for _ in range(DRAIN_FAST_POLLS + 1):
        assert wakefulness.polled(transactions=0, xmin=9, now_s=3.0) is Act.NOTHING, "9 itself may still run"
    assert wakefulness.pause_s == OPTIONS.drain_slow_s
    assert wakefulness.polled(transactions=0, xmin=10, now_s=4.0) is Act.CONFIRM


def test_a_row_that_comes_while_it_drains_does_not_end_that() -> None:
    wakefulness = awake()
    wakefulness.polled(transactions=0, xmin=1, now_s=2.0)
    wakefulness.lock_given_up(9)
    assert wakefulness.polled(transactions=1, xmin=9, now_s=2.0) is Act.NOTHING
    assert wakefulness.state is State.DRAINING
    assert wakefulness.polled(transactions=0, xmin=10, now_s=2.0) is Act.CONFIRM


def test_while_another_relay_is_awake_it_does_not_sleep() -> None:
    wakefulness = awake()
    wakefulness.polled(transactions=0, xmin=1, now_s=2.0)
    wakefulness.lock_given_up(None, now_s=2.0)
    assert wakefulness.state is State.AWAKE
    assert wakefulness.polled(transactions=0, xmin=1, now_s=2.0 + OPTIONS.linger_s) is Act.GIVE_UP_LOCK


def test_a_lock_that_was_taken_meanwhile_keeps_it_awake() -> None:
    wakefulness = awake()
    wakefulness.polled(transactions=0, xmin=1, now_s=2.0)
    wakefulness.lock_given_up(9)
    assert wakefulness.polled(transactions=0, xmin=10, now_s=2.0) is Act.CONFIRM
    wakefulness.confirmed(False, now_s=2.0)
    assert wakefulness.state is State.AWAKE


def test_it_reads_when_it_is_told_and_now_and_then_by_itself() -> None:
    wakefulness = asleep()
    assert wakefulness.pause_s == OPTIONS.safety_s
    wakefulness.wake(now_s=9.0)
    assert wakefulness.polled(transactions=1, xmin=6, now_s=9.0) is Act.NOTHING
    assert wakefulness.state is State.ASLEEP


def test_a_notification_that_comes_during_a_poll_is_good_for_the_next_one() -> None:
    wakefulness = asleep()
    wakefulness.wake(now_s=9.0)  # while a poll is under way whose snapshot is older
    wakefulness.polled(transactions=0, xmin=6, now_s=9.0)
    wakefulness.polled(transactions=1, xmin=6, now_s=9.001)
    assert wakefulness.state is State.ASLEEP


def test_rows_of_which_nobody_told_keep_it_awake() -> None:
    wakefulness = asleep()
    wakefulness.polled(transactions=1, xmin=6, now_s=9.0)
    assert (wakefulness.state, wakefulness.pause_s) == (State.AWAKE, OPTIONS.poll_s)


@pytest.mark.parametrize("begin", [asleep, awake])
def test_a_relay_that_takes_the_lock_has_the_others_awake_for_a_while(begin: Callable[[], Wakefulness]) -> None:
    wakefulness = begin()
    wakefulness.rival_woke(now_s=9.0)
    assert wakefulness.polled(transactions=0, xmin=6, now_s=9.9) is Act.NOTHING
    assert (wakefulness.state, wakefulness.pause_s) == (State.AWAKE, OPTIONS.poll_s)
    assert wakefulness.polled(transactions=0, xmin=6, now_s=10.0) is Act.GIVE_UP_LOCK


def test_without_a_gate_it_polls_for_ever_and_slower_when_nothing_comes() -> None:
    wakefulness = Wakefulness(WakeOptions(is_gated=False), now_s=0.0)
    assert wakefulness.polled(transactions=1, xmin=1, now_s=0.0) is Act.NOTHING
    assert wakefulness.pause_s == OPTIONS.poll_s
    assert wakefulness.polled(transactions=0, xmin=1, now_s=60.0) is Act.NOTHING
    assert wakefulness.pause_s == OPTIONS.idle_poll_s


@pytest.mark.parametrize("seed", range(50))
def test_no_writer_is_unread_and_unannounced_while_it_sleeps(seed: int) -> None:
    """A world in which each step is one statement of the relay or of a writer, in any order."""
    chance = random.Random(seed)
    world = World(chance)
    for _ in range(3_000):
        world.step()
        if world.wakefulness.state is State.ASLEEP and not world.is_told:
            assert not world.unread, f"nobody tells the sleeper of {world.unread}"


class World:
    """Writers: an id, then a look at the lock, then the commit, which notifies if the lock was free. One relay."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.now_s = 0.0
        self.next_xid = 1
        self.running: dict[int, bool | None] = {}  # xid -> what it saw of the lock
        self.unread: set[int] = set()
        self.is_locked = self.is_told = False
        # Low limits, so that it falls asleep and awakes often.
        options = WakeOptions(busy_hz=chance.choice([1.0, 100.0]), burst=chance.choice([0, 1, 3]))
        self.wakefulness = Wakefulness(options, now_s=0.0)

    def step(self) -> None:
        self.now_s += self.chance.choice([0.001, 0.001, 0.01, 0.6])
        if self.chance.random() < 0.5:
            self._poll()
            return
        looking = [xid for xid, saw in self.running.items() if saw is None]
        done = [xid for xid, saw in self.running.items() if saw is not None]
        match self.chance.randrange(4):
            case 0 if len(self.running) < 4:
                self.running[self._new_xid()] = None
            case 1 if looking:
                self.running[self.chance.choice(looking)] = not self.is_locked
            case 2 if done:
                xid = self.chance.choice(done)
                self.is_told |= bool(self.running.pop(xid))
                self.unread.add(xid)

    def _new_xid(self) -> int:
        self.next_xid += 1
        return self.next_xid - 1

    def _poll(self) -> None:
        if self.is_told:
            self.is_told = False
            self.wakefulness.wake(now_s=self.now_s)
        elif self.wakefulness.state is State.ASLEEP:
            return
        rows, self.unread = len(self.unread), set()
        xmin = min(self.running, default=self.next_xid)
        match self.wakefulness.polled(transactions=rows, xmin=xmin, now_s=self.now_s):
            case Act.TAKE_LOCK:
                self.is_locked = True
                self.wakefulness.lock_taken(True, now_s=self.now_s)
            case Act.GIVE_UP_LOCK:
                self.is_locked = False
                self.wakefulness.lock_given_up(self._new_xid(), now_s=self.now_s)
            case Act.CONFIRM:
                self.wakefulness.confirmed(True, now_s=self.now_s)
            case Act.NOTHING:
                pass


def test_writers_that_notify_nobody_keep_it_awake_for_as_long_as_there_are_any() -> None:
    wakefulness = asleep()
    wakefulness.poll_for_ever(True, now_s=5.0)
    assert wakefulness.polled(transactions=0, xmin=6, now_s=60.0) is Act.NOTHING
    assert (wakefulness.state, wakefulness.pause_s) == (State.AWAKE, OPTIONS.idle_poll_s)
    wakefulness.poll_for_ever(False, now_s=60.0)
    assert wakefulness.polled(transactions=0, xmin=6, now_s=62.0) is Act.GIVE_UP_LOCK
