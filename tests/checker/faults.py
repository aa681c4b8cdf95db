"""Which faults happen when: a plan drawn from a seed, before anything runs.

Kinds are dealt like cards, so that each comes up as often as any other, and about every 1.4 seconds one is played. Two
faults never meet in one component, as the second would undo the first; faults of different components overlap freely.

Bounds: never more than MOST_APART_S between two faults.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_APART_S = 0.8
MOST_APART_S = 2.0
TIME_TO_SETTLE_S = LEAST_APART_S  # a component rests that long after a fault before the next may hit it


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to fail, what fails, and for how long. `{}` in a component stands for a reader's number."""

    name: str
    component: str
    shortest_s: float = 0.0
    longest_s: float = 0.0


BURST = Kind("burst", "burst")  # 10,000 events in one commit

KINDS = (
    Kind("listen_backend_terminated", "postgres"),  # pg_terminate_backend
    Kind("listen_backend_killed", "postgres"),  # SIGKILL: PostgreSQL ends all its sessions and recovers
    Kind("postgres_restarted", "postgres"),  # in order, as for a new setting
    Kind("postgres_killed", "postgres", 0.2, 2.0),  # SIGKILL of all its processes, back after a while
    Kind("relay_killed", "relay", 0.0, 1.0),
    Kind("relay_restarted", "relay"),  # SIGTERM: it says goodbye
    Kind("relay_stopped", "relay", 0.5, 5.0),  # SIGSTOP
    Kind("source_cut", "source"),  # the relay's connection to PostgreSQL is reset
    Kind("source_black_holed", "source", 0.5, 4.0),  # ... is open, and nothing comes through
    Kind("source_stalled", "source", 0.5, 4.0),  # ... and all of it comes late
    Kind("link_cut", "link {}"),
    Kind("link_stalled", "link {}", 0.2, 4.0),
    Kind("link_stalled_down", "link {}", 0.2, 4.0),
    Kind("link_stalled_up", "link {}", 0.2, 4.0),
    Kind("link_black_holed", "link {}", 0.5, 5.0),
    Kind("client_stopped", "client {}", 0.5, 5.0),  # SIGSTOP
    BURST,
    Kind("deaf_client", "deaf client", 1.0, 4.0),  # subscribes and never reads, while a burst goes by
)


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` begins `at_s` after the start and lasts `length_s`; `reader` is the number of the reader it is for."""

    at_s: float
    kind: str
    length_s: float
    reader: int | None
    component: str


@dataclass(frozen=True, slots=True)
class Happened:
    """A fault as it was: from `started_s` until everything was allowed to work again, `healed_s`, monotonic clock."""

    kind: str
    reader: int | None
    started_s: float
    healed_s: float


def schedule(
    seed: int,
    *,
    duration_s: float,
    readers: int,
    kinds: Sequence[Kind] = KINDS,
    apart_s: tuple[float, float] = (LEAST_APART_S, MOST_APART_S),
) -> list[Fault]:
    """The faults of a run, in order of time; all are over when `duration_s` is. BURST must be one of `kinds`.

    >>> schedule(1, duration_s=60, readers=4) == schedule(1, duration_s=60, readers=4)
    True
    """
    chance = random.Random(seed)
    faults: list[Fault] = []
    busy_until_s: dict[str, float] = {}
    deck: list[Kind] = []
    at_s = chance.uniform(*apart_s)
    while at_s < duration_s:
        deck = deck or chance.sample(kinds, len(kinds))
        reader = chance.randrange(readers)
        playable = [kind for kind in deck if busy_until_s.get(kind.component.format(reader), 0.0) <= at_s]
        # A burst is over at once, so one is always possible.
        kind = playable[0] if playable else BURST
        if playable:
            deck.remove(kind)
        length_s = min(chance.uniform(kind.shortest_s, kind.longest_s), duration_s - at_s)
        component = kind.component.format(reader)
        faults.append(Fault(at_s, kind.name, length_s, reader if "{}" in kind.component else None, component))
        busy_until_s[component] = at_s + length_s + TIME_TO_SETTLE_S
        at_s += chance.uniform(*apart_s)
    return faults
