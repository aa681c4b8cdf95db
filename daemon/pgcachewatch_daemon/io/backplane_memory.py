"""Positions assigned in this process's memory: the log of a relay that runs alone.

The epoch is drawn anew at each start and each time continuity is lost, so two relays, or two lives of one, never
share an epoch, and a client that moves between them flushes. Sequences start at 0 in each epoch. On the path of an
event: step 3, number.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from pgcachewatch.models import Position


def random_epoch() -> str:
    """64 random bits as 16 hex digits, as the wire wants them."""
    return secrets.token_hex(8)


class MemoryBackplane:
    """The one place where positions are assigned (W-POSITION-2).

    >>> backplane = MemoryBackplane(lambda: "00000000000000aa")
    >>> backplane.append(), backplane.append().seq
    (Position(epoch='00000000000000aa', seq=1), 2)
    """

    def __init__(self, new_epoch_id: Callable[[], str] = random_epoch) -> None:
        self._new_epoch_id = new_epoch_id
        self._position = Position(new_epoch_id(), 0)

    @property
    def position(self) -> Position:
        return self._position

    def append(self) -> Position:  # hot path
        """The next position of this epoch."""
        self._position = Position(self._position.epoch, self._position.seq + 1)
        return self._position

    def new_epoch(self, reason: str, start: Position | None = None) -> Position:
        """Continuity was lost: a new epoch, at its sequence 0. `reason` is for backplanes that record it.

        `start` is where it begins instead, when it has a name of its own.
        """
        self._position = start or Position(self._new_epoch_id(), 0)
        return self._position
