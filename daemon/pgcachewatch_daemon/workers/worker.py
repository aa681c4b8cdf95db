"""A worker process: from the link it has inherited to its end.

It ends when the primary tells it to drain, when it is signalled to, and when the link ends: then the primary has died
or has given this worker up, and what it knows grows stale. Its clients are told to come back, and find another worker
or the next relay; nothing goes on in silence. Ctrl-C in a terminal is the primary's business.

Bounds: LOST_GRACE_S from the end of the link to the end of the process; PRIMARY_SILENCE_S without a word of a primary
that asks each second, and the link is taken for lost.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Literal, cast

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.process import leave_a_trace, log_to_stderr, loop_factory
from pgcachewatch_daemon.workers.follower import FollowerRelay
from pgcachewatch_daemon.workers.link import Link
from pgcachewatch_daemon.workers.messages import Drain, FromPrimary, Hello, Here, Message, Reload, Serving, Start

LOST_GRACE_S = 1.0
ALARM_S = 5  # whole seconds
PRIMARY_SILENCE_S = 10.0
WATCH_S = 1.0
PR_SET_PDEATHSIG = 1

End = Literal["drain", "lost", "failed"]

logger = line_logger(__name__)


def main(descriptor: int, parent: int) -> int:
    """Serve until the end; returns the exit code: 0 after a drain that was asked for, else 1."""
    _tie_to(parent)
    leave_a_trace()
    log_to_stderr(logging.INFO)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(socket.socket(fileno=descriptor)))


async def _serve(end: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    worker = Worker(on_lost=_end_soon)
    loop.add_signal_handler(signal.SIGTERM, worker.leave, "drain")
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # whoever signals all processes means the primary
    return await worker.run(end)


class Worker:
    """One link, and the relay behind it once the primary has said what it is to be."""

    def __init__(self, *, on_lost: Callable[[], None] = lambda: None) -> None:
        self._on_lost = on_lost
        self._link: Link | None = None
        self._relay: FollowerRelay | None = None
        self._starting: asyncio.Task[None] | None = None
        self._told_reload: Reload | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._is_cut = asyncio.Event()
        self._is_lost = False
        self._is_over = False
        self._heard_s = 0.0
        self._watch: asyncio.TimerHandle | None = None

    async def run(self, end: socket.socket) -> int:
        """Until the end of the relay; returns the exit code."""
        self._link = await Link.connect(end, self._received, self._link_lost)
        self._link.say(Hello())
        why = await self._ended
        if self._watch is not None:
            self._watch.cancel()
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.gather(self._reloading, return_exceptions=True)
        if self._relay is not None:
            await self._leave(self._relay, why)
        self._is_over = True
        self._link.close()
        return 0 if why == "drain" else 1

    def leave(self, why: End) -> None:
        """Begin to end. A link that is lost while draining cuts the drain short."""
        if why == "lost" and not self._is_lost:
            self._is_lost = True
            self._on_lost()
            asyncio.get_running_loop().call_later(LOST_GRACE_S, self._is_cut.set)
        if not self._ended.done():
            self._ended.set_result(why)

    async def _leave(self, relay: FollowerRelay, why: End) -> None:
        if why == "lost":
            logger.warning("worker lost the primary, clients are sent elsewhere")
            relay.stop_listening()
        if why != "failed":
            draining = asyncio.create_task(relay.drain())
            cut = asyncio.create_task(self._is_cut.wait())
            await asyncio.wait({draining, cut}, return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
            cut.cancel()
            await asyncio.gather(draining, cut, return_exceptions=True)
        await relay.close()

    # --- the link

    def _link_lost(self) -> None:
        if not self._is_over:
            self.leave("lost")

    def _received(self, messages: list[Message]) -> None:
        self._heard_s = time.monotonic()
        for message in messages:
            self._told(cast(FromPrimary, message))

    def _told(self, message: FromPrimary) -> None:
        if isinstance(message, Start):
            log_to_stderr(message.log_level, worker=message.number, log_format=message.options.log_format)
            sockets = [socket.socket(fileno=each) for each in message.sockets]
            self._relay = FollowerRelay(message.options, self._say, sockets=sockets)
        elif isinstance(message, Drain):
            self.leave("drain")
        elif isinstance(message, Reload):
            assert self._relay is not None, "the first message is Start"
            logging.getLogger().setLevel(message.log_level)
            self._told_reload = message
            if self._reloading is None or self._reloading.done():
                self._reloading = asyncio.get_running_loop().create_task(self._reload(self._relay), name="reload")
        else:
            assert self._relay is not None, "the first message is Start"
            self._relay.told(message)
            if isinstance(message, Here):
                self._starting = asyncio.get_running_loop().create_task(self._start(self._relay))

    async def _reload(self, relay: FollowerRelay) -> None:
        """Go on with what was told last. Files are read beside the loop, as the primary's `reloading` does it."""
        while self._told_reload is not None:
            told, self._told_reload = self._told_reload, None
            try:
                take_over = await asyncio.to_thread(relay.prepare, told.options)
                take_over()
            except ConfigurationError as error:  # a file that was good a moment ago, when the primary looked at it
                logger.error("settings not reloaded, this worker goes on with those it has", problem=str(error))
            except Exception:  # the top of the task, as in the primary: else nobody would hear of it
                logger.exception(
                    "settings not reloaded, this worker goes on with those it has", problem="a fault of the relay's own"
                )

    async def _start(self, relay: FollowerRelay) -> None:
        try:
            await relay.start()
        except OSError as error:
            logger.error("worker can not listen", error=str(error))
            self.leave("failed")
            return
        self._say(Serving(relay.port))
        self._watch_primary()

    def _say(self, message: Message) -> None:
        if self._link is not None:
            self._link.say(message)

    def _watch_primary(self) -> None:
        if time.monotonic() - self._heard_s > PRIMARY_SILENCE_S:
            logger.error("primary silent", silent_s=PRIMARY_SILENCE_S)
            self.leave("lost")
        self._watch = asyncio.get_running_loop().call_later(WATCH_S, self._watch_primary)


def _tie_to(parent: int) -> None:
    """The link's end tells of the parent's death. On Linux the kernel tells too, should nobody read the link."""
    if sys.platform == "linux":
        # By signal.signal and not by the loop: this interrupts code that keeps the loop from running.
        signal.signal(signal.SIGUSR1, lambda number, frame: None if os.getppid() == parent else _end_soon())
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGUSR1), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)  # it died before the line above


def _end_soon() -> None:
    """Whatever happens, this process ends."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(ALARM_S)
