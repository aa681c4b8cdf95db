"""All workers of a relay: started, watched, and replaced when they end.

Each place has a task that runs one worker after another. Bounds: a worker that has not begun to serve within START_S or
is silent for SILENCE_S is killed; replacements as in `restarts`, after which the relay has failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import assert_never

from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.workers.member import Member
from pgcachewatch_daemon.workers.messages import Ask, Drain, Message
from pgcachewatch_daemon.workers.restarts import Again, GiveUp, Restarts

START_S = 30.0
SILENCE_S = 10.0
WATCH_S = 1.0

logger = line_logger(__name__)


class WorkersFailed(Exception):
    """A worker ends each time it is started; the log has its last words."""


class Staff:
    """`received` hears each member's messages, `gone` of each member that has ended; `sockets` are inherited by all."""

    def __init__(
        self,
        size: int,
        *,
        received: Callable[[Member, list[Message]], None],
        gone: Callable[[Member], None],
        sockets: Sequence[int] = (),
    ) -> None:
        self.restarts = 0
        self._size = size
        self._received = received
        self._gone = gone
        self._sockets = sockets
        self._members: dict[int, Member] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._watch: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()  # somebody serves, or nobody will
        self.failure: WorkersFailed | None = None
        self.failed = asyncio.Event()

    @property
    def following(self) -> list[Member]:
        """Those who hear what is said to all."""
        return [member for member in self._members.values() if member.is_following]

    @property
    def serving(self) -> list[Member]:
        return [member for member in self._members.values() if member.is_serving]

    async def start(self) -> None:
        """Start all, and wait until each serves. Raises WorkersFailed."""
        loop = asyncio.get_running_loop()
        self._tasks = {loop.create_task(self._keep(number), name=f"worker {number}") for number in self._numbers()}
        self._look_after()
        while len(self.serving) < self._size:
            if self.failure is not None:
                raise self.failure
            self._changed.clear()
            await self._changed.wait()

    def began_to_serve(self, member: Member) -> None:
        member.serving_since_s = time.monotonic()
        logger.info("worker serving", worker=member.number, pid=member.pid)
        self._changed.set()

    async def drain(self, timeout_s: float) -> None:
        """Let each send its clients away and end; who has not within `timeout_s` is killed."""
        self._stopping.set()
        for member in self._members.values():
            if member.is_following:
                member.say(Drain())
            else:
                member.kill()
        await asyncio.wait(self._tasks, timeout=timeout_s)
        await self.close()

    async def close(self) -> None:
        """End all at once; nobody is left behind."""
        self._stopping.set()
        if self._watch is not None:
            self._watch.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _numbers(self) -> range:
        return range(1, self._size + 1)

    async def _keep(self, number: int) -> None:
        restarts = Restarts()
        while True:
            member = self._members[number] = Member(number, self._received)
            try:
                served_s = await self._run(member)
            finally:
                del self._members[number]
                self._gone(member)
            if self._stopping.is_set():
                return
            match restarts.ended(served_s=served_s):
                case Again(pause_s):
                    self.restarts += 1
                    logger.warning(
                        "worker ended, it is replaced",
                        worker=number,
                        code=member.exit_code,
                        served_s=round(served_s, 1),
                        pause_s=pause_s,
                    )
                    if await self._stops_within(pause_s):
                        return
                case GiveUp(tries):
                    self._fail(f"worker {number} ended {tries} times in a row soon after its start; see the log above")
                    return
                case other:
                    assert_never(other)

    async def _stops_within(self, pause_s: float) -> bool:
        try:
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _run(self, member: Member) -> float:
        try:
            return await member.run(self._sockets)
        except OSError as error:  # no process or descriptor left to have
            logger.error("worker can not be started", worker=member.number, error=str(error))
            return 0.0

    def _fail(self, text: str) -> None:
        self.failure = WorkersFailed(text)
        self.failed.set()
        self._changed.set()

    def _look_after(self) -> None:
        now_s = time.monotonic()
        for member in tuple(self._members.values()):
            if member.is_serving:
                member.say(Ask(0))
                if now_s - member.heard_s > SILENCE_S:
                    logger.error("worker silent, it is killed", worker=member.number, silent_s=SILENCE_S)
                    member.kill()
            elif member.serving_since_s is None and now_s - member.started_s > START_S:
                logger.error("worker does not begin to serve, it is killed", worker=member.number)
                member.kill()
        self._watch = asyncio.get_running_loop().call_later(WATCH_S, self._look_after)
