"""Greedy, Windowed, Timed: which events make a cache let go of what it holds. Pure folds over events.

A listener of ours hands each event to every strategy the moment it arrives (`observe`). So no event is stolen between
two functions, two strategies or a worker that reads the listener, and none waits unread. When a strategy fires it
flushes every store that watches it, at once. When an event is to take effect later, the strategy tells the stores the
instant, so no timer is needed: a store looks at its horizon on each hit.

`clear()` is the original's face: it answers True once for each time the strategy fired since it was last asked. On a
foreign listener, one that only has `get_nowait` and `connection_healthy`, `clear()` reads the events itself.

A Gap fires every strategy. So does an event whose judgement fails, as when a predicate raises: doubt flushes.
How much staleness a strategy permits: Greedy, none for the events its predicate names; Timed, its interval; Windowed,
without `within=`, no bound at all.

Bounds: FIRED_KEPT answers of `clear()`; stores are watched weakly. On the path of an event: step 10, decide.
"""

from __future__ import annotations

import collections
import datetime
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol, get_args, runtime_checkable

from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import OPERATIONS, DeadlineSetting, Event, Gap

FIRED_KEPT = 1_000  # beyond that, `clear()` answers True fewer times than the strategy fired
FOREVER = float("inf")
DEFAULT_SETTINGS = DeadlineSetting()


class EventQueueProtocol(Protocol):
    """The least a listener has to be. `get_nowait` raises asyncio.QueueEmpty, or queue.Empty, when nothing is left."""

    def connection_healthy(self) -> bool: ...

    def get_nowait(self) -> Event: ...


class Observer(Protocol):
    """Who is handed each event, at the local monotonic instant it arrived. Raises nothing."""

    def observe(self, event: object, now_s: float) -> None: ...


@runtime_checkable
class Source(Protocol):
    """A listener of ours: it hands events over, and has the clock. It holds its observers weakly.

    A watcher must go by this clock, too: its `flush_at` is told instants of it.
    """

    def connection_healthy(self) -> bool: ...

    def attach(self, observer: Observer) -> None: ...

    def now_s(self) -> float: ...

    def report(self, what: str, error: Exception) -> None: ...


class Watcher(Protocol):
    """A store: flushed at once, or at an instant of the source's clock, by which it must let go by itself."""

    def flush(self) -> None: ...

    def flush_at(self, due: float) -> None: ...


class Strategy(Protocol):
    """What `decorators.cache` needs at least. Yours may be no more than this; it is then asked on each call."""

    def clear(self) -> bool: ...

    def connection_healthy(self) -> bool: ...


