"""Knows what was true, and judges each answer a cache gave.

The database's own history says which version was visible when; the relay's log says which commit a position stands for.
From these two and the times of a call follow the guarantees, each checked for every call as it ends.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

from pgcachewatch.models import Position
from tests.simulation.database import Database
from tests.simulation.relay import Log

TOLERANCE_S = 1e-9


class Violation(AssertionError):
    """A guarantee did not hold. The text names it."""


@dataclass
class Call:
    """One call of a cached function, from where the caller stands."""

    client: int
    function: str  # which of the client's cached functions: G5 speaks of one key of one function
    row: str
    started_s: float
    position: Position | None  # what the client had applied when the call started
    barrier_s: float  # start of the last barrier that had passed when the call started; -inf for none


@dataclass
class Oracle:
    """Collects what happened and checks what was answered. `staleness_s` is the clients' bound B."""

    database: Database
    log: Log
    staleness_s: float
    answers: int = 0
    worst_staleness_s: float = 0.0
    _newest: dict[tuple[int, str, str], list[tuple[float, int]]] = field(
        default_factory=dict
    )  # (ended, highest version)

    def answered(self, call: Call, version: int, ended_s: float) -> None:
        """`call` returned `version`. Raises Violation."""
        self.answers += 1
        row = self.database.rows[call.row]
        self._check(
            "G2 bounded staleness", call, version, row.version_at(call.started_s - self.staleness_s - TOLERANCE_S)
        )
        self._check("G3 read your writes", call, version, row.version_at(call.barrier_s))
        self._check("G1 and G4, applied means gone", call, version, self._applied(call))
        self._check("G5 monotone", call, version, self._seen(call))
        if version < len(row.committed_s) - 1:
            replaced_s = row.committed_s[version + 1]
            self.worst_staleness_s = max(self.worst_staleness_s, call.started_s - replaced_s)
        newest = self._newest.setdefault((call.client, call.function, call.row), [])
        newest.append((ended_s, max(version, newest[-1][1] if newest else 0)))

    def _check(self, what: str, call: Call, version: int, least: int) -> None:
        if version < least:
            raise Violation(
                f"{what}: client {call.client} called {call.row} at {call.started_s:.4f} s and got version {version}, "
                f"where at least {least} was due (commits {self.database.rows[call.row].committed_s[1:]}, {call})"
            )

    def _applied(self, call: Call) -> int:
        """The newest version of the row among the commits the client had applied when the call started."""
        position = call.position
        if position is None:
            return 0
        log = self.log.get(position.epoch, [])
        end = bisect.bisect_right(log, position.seq, key=lambda entry: entry[0])
        return max((version for _, row, version in log[:end] if row == call.row), default=0)

    def _seen(self, call: Call) -> int:
        """The newest version that calls which ended before this one started were given."""
        newest = self._newest.get((call.client, call.function, call.row), [])
        end = bisect.bisect_left(newest, call.started_s, key=lambda entry: entry[0])
        return newest[end - 1][1] if end else 0
