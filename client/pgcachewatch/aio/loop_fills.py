"""Single flight for an `async def`: fills are tasks, callers wait for them.

A fill runs as a task of its own, in a copy of its first caller's context, so no caller's cancellation or timeout harms
another. Each caller waits on a future of his own. Who is cancelled leaves; when the last one left, the fill is
cancelled and waited for, so that what the function cleans up is cleaned up before its caller goes on.

A caller on another event loop joins, too: one fill per key in the process (G10). His loop is told across threads, and
looks now and then whether the loop of the fill still runs, since a loop that was stopped brings nothing to an end.

A task of the fill that is cancelled by somebody else, such as a runner that shuts its loop down, abandons the flight:
who still waits starts over. A CancelledError that the function raises by itself is its outcome.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Generic, TypeVar, assert_never, cast

from pgcachewatch.aio.fills import Await, Fills, Join, Lead, Refresh, RunAlone
from pgcachewatch.aio.flight import CURRENT, Abandoned, LoopFlight, stop_waiting
from pgcachewatch.core.keys import Arguments, Keywords
from pgcachewatch.core.store import Entry, Fill

LOOK_EVERY_S = 0.25  # whether the loop of a fill that is waited for from another loop still runs

R = TypeVar("R")


class LoopFills(Fills[LoopFlight[R]], Generic[R]):
    """The slow path of one cached coroutine function."""

    def new_flight(self) -> LoopFlight[R]:
        return LoopFlight(asyncio.get_running_loop())

    def is_gone(self, flight: LoopFlight[R]) -> bool:
        return not flight.loop.is_running()

    async def call(self, args: Arguments, kwargs: Keywords) -> R:
        """What the hit path could not answer. Ends with the function's outcome, or the caller's cancellation."""
        key = self.key_of(args, kwargs)
        while not isinstance(key, RunAlone):
            decision = self.served(key) or self.decide(key, self.options.clock(), args, kwargs)
            match decision:
                case Entry():
                    self.observe("hit")
                    return cast("R", self.handed(decision.value))
                case Refresh():
                    self._start(decision.fill, args, kwargs)
                    self.observe("hit")
                    return cast("R", self.handed(decision.entry.value))
                case RunAlone():
                    break
                case Lead():
                    flight = self._start(decision.fill, args, kwargs)
                    self.observe("miss")
                case Join(flight):
                    self.observe("hit")
                case Await(flight):
                    pass
                case _:
                    assert_never(decision)
            try:
                await self._land(flight)
                if not isinstance(decision, Await):
                    return cast("R", self.landed(flight))
            except Abandoned:
                continue
            finally:
                stop_waiting(flight.node)
        self.runs_alone()
        value = await self.function(*args, **kwargs)
        self.ran_alone(args, kwargs)
        return cast("R", value)

    def _start(self, fill: Fill[LoopFlight[R]], args: Arguments, kwargs: Keywords) -> LoopFlight[R]:
        flight = fill.run
        task = flight.loop.create_task(
            self._run(fill, args, kwargs), name=f"fill of {self.keys.name}", context=contextvars.copy_context()
        )
        flight.task, flight.fill = task, fill
        task.add_done_callback(lambda task: self._ended(fill, task))
        return flight

    async def _run(self, fill: Fill[LoopFlight[R]], args: Arguments, kwargs: Keywords) -> None:
        CURRENT.set(fill.run.node)
        try:
            self.finish(fill, await self.function(*args, **kwargs), args, kwargs)
        except BaseException as error:
            # Each call ends with the function's own outcome, whatever its class: see G8.
            task = asyncio.current_task()
            was_stopped = task is None or task.cancelling() > 0 or isinstance(error, GeneratorExit)
            is_interrupt = isinstance(error, KeyboardInterrupt)
            self.fail(fill, error, is_outcome=not (was_stopped or is_interrupt))
            if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
                raise

    def _ended(self, fill: Fill[LoopFlight[R]], task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # seen: what the loop does not raise itself was given to the callers
        if not fill.run.is_done:
            # Cancelled before its first step, so that nothing of it ran.
            self.fail(fill, asyncio.CancelledError(), is_outcome=False)

    async def _land(self, flight: LoopFlight[R]) -> None:
        """Wait until the flight is done, however it ended."""
        loop = asyncio.get_running_loop()
        with self.store.lock:
            landed = flight.join(loop)
        try:
            if flight.loop is loop:
                await landed
            else:
                await self._wait_across(flight, landed)
        except asyncio.CancelledError:
            await self._leave(flight, landed)
            raise

    async def _wait_across(self, flight: LoopFlight[R], landed: asyncio.Future[None]) -> None:
        while not landed.done():
            await asyncio.wait([landed], timeout=LOOK_EVERY_S)
            if not landed.done() and self.is_gone(flight):
                with self.store.lock:
                    flight.abandon()
                return

    async def _leave(self, flight: LoopFlight[R], landed: asyncio.Future[None]) -> None:
        with self.store.lock:
            if not flight.leave(landed):
                return
            # Nobody may join a fill that is being cancelled.
            if flight.fill is not None:
                self.store.abandon(flight.fill)
        flight.cancel()
        if flight.task is not None and flight.loop is asyncio.get_running_loop():
            await asyncio.wait([flight.task])