class EventStrategy(Strategy):
    """What the three have in common. A subclass says when an event takes effect.

    Without a listener it is bound later, by the client that uses it, and until then it is unhealthy.
    """

    def __init__(self, listener: EventQueueProtocol | Source | None, settings: DeadlineSetting) -> None:
        self._settings = settings
        self._listener: EventQueueProtocol | Source | None = None
        self._source: Source | None = None
        self._fired: collections.deque[bool] = collections.deque(maxlen=FIRED_KEPT)
        # A list, whose copying and appending no other thread can come between, as it could with a WeakSet.
        self._watchers: list[weakref.ref[Watcher]] = []
        self._due_s = FOREVER
        if listener is not None:
            self.bind(listener)

    def bind(self, listener: EventQueueProtocol | Source) -> None:
        """Listen to `listener` from now on. Raises ConfigurationError when it listens already."""
        if self._listener is not None:
            raise ConfigurationError(f"{type(self).__name__} already has a listener; make one strategy for each")
        self._listener = listener
        if isinstance(listener, Source):
            self._source = listener
            listener.attach(self)
        self.began(self._now_s())

    @property
    def source(self) -> Source | None:
        """Who hands it events, so that nobody has to call `clear()`, and whose clock they take effect by."""
        return self._source

    def watch(self, watcher: Watcher) -> None:
        """Flush `watcher` whenever this strategy fires. It is held weakly."""
        self._watchers.append(weakref.ref(watcher, self._watchers.remove))
        if self._due_s < FOREVER:
            watcher.flush_at(self._due_s)

    def connection_healthy(self) -> bool:
        """What the listener says; False without one."""
        return self._listener is not None and self._listener.connection_healthy()

    def clear(self) -> bool:
        """True when this strategy fired, once for each time."""
        if self._source is None:
            return self._read()
        self._tick(self._source.now_s())
        return self._take()

    def drain(self) -> bool:
        """True when this strategy fired at all since it was last asked: `clear()` for many events at once."""
        has_fired = False
        for _ in range(self._settings.max_iter):
            if not self.clear():
                break
            has_fired = True
        return has_fired

    def observe(self, event: object, now_s: float) -> None:
        """One event, or a Gap, that arrived at the local monotonic instant `now_s`."""
        self._tick(now_s)
        due_s = now_s if isinstance(event, Gap) else self._judge(event, now_s)
        if due_s <= now_s:
            self._fire(now_s)
        elif due_s < self._due_s:
            self._due_s = due_s
            for watcher in self._watching():
                watcher.flush_at(due_s)

    # --- what a subclass says

    def due(self, event: Event, now_s: float) -> float:
        """The instant at which `event` takes effect: `now_s` or earlier for at once, FOREVER for never."""
        raise NotImplementedError

    def began(self, now_s: float) -> None:
        """The strategy listens from `now_s` on."""

    def fired(self, now_s: float) -> None:
        """It fired, for whatever reason, with effect from `now_s`."""

    # --- folding

    def _judge(self, event: object, now_s: float) -> float:
        try:
            # Whatever was put into the queue: what is no event fails here, and so counts as one that matters.
            return self.due(event, now_s)  # type: ignore[arg-type]  # see above
        except Exception as error:
            if self._source is not None:
                self._source.report(f"{type(self).__name__} strategy", error)
            return now_s

    def _tick(self, now_s: float) -> None:
        if now_s >= self._due_s:
            self._note(self._due_s)
            # A store on the source's clock was told the instant, and has let go by itself: to flush it here, when the
            # next event happens to come, would take from it what it filled since.
            if self._source is None:
                self._flush()

    def _fire(self, now_s: float) -> None:
        self._note(now_s)
        self._flush()

    def _note(self, now_s: float) -> None:
        self._due_s = FOREVER
        self.fired(now_s)
        self._fired.append(True)

    def _flush(self) -> None:
        for watcher in self._watching():
            watcher.flush()

    def _watching(self) -> list[Watcher]:
        return [watcher for reference in tuple(self._watchers) if (watcher := reference()) is not None]

    def _take(self) -> bool:
        try:
            return self._fired.popleft()
        except IndexError:
            return False

    # --- foreign listeners

    def _now_s(self) -> float:
        """A foreign listener gives no clock, so this is the wall clock then; a step of it moves a due instant."""
        return self._source.now_s() if self._source is not None else utc_now().timestamp()

    def _read(self) -> bool:
        """Read a foreign listener up to the first event that fires, within the limits of the settings.

        What a limit leaves unread may be what matters, so reaching one counts as firing.
        """
        listener = self._listener
        if listener is None or isinstance(listener, Source):
            return False
        self._tick(self._now_s())
        deadline = utc_now() + self._settings.max_time
        for _ in range(self._settings.max_iter):
            if self._fired or utc_now() >= deadline:
                break
            try:
                event = listener.get_nowait()
            except Exception as error:
                if is_empty(error):
                    return self._take()
                raise
            self.observe(event, self._now_s())
        self._take()
        return True


class Greedy(EventStrategy):
    """Fires for each event `predicate` is true for; by default, for each event.

    >>> strategy = Greedy(predicate=lambda event: event.operation == "update")
    >>> strategy.due(Event.model_construct(operation="insert"), now_s=7.0), strategy.due(
    ...     Event.model_construct(operation="update"), now_s=7.0
    ... )
    (inf, 7.0)
    """

    def __init__(
        self,
        listener: EventQueueProtocol | Source | None = None,
        settings: DeadlineSetting = DEFAULT_SETTINGS,
        predicate: Callable[[Event], bool] = bool,
    ) -> None:
        super().__init__(listener, settings)
        self._predicate = predicate

    def due(self, event: Event, now_s: float) -> float:
        return now_s if self._predicate(event) else FOREVER


