"""Positions as the primary assigned them: a worker assigns none, it follows.

That all workers agree on each position is what lets a client resume at any of them. A change that does not follow its
predecessor is no gap but a fault of the link: the worker ends, and its clients resume elsewhere.
"""

from __future__ import annotations

from pgcachewatch.models import Position
from pgcachewatch_daemon.workers.framing import LinkBroken


class FollowedBackplane:
    """The worker's side of core/hub.Backplane: what is told first is what the hub asks for next.

    >>> backplane = FollowedBackplane()
    >>> backplane.begin("00000000000000aa", 7)
    >>> backplane.follow(8)
    >>> backplane.append(), backplane.position.seq
    (Position(epoch='00000000000000aa', seq=8), 8)
    """

    def __init__(self) -> None:
        self._position = Position("", 0)
        self._next = self._position

    @property
    def position(self) -> Position:
        return self._position

    def begin(self, epoch: str, seq: int) -> None:
        """The log goes on behind this."""
        self._position = self._next = Position(epoch, seq)

    def follow(self, seq: int) -> None:
        """The next change is this one. Raises LinkBroken when one before it is missing."""
        if seq != self._position.seq + 1:
            raise LinkBroken(f"change {seq} does not follow {self._position.seq}")
        self._next = Position(self._position.epoch, seq)

    def follow_epoch(self, epoch: str, seq: int) -> None:
        """The next epoch is this one, and begins behind `seq`."""
        self._next = Position(epoch, seq)

    def append(self) -> Position:  # hot path
        """The position that was told; the same one again for what takes a change's place."""
        self._position = self._next
        return self._position

    def new_epoch(self, reason: str, start: Position | None = None) -> Position:
        self._position = self._next
        return self._position
