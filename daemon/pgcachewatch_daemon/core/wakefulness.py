"""Whether the journal is polled or slept upon, so that writers take no lock meanwhile, and none is missed.

While a relay sleeps each writer's transaction notifies, and the relay reads at once and sleeps on: nothing is told
sooner. But transactions that notify commit one by one. So above `busy_hz` of them the relay is awake: it polls, and
holds a lock that writers only try to share; they see it and do not notify. Below that rate the polls would make each
event late by half of `poll_s`, and spare nobody a wait.

Before it sleeps it gives the lock up; a writer that looked at it before that moment did not notify, and may commit
later. So the relay draws a transaction id of its own behind giving it up and goes on polling until every transaction
below that is over (draining): who began after it sees no lock, and notifies. The snapshot's `xmax` would not do for
that id: transactions above it run already (measured: 1.6 s late instead of 6 ms).

Several relays: the lock is one's. Whoever takes it tells the others, who are awake from then on although they can not
take it: they know that writers do not notify.

Bounds: a relay that sleeps looks every `safety_s` all the same; rows of which nobody had told it keep it awake. A
transaction that never ends keeps it polling, at `drain_slow_s` after a while; it never makes it miss anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

DRAIN_FAST_POLLS = 100
TOLD_POLLS = 2  # the poll that a notification led to, and the one that was under way when it came


class State(Enum):
    AWAKE = "awake"
    DRAINING = "draining"
    ASLEEP = "asleep"


class Act(Enum):
    """What is to be done after a poll, each answered by the method of its name."""

    NOTHING = "nothing"
    TAKE_LOCK = "take_lock"
    GIVE_UP_LOCK = "give_up_lock"  # and draw a transaction id, unless somebody else holds it
    CONFIRM = "confirm"  # that nobody has taken it since


@dataclass(frozen=True, slots=True)
class WakeOptions:
    """Seconds. `is_gated` False: polled for ever, at `idle_poll_s` when nothing comes.

    `busy_hz`: transactions a second that make it stay awake, once there were `burst` more than that.
    """

    poll_s: float = 0.005
    idle_poll_s: float = 0.05
    linger_s: float = 1.0
    safety_s: float = 1.0
    drain_slow_s: float = 0.05
    retry_lock_s: float = 0.25
    busy_hz: float = 30.0
    burst: int = 10
    is_gated: bool = True


class Wakefulness:
    """The decisions. All instants are the caller's monotonic clock, in seconds.

    >>> wakefulness = Wakefulness(WakeOptions(burst=1), now_s=0.0)
    >>> wakefulness.polled(transactions=2, xmin=5, now_s=0.0)
    <Act.TAKE_LOCK: 'take_lock'>
    >>> wakefulness.lock_taken(True, now_s=0.0)
    >>> wakefulness.polled(transactions=0, xmin=5, now_s=1.0)
    <Act.GIVE_UP_LOCK: 'give_up_lock'>
    >>> wakefulness.lock_given_up(7)
    >>> [wakefulness.polled(transactions=0, xmin=xmin, now_s=1.1).value for xmin in (7, 8)]
    ['nothing', 'confirm']
    >>> wakefulness.confirmed(True)
    >>> wakefulness.state, wakefulness.pause_s
    (<State.ASLEEP: 'asleep'>, 1.0)
    """

    def __init__(self, options: WakeOptions, *, now_s: float) -> None:
        self._options = options
        self._is_gated = options.is_gated
        self.reset(now_s=now_s)

    def reset(self, *, now_s: float) -> None:
        """A new session: it holds no lock, and what was missed meanwhile is polled first."""
        self.state = State.AWAKE
        self.has_lock = False
        self._busy_s = self._seen_s = now_s
        self._tried_s = float("-inf")
        self._barrier_xid = 0
        self._drain_polls = self._told_polls = 0
        self._is_idle = False
        self._level = 0.0  # transactions beyond `busy_hz`
        self._counted_s = now_s

    def poll_for_ever(self, has_silent_writers: bool, *, now_s: float) -> None:
        """There are writers that notify nobody, so that it may not sleep; or there are none any more."""
        self._is_gated = self._options.is_gated and not has_silent_writers
        if not self._is_gated:
            self.state = State.AWAKE
            self._busy_s = now_s

    @property
    def pause_s(self) -> float:
        """Until the next poll."""
        options = self._options
        match self.state:
            case State.ASLEEP:
                return options.safety_s
            case State.DRAINING:
                return options.poll_s if self._drain_polls < DRAIN_FAST_POLLS else options.drain_slow_s
            case State.AWAKE:
                return options.idle_poll_s if self._is_idle and not self._is_gated else options.poll_s

    def wake(self, *, now_s: float) -> None:
        """A writer notified: poll now."""
        self._told_polls = TOLD_POLLS
        if self.state is not State.AWAKE:
            self._count(1, now_s)

    def rival_woke(self, *, now_s: float) -> None:
        """Another relay, or this one, took the lock: writers do not notify."""
        self._stay_awake(now_s)

    def polled(self, *, transactions: int, xmin: int, now_s: float) -> Act:
        """So many transactions had written, and each below `xmin` was over."""
        if transactions:
            self._seen_s = now_s
        self._is_idle = now_s - self._seen_s >= self._options.linger_s
        was_told, self._told_polls = self._told_polls > 0, max(0, self._told_polls - 1)
        if not self._is_gated:
            return Act.NOTHING
        if self.state is State.AWAKE:
            self._count(transactions, now_s)
        elif self._is_busy or (self.state is State.ASLEEP and transactions and not was_told):
            self._stay_awake(now_s)
        match self.state:
            case State.DRAINING:
                self._drain_polls += 1
                return Act.CONFIRM if xmin > self._barrier_xid else Act.NOTHING
            case State.ASLEEP:
                return Act.NOTHING
            case State.AWAKE:
                return self._while_awake(now_s)

    def _while_awake(self, now_s: float) -> Act:
        options = self._options
        if now_s - self._busy_s >= options.linger_s:
            return Act.GIVE_UP_LOCK
        if self._is_busy and not self.has_lock and now_s - self._tried_s >= options.retry_lock_s:
            return Act.TAKE_LOCK
        return Act.NOTHING

    @property
    def _is_busy(self) -> bool:
        return self._level > self._options.burst

    def _count(self, transactions: int, now_s: float) -> None:
        """A bucket that leaks `busy_hz`, and is full at twice the burst, so that it is soon empty afterwards."""
        options = self._options
        left = max(0.0, self._level - (now_s - self._counted_s) * options.busy_hz)
        self._level, self._counted_s = min(left + transactions, 2.0 * options.burst + 1.0), now_s
        if self._is_busy:
            self._busy_s = now_s

    def _stay_awake(self, now_s: float) -> None:
        self.state = State.AWAKE
        self._busy_s = now_s

    def lock_taken(self, is_taken: bool, *, now_s: float) -> None:
        self.has_lock = is_taken
        self._tried_s = now_s

    def lock_given_up(self, barrier_xid: int | None, *, now_s: float = 0.0) -> None:
        """`barrier_xid` was drawn behind it; None when another relay holds the lock, so that writers do not notify."""
        self.has_lock = False
        if barrier_xid is None:
            self._busy_s = now_s  # asked again after another linger
            return
        self.state = State.DRAINING
        self._barrier_xid = barrier_xid
        self._drain_polls = 0

    def confirmed(self, is_free: bool, *, now_s: float = 0.0) -> None:
        """Nobody holds the lock, so everybody who commits from now on notifies; or somebody does."""
        self.state = State.ASLEEP if is_free else State.AWAKE
        if not is_free:
            self._busy_s = now_s
