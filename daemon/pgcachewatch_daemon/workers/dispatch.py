"""What the primary says to all workers: gathered, encoded once, kept, and written to each link as the same bytes.

Whatever is said in one iteration of the loop leaves at its end, or at once when somebody waits for it; changes and all
else keep their order. Bound: RUN_CHANGES changes to a frame, which is also how finely the handover forgets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pgcachewatch_daemon.workers.framing import encode
from pgcachewatch_daemon.workers.handover import Handover
from pgcachewatch_daemon.workers.messages import Change, Changes, FromPrimary

RUN_CHANGES = 500


class Dispatch:
    """`write` hands frames to each link; the second argument says whether they are bulk (see link)."""

    def __init__(self, handover: Handover, write: Callable[[list[bytes], bool], None]) -> None:
        self._handover = handover
        self._write = write
        self._gathered: list[list[Change] | FromPrimary] = []
        self._run: list[Change] = []  # the last of what is gathered, while it is changes
        self._is_scheduled = False

    def change(self, change: Change) -> None:  # hot path
        """A change behind everything said before."""
        run = self._run
        if not run:
            self._gathered.append(run)
            self._schedule()
        run.append(change)
        if len(run) >= RUN_CHANGES:
            self.flush()

    def say(self, message: FromPrimary) -> None:
        """A message behind everything said before."""
        self._run = []
        self._gathered.append(message)
        self._schedule()

    def say_bulk(self, message: FromPrimary) -> None:
        """The same at once, for one that is large and rare."""
        self.flush()
        self._write([encode([message])], True)

    def flush(self) -> None:
        """Write what was gathered."""
        gathered, self._gathered, self._run = self._gathered, [], []
        frames: list[bytes] = []
        messages: list[FromPrimary] = []
        for each in gathered:
            if not isinstance(each, list):
                messages.append(each)
                continue
            if messages:
                frames.append(encode(messages))
                messages = []
            frame = encode([Changes(each)])
            seq, at_s = each[-1][0], each[-1][1]
            self._handover.append(frame, seq=seq, events=len(each), at_s=at_s)
            frames.append(frame)
        if messages:
            frames.append(encode(messages))
        if frames:
            self._write(frames, False)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._scheduled)

    def _scheduled(self) -> None:
        self._is_scheduled = False
        self.flush()
