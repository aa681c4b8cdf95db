"""Single flight for a `def`: a fill runs in the thread of its first caller, other threads wait for it.

Hits take no lock. A first caller that is interrupted from outside (KeyboardInterrupt) abandons the flight: the threads
that waited start over, because what stopped him is no outcome of the function. An event loop that calls a cached `def`
is blocked while the function runs, as it would be without the cache.

Bound: the callers.
"""

from __future__ import annotations

from typing import Generic, TypeVar, assert_never, cast

from pgcachewatch.aio.fills import Await, Fills, Join, Lead, Refresh, RunAlone
from pgcachewatch.aio.flight import CURRENT, Abandoned, ThreadFlight, stop_waiting
from pgcachewatch.aio.reading import spoil
from pgcachewatch.core.keys import Arguments, Keywords
from pgcachewatch.core.store import Entry, Fill

R = TypeVar("R")


class ThreadFills(Fills[ThreadFlight[R]], Generic[R]):
    """The slow path of one cached function."""

    def new_flight(self) -> ThreadFlight[R]:
        return ThreadFlight()

    def call(self, args: Arguments, kwargs: Keywords) -> R:
        """What the hit path could not answer. Ends with the function's outcome."""
        key = self.key_of(args, kwargs)
        while not isinstance(key, RunAlone):
            decision = self.served(key) or self.decide(key, self.options.clock(), args, kwargs)
            match decision:
                case Entry():
                    self.observe("hit")
                    return cast("R", self.handed(decision.value))
                case Refresh():
                    # Refused when it was declared: there is no thread to run it in but this caller's.
                    return self._run(decision.fill, args, kwargs)
                case RunAlone():
                    break
                case Lead():
                    return self._run(decision.fill, args, kwargs)
                case Join(flight):
                    self.observe("hit")
                case Await(flight):
                    pass
                case _:
                    assert_never(decision)
            try:
                flight.landed.wait()
                if not isinstance(decision, Await):
                    return cast("R", self.landed(flight))
            except Abandoned:
                continue
            finally:
                stop_waiting(flight.node)
        self.runs_alone()
        value = self.function(*args, **kwargs)
        self.ran_alone(args, kwargs)
        return cast("R", value)

    def _run(self, fill: Fill[ThreadFlight[R]], args: Arguments, kwargs: Keywords) -> R:
        inside = CURRENT.set(fill.run.node)
        try:
            self.observe("miss")  # inside: should it be interrupted, nobody may wait for a fill that does not run
            value = self.function(*args, **kwargs)
            self.finish(fill, value, args, kwargs)
        except BaseException as error:
            fill.run.take_error()
            self.fail(fill, error, is_outcome=not isinstance(error, KeyboardInterrupt))
            raise
        finally:
            CURRENT.reset(inside)
            stop_waiting(fill.run.node)
            if fill.run.is_unproven:
                spoil()
        return cast("R", value)
