"""The shell's side of a fill: who waits for it, and what becomes of them.

A flight ends in one of three ways: it lands (value), it fails (error), or it is abandoned (its owner is gone, and
nobody knows what the function would have said). Who waited for an abandoned flight starts over; that is why no call
ever hangs on a fill whose owner is gone (G8).

Each flight has a node in a graph of who waits for whom: a fill that calls a cached function waits for another fill. A
call that would close a circle, such as a function that calls itself with the same arguments, runs the function instead
of waiting for ever.

Bound: one waiter per caller. All methods are called with the lock of the fill's store held, unless they say otherwise.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

from pgcachewatch.core.snapshots import Snapshot
from pgcachewatch.core.store import Fill

R = TypeVar("R")


class Abandoned(Exception):
    """The flight has no outcome: run the function again. Never leaves this package."""


class Node:
    """A flight's place in the graph. Apart from the flight: contexts keep it, and must not keep the value.

    `snapshots` are those its function said it read in, see aio/reading.py. `is_unproven`: its function was given what
    may lack a change that was applied, by another cached function.
    """

    __slots__ = ("is_unproven", "snapshots", "waits_for")

    def __init__(self) -> None:
        self.waits_for: list[Node] = []  # one for each call that waits
        self.snapshots: set[Snapshot] = set()
        self.is_unproven = False


class Flight(Generic[R]):
    """State common to both kinds."""

    __slots__ = ("_error", "_is_taken", "_traceback", "_value", "is_abandoned", "is_done", "is_unproven", "node")

    def __init__(self) -> None:
        self.is_done = False
        self.is_abandoned = False
        self.is_unproven = False  # see Fill
        self.node = Node()
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None
        self._is_taken = False
        self._value: R

    def land(self, value: R) -> None:
        """The function returned `value`."""
        if not self.is_done:
            self._value = value
            self._end()

    def fail(self, error: BaseException) -> None:
        """The function raised `error`. Called where it was caught."""
        if not self.is_done:
            self._error = error
            # Without the frame that caught it, which refers to this flight and would make a circle.
            self._traceback = error.__traceback__.tb_next if error.__traceback__ else None
            self._end()

    def abandon(self) -> None:
        """There will be no outcome."""
        if not self.is_done:
            self.is_abandoned = True
            self._end()

    def result(self) -> R:
        """What the function said, for one of the callers; the flight is done. Needs no lock.

        Raises Abandoned. An error is raised itself in the first caller only: the others get copies, because an
        exception that is raised in several places collects the tracebacks of all of them.
        """
        if self.is_abandoned:
            raise Abandoned
        if self._error is None:
            return self._value
        error = copy_of(self._error) if self._is_taken else self._error
        self._is_taken = True
        raise error.with_traceback(self._traceback)

    def take_error(self) -> None:
        """The error itself was raised somewhere already."""
        self._is_taken = True

    def _end(self) -> None:
        self.is_done = True


class LoopFlight(Flight[R]):
    """A fill that runs as a task of `loop`; its callers may be on other loops."""

    __slots__ = ("fill", "loop", "task", "waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.task: asyncio.Task[None] | None = None
        self.fill: Fill[LoopFlight[R]] | None = None  # while it runs
        self.waiters: set[asyncio.Future[None]] = set()

    def join(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """A future of `loop` that is done when the flight is."""
        future: asyncio.Future[None] = loop.create_future()
        if self.is_done:
            future.set_result(None)
        else:
            self.waiters.add(future)
        return future

    def leave(self, future: asyncio.Future[None]) -> bool:
        """A caller does not wait any more. True when he was the last, and the fill serves nobody."""
        self.waiters.discard(future)
        return not self.is_done and not self.waiters

    def cancel(self) -> None:
        """Cancel the task, whichever loop it is on."""
        if self.task is not None:
            on_loop(self.loop, self.task.cancel)

    def _end(self) -> None:
        super()._end()
        self.fill = None
        for future in self.waiters:
            on_loop(future.get_loop(), _wake, future)
        self.waiters.clear()


class ThreadFlight(Flight[R]):
    """A fill that runs in the thread of its first caller."""

    __slots__ = ("landed",)

    def __init__(self) -> None:
        super().__init__()
        self.landed = threading.Event()

    def _end(self) -> None:
        super()._end()
        self.landed.set()


# The node of the flight in whose function the current code runs, if any.
CURRENT: contextvars.ContextVar[Node | None] = contextvars.ContextVar("pgcachewatch_flight", default=None)


def may_wait(node: Node) -> bool:
    """Note that the function that is calling waits for `node`; False, and no note, when that would close a circle.

    Noted first and looked at afterwards, so that of two threads that close a circle together one at least sees it.
    """
    caller = CURRENT.get()
    if caller is None:
        return True
    caller.waits_for.append(node)
    if _leads_back(node, caller):
        caller.waits_for.remove(node)
        return False
    return True


def stop_waiting(node: Node) -> None:
    """Take the note back: the call goes on."""
    caller = CURRENT.get()
    if caller is not None:
        caller.waits_for.remove(node)


def _leads_back(node: Node, origin: Node) -> bool:
    seen: set[int] = set()
    ahead = [node]
    while ahead:
        one = ahead.pop()
        if one is origin:
            return True
        if id(one) not in seen:
            seen.add(id(one))
            ahead += tuple(one.waits_for)
    return False


def copy_of(error: BaseException) -> BaseException:
    """An equal exception that can be raised elsewhere; the same one when its class can not be copied safely.

    It is built without calling `__init__`, whose parameters nobody knows, and so only where all of an exception's state
    is in `args` and `__dict__`.
    """
    kind = type(error)
    if not _is_plain(kind):
        return error
    try:
        copy = kind.__new__(kind, *error.args)
        copy.__dict__.update(error.__dict__)
    except Exception:
        return error
    copy.__cause__ = error.__cause__
    copy.__context__ = error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    if hasattr(error, "__notes__"):
        copy.__notes__ = list(error.__notes__)
    return copy


class _Plain(Exception):
    """The layout of an exception that keeps nothing beyond args and __dict__."""


HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: not one of the builtin classes


def _is_plain(kind: type[BaseException]) -> bool:
    """False for builtin classes that keep more, as OSError does, for classes written in C, and for those with slots."""
    builtin = next(one for one in kind.__mro__ if not one.__flags__ & HEAP_TYPE)
    is_small = builtin.__basicsize__ == Exception.__basicsize__ and kind.__basicsize__ <= _Plain.__basicsize__
    return is_small and not any(vars(one).get("__slots__") for one in kind.__mro__)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def on_loop(loop: asyncio.AbstractEventLoop, act: Callable[..., object], *args: object) -> None:
    """Call `act` on `loop`: now when it is the running one, otherwise in a later step of it, from any thread."""
    try:
        running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        act(*args)
        return
    try:
        loop.call_soon_threadsafe(act, *args)
    except RuntimeError:
        pass  # the loop was closed, and nobody on it waits any more