class Windowed(EventStrategy):
    """Fires when the last operations are exactly those of `window`, in order.

    With `max_events=5, within=timedelta(seconds=30)` it fires after 5 events, or 30 seconds after the first one it has
    not fired for, whichever is first. The three may be combined; at least one is needed.
    """

    def __init__(
        self,
        listener: EventQueueProtocol | Source | None = None,
        window: Sequence[OPERATIONS] = (),
        settings: DeadlineSetting = DEFAULT_SETTINGS,
        *,
        max_events: int | None = None,
        within: datetime.timedelta | None = None,
    ) -> None:
        _check_window(window, max_events, within)
        self._window = collections.deque(window, maxlen=len(window))
        self._latest: collections.deque[str] = collections.deque(maxlen=len(window))
        self._max_events = max_events or FOREVER
        self._within_s = FOREVER if within is None else within.total_seconds()
        self._unfired = 0
        super().__init__(listener, settings)

    def due(self, event: Event, now_s: float) -> float:
        self._latest.append(event.operation)
        self._unfired += 1
        if self._unfired >= self._max_events or (self._window and self._latest == self._window):
            return now_s
        return now_s + self._within_s  # of such instants the earliest counts: that of the first event

    def fired(self, now_s: float) -> None:
        self._unfired = 0


class Timed(EventStrategy):
    """Fires at most about once per interval, and never later than one interval after an event.

    An event fires at once when the interval since the last one that fired is over: by the database's clock (its
    `sent_at`, as in the original) or by ours. Another takes effect when the interval ends by our clock, also when no
    further event comes. So skewed clocks can make it fire earlier, and never later.
    """

    def __init__(
        self,
        listener: EventQueueProtocol | Source | None = None,
        timedelta: datetime.timedelta | None = None,
        settings: DeadlineSetting = DEFAULT_SETTINGS,
    ) -> None:
        if timedelta is None or timedelta < datetime.timedelta(0):
            raise ConfigurationError(f"Timed needs an interval of zero or more, not timedelta={timedelta!r}")
        self._interval = timedelta
        self._previous = self._latest = utc_now()
        self._previous_s = 0.0
        super().__init__(listener, settings)

    def began(self, now_s: float) -> None:
        self._previous_s = now_s

    def due(self, event: Event, now_s: float) -> float:
        is_over = event.sent_at - self._previous > self._interval
        self._latest = event.sent_at
        # The end of the interval by our clock, which may be past.
        return now_s if is_over else self._previous_s + self._interval.total_seconds()

    def fired(self, now_s: float) -> None:
        self._previous, self._previous_s = self._latest, now_s


def utc_now() -> datetime.datetime:
    """The wall clock, for what is compared with the `sent_at` of events."""
    return datetime.datetime.now(tz=datetime.UTC)


def is_empty(error: Exception) -> bool:
    """True for asyncio.QueueEmpty and queue.Empty, known by name because a pure module imports neither."""
    return any(kind.__name__ in ("QueueEmpty", "Empty") for kind in type(error).__mro__)


def _check_window(window: Sequence[str], max_events: int | None, within: datetime.timedelta | None) -> None:
    known = get_args(OPERATIONS)
    for operation in window:
        if operation not in known:
            raise ConfigurationError(f"window has the operation {operation!r}; use {', '.join(known)}, in lower case")
    if max_events is not None and max_events < 1:
        raise ConfigurationError(f"max_events must be 1 or more, not {max_events}")
    if within is not None and within <= datetime.timedelta(0):
        raise ConfigurationError(f"within must be longer than zero, not {within!r}")
    if not window and max_events is None and within is None:
        raise ConfigurationError("Windowed without a window would never fire; give window=, max_events= or within=")
