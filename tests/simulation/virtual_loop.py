"""An event loop whose time is a number: it never waits, it moves on to the next thing that is due.

Real asyncio code runs on it unchanged, only faster and always the same: one thread, no sockets, and the order of
everything decided by the code and by the seed. When nothing is due and nothing can become due, the program hangs, and
the loop says so instead of hanging with it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(AssertionError):
    """Everything waits for something that can not happen any more."""


class _NoSockets(selectors.BaseSelector):
    """Nothing is ever ready; to wait is to move the clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._registered: dict[Any, selectors.SelectorKey] = {}

    # Any: the signatures of the standard library's base class.
    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data)
        self._registered[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._registered.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock(f"at {self.now_s:.3f} s nothing is due and somebody still waits")
        self.now_s += max(timeout, 0.0)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._registered


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and moves only when everything that was due has run."""

    def __init__(self) -> None:
        self._selector_of_time = _NoSockets()
        super().__init__(self._selector_of_time)

    def time(self) -> float:
        return self._selector_of_time.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on a fresh virtual loop; tasks it left are cancelled."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
