"""The recent changes of the epoch as they were said to workers, for one that starts later.

It keeps the very bytes that were written to the links, so that handing them to a replacement costs no encoding. Bounds
are those of the History that each worker keeps, counted in the same way but given up frame by frame: a worker is handed
at least what the others still have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pgcachewatch_daemon.core.history import OVERHEAD_BYTES, HistoryLimits


@dataclass(frozen=True, slots=True)
class Chapter:
    """One frame of consecutive changes, the last of which is `seq` and was made at `at_s`."""

    seq: int
    events: int
    size_bytes: int
    at_s: float
    frame: bytes


class Handover:
    """Frames in order, the oldest given up first.

    >>> handover = Handover(HistoryLimits(events=2))
    >>> for seq in (1, 2, 3):
    ...     handover.append(b"%d" % seq, seq=seq, events=1, at_s=0.0)
    >>> handover.floor, handover.frames
    (1, [b'2', b'3'])
    """

    def __init__(self, limits: HistoryLimits) -> None:
        self.limits = limits  # replaced while running; the next change trims
        self._chapters: deque[Chapter] = deque()
        self._events = 0
        self._size_bytes = 0
        self.floor = 0  # each change after this sequence is here

    @property
    def events(self) -> int:
        return self._events

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def frames(self) -> Sequence[bytes]:
        return [chapter.frame for chapter in self._chapters]

    def oldest_age_s(self, now_s: float) -> float:
        """Age of the oldest chapter; 0 when there is none."""
        return now_s - self._chapters[0].at_s if self._chapters else 0.0

    def append(self, frame: bytes, *, seq: int, events: int, at_s: float) -> None:
        """Remember a frame of `events` changes up to `seq`, and forget what is over a limit."""
        size_bytes = len(frame) + events * OVERHEAD_BYTES
        self._chapters.append(Chapter(seq, events, size_bytes, at_s, frame))
        self._events += events
        self._size_bytes += size_bytes
        self._trim(at_s)

    def begin_after(self, seq: int) -> None:
        """A new epoch, whose first change follows `seq`."""
        self._chapters.clear()
        self._events = self._size_bytes = 0
        self.floor = seq

    def _trim(self, now_s: float) -> None:
        limits, chapters = self.limits, self._chapters
        while chapters and (
            self._events - chapters[0].events >= limits.events
            or self._size_bytes - chapters[0].size_bytes >= limits.bytes
            or now_s - chapters[0].at_s > limits.age_s
        ):
            oldest = chapters.popleft()
            self._events -= oldest.events
            self._size_bytes -= oldest.size_bytes
            self.floor = oldest.seq
