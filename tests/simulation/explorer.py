"""Visits every state of the model, nearest first, and returns the shortest way to a broken invariant.

Breadth first, so that a counterexample is as short as one can be: a person can follow it. The limit on states turns
a model that grew out of hand into an error instead of a test that hangs.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.simulation.model import Guards, State, World, broken_invariant, steps

STATES_LIMIT = 2_000_000


@dataclass(frozen=True, slots=True)
class Holds:
    """No reachable state breaks an invariant; `states` were visited."""

    states: int


@dataclass(frozen=True, slots=True)
class Counterexample:
    """`broken` names the invariant; `trace` is what happened, in order."""

    broken: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        numbered = (f"{number:3d}. {step}" for number, step in enumerate(self.trace, 1))
        return "\n".join((self.broken, *numbered))


def explore(world: World, guards: Guards) -> Holds | Counterexample:
    """Every state reachable from the empty one. Raises when there are more than STATES_LIMIT.

    >>> isinstance(explore(World(commits=1, fills=1, losses=0), Guards()), Holds)
    True
    """
    start = State()
    with _collector_paused():
        return _explore(start, world, guards)


def _explore(start: State, world: World, guards: Guards) -> Holds | Counterexample:
    came_by: dict[State, tuple[State, str] | None] = {start: None}
    to_visit = deque([start])
    while to_visit:
        state = to_visit.popleft()
        for label, after, broken in steps(state, world, guards):
            broken = broken or broken_invariant(after)
            if broken:
                return Counterexample(broken, (*_way_to(state, came_by), label))
            if after not in came_by:
                came_by[after] = (state, label)
                to_visit.append(after)
        if len(came_by) > STATES_LIMIT:
            raise MemoryError(f"{len(came_by)} states and more to come: make {world} smaller")
    return Holds(len(came_by))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """States are tuples of tuples and hold no cycles, yet looking for some was half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _way_to(state: State, came_by: dict[State, tuple[State, str] | None]) -> tuple[str, ...]:
    labels: list[str] = []
    before = came_by[state]
    while before is not None:
        state, label = before
        labels.append(label)
        before = came_by[state]
    return tuple(reversed(labels))
