"""A process of those who come, do as they like, and go: `python -m tests.soak.strangers TASK`, `per_s` of them.

Visitors that subscribe to anything, ask for barriers and leave with or without a word; senders of garbage; sockets
that never say what they want; upgrades without a hello; subscribers that never read. Nothing here is asserted: what
counts is what they leave behind in the relay, which is nothing.

Bound: `size` at one time; who would be one more does not come.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.checker.deaf import stay_deaf
from tests.checker.plan import from_argument
from tests.conformance.hostile import Hostile
from tests.soak.crowd import LOST, Report, take_part
from tests.soak.plan import TAPES, CrowdTask, tape_channel, tape_table

NAMES = 2_000  # of tables that nobody writes
CHANNELS = 200  # that nobody notifies
PATIENCE_S = 3.0
HALF_OPEN_S = (1.0, 30.0)
DEAF_S = (1.0, 20.0)
NO_HELLO_S = (1.0, 15.0)
HELLO = '{"t":"hello","v":1,"subs":[{"t":"sub","id":1}]}'
REQUESTS = (
    b"",
    b"GET /v1/ws HTTP/1.1\r\n",
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 5_000,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x00" * 300,
    b"GET /pgpubsub/" + b"%00%0a" * 50 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
)


class Strangers:
    """Who is there, and who came."""

    def __init__(self, task: CrowdTask) -> None:
        self.came: Counter[str] = Counter()
        self._task = task
        self._chance = random.Random(task.seed)
        self._port = urlsplit(task.url).port or 0
        self._kinds: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "visitor": (10, self._visit),
            "plain visitor": (3, self._visit_plainly),
            "garbage": (4, self._send_garbage),
            "half open": (3, self._stay_half_open),
            "no hello": (1, self._say_no_hello),
            "deaf": (1, self._stay_deaf),
        }

    async def come(self) -> None:
        """For ever."""
        names = list(self._kinds)
        weights = [weight for weight, _ in self._kinds.values()]
        there: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(self._chance.expovariate(self._task.per_s))
                (name,) = self._chance.choices(names, weights)
                if len(there) < self._task.size:
                    task = group.create_task(self._try(name))
                    there.add(task)
                    task.add_done_callback(there.discard)

    async def _try(self, name: str) -> None:
        try:
            await self._kinds[name][1]()
        except LOST:
            self.came[f"{name}, sent away"] += 1
        else:
            self.came[name] += 1

    def _websocket(self, path: str = "/v1/ws") -> connect:
        subprotocols = [Subprotocol("pgcachewatch.v1")] if path == "/v1/ws" else None
        return connect(
            self._task.url + path, subprotocols=subprotocols, proxy=None, compression=None, close_timeout=1.0
        )

    async def _visit(self) -> None:
        chance = self._chance
        async with self._websocket() as visitor:
            subscriptions = [self._subscription(number) for number in range(chance.randrange(1, 8))]
            await visitor.send(json.dumps({"t": "hello", "v": 1, "name": "ü" * 9, "subs": subscriptions}))
            for number in range(100, 100 + chance.randrange(6)):
                await visitor.send(json.dumps(self._wish(number)))
                await self._read_for(visitor, chance.random())
            self._leave(visitor)

    def _subscription(self, number: int) -> dict[str, object]:
        chance = self._chance
        tape = chance.randrange(TAPES)
        wanted: dict[str, object] = {"t": "sub", "id": number, "mode": chance.choice(("stream", "invalidate"))}
        if chance.random() < 0.3:
            return wanted | {"channel": tape_channel(tape), "table": tape_table(tape)}
        if chance.random() < 0.3:
            wanted["channel"] = f"nobody_{chance.randrange(CHANNELS)}"
        return wanted | {"table": f"table_{chance.randrange(NAMES)}", "keys": [str(chance.randrange(10**9))]}

    def _wish(self, number: int) -> dict[str, object]:
        match self._chance.randrange(4):
            case 0:
                return {"t": "barrier", "id": number}
            case 1:
                return {"t": "unsub", "id": self._chance.randrange(8)}
            case 2:
                return {"t": "ping", "id": number}
            case _:
                return self._subscription(number)

    async def _visit_plainly(self) -> None:
        channel = self._chance.choice((tape_channel(0), f"nobody_{self._chance.randrange(CHANNELS)}"))
        async with self._websocket(f"/pgpubsub/{channel}") as visitor:
            await self._read_for(visitor, self._chance.random() * PATIENCE_S)
            self._leave(visitor)

    async def _read_for(self, visitor: ClientConnection, time_s: float) -> None:
        try:
            async with asyncio.timeout(time_s):
                async for _ in visitor:
                    pass
        except TimeoutError:
            pass

    def _leave(self, visitor: ClientConnection) -> None:
        if self._chance.random() < 0.5:
            visitor.transport.abort()

    async def _send_garbage(self) -> None:
        hostile = Hostile(self._chance.randrange(10**9))
        valid = [json.loads(HELLO), self._subscription(1), self._wish(2)]
        async with self._websocket() as visitor:
            if self._chance.random() < 0.7:
                await visitor.send(HELLO)
            for _ in range(self._chance.randrange(1, 5)):
                frame = hostile.random_frame() if self._chance.random() < 0.3 else hostile.of(valid)
                await visitor.send(frame.encode(errors="replace") if isinstance(frame, str) else frame, text=True)
            await self._read_for(visitor, PATIENCE_S)

    async def _stay_half_open(self) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(self._chance.choice(REQUESTS))
            await asyncio.sleep(self._chance.uniform(*HALF_OPEN_S))
        finally:
            writer.transport.abort()

    async def _say_no_hello(self) -> None:
        async with self._websocket() as visitor:
            await self._read_for(visitor, self._chance.uniform(*NO_HELLO_S))

    async def _stay_deaf(self) -> None:
        async with stay_deaf(self._port, is_original=False):
            await asyncio.sleep(self._chance.uniform(*DEAF_S))


async def main(task: CrowdTask) -> None:
    """Come and go until the soak says stop."""
    strangers = Strangers(task)

    def report() -> Report:
        return {"came": strangers.came}

    await take_part(task.directory, task.name, [strangers.come()], report)


if __name__ == "__main__":
    asyncio.run(main(from_argument(CrowdTask, sys.argv[1])))
