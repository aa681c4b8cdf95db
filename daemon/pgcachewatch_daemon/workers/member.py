"""One worker as the primary sees it: the process, its end of the link, and what was heard of it.

`run` is its whole life: started, linked, watched, and surely gone when it returns. A worker whose link ends is given
EXIT_S to send its clients elsewhere, then it is killed; so is one that is silent, whatever it does (SIGKILL ends a
stopped process too).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from pgcachewatch_daemon.io.metrics import Reading
from pgcachewatch_daemon.sights import Sights
from pgcachewatch_daemon.workers.link import Link
from pgcachewatch_daemon.workers.messages import Message, State

EXIT_S = 3.0
MODULE = "pgcachewatch_daemon.workers"


class Member:
    """`received` is called with each list of messages. `number` counts places, from 1."""

    def __init__(self, number: int, received: Callable[[Member, list[Message]], None]) -> None:
        self.number = number
        self.state = State(is_busy=False, has_stamps=False)
        self.readings: Mapping[str, Reading] = {}
        self.sights: Sights | None = None
        self.is_following = False  # it was handed everything, and hears what is said to all
        self.started_s = self.heard_s = time.monotonic()
        self.serving_since_s: float | None = None
        self._received = received
        self._link: Link | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._link_lost = asyncio.Event()

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was not started"
        return self._process.pid

    @property
    def is_serving(self) -> bool:
        return self.serving_since_s is not None and not self._link_lost.is_set()

    def say(self, *messages: Message) -> None:
        """To this one alone, behind what was said before."""
        if self._link is not None:
            self._link.say(*messages)

    def write(self, frames: Sequence[bytes], *, is_bulk: bool = False) -> None:
        """Encoded frames, behind what was said before."""
        if self._link is not None:
            self._link.write(frames, is_bulk=is_bulk)

    def kill(self) -> None:
        """End it at once; harmless when it has ended."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def run(self, sockets: Sequence[int]) -> float:
        """From start to end; returns how long it served, in seconds. `sockets` are descriptors for it to inherit."""
        try:
            await self._start(sockets)
            await self._until_ended()
        finally:
            if self._link is not None:
                self._link.cut()
            self.kill()
            if self._process is not None:
                await self._process.wait()
        return 0.0 if self.serving_since_s is None else time.monotonic() - self.serving_since_s

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return None if self._process is None else self._process.returncode

    async def _start(self, sockets: Sequence[int]) -> None:
        own, others = socket.socketpair()
        with contextlib.ExitStack() as undo, others:
            undo.enter_context(own)
            # A session of its own: Ctrl-C in a terminal reaches the primary alone, which ends the workers in order.
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", MODULE, str(others.fileno()), str(os.getpid())),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(others.fileno(), *sockets),
                start_new_session=True,
            )
            self._link = await Link.connect(own, self._heard, self._link_lost.set)
            undo.pop_all()  # the link has it now

    async def _until_ended(self) -> None:
        assert self._process is not None, "it was just started"
        exited = asyncio.ensure_future(self._process.wait())
        lost = asyncio.ensure_future(self._link_lost.wait())
        try:
            await asyncio.wait({exited, lost}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({exited}, timeout=EXIT_S)
        finally:
            exited.cancel()
            lost.cancel()
            await asyncio.gather(exited, lost, return_exceptions=True)

    def _heard(self, messages: list[Message]) -> None:
        self.heard_s = time.monotonic()
        self._received(self, messages)
