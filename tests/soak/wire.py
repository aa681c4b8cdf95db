"""A client that takes the protocol at its word: it keeps the chain, resumes, and hands on what it was told.

`listen` goes on over any number of connections. What breaks the protocol is kept in `breaks`; a client whose chain
broke comes back without a resume, as W-CHAIN-1 has it.

Bound: BREAKS_KEPT texts.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.checker.deaf import RECEIVE_BUFFER_BYTES
from tests.soak.crowd import LOST

BREAKS_KEPT = 20
PAUSE_S = (0.05, 1.0)
SLEEPS_AFTER_SHARE = 0.02  # of the frames
PING_EVERY_S = 10.0  # a link that swallows everything is left after twice this
OPEN_WITHIN_S = 10.0
REFUSED_FOR_GOOD = range(4300, 4400)

Message = dict[str, Any]  # JSON


@dataclass(slots=True)
class Wire:
    """`hear` is called with each item of an event, `lose` wherever something may be missing."""

    url: str
    subscription: Message
    hear: Callable[[list[Any]], None]
    lose: Callable[[], None]
    chance: random.Random
    sleeps_s: float = 0.0  # a slow reader reads nothing for up to so long, again and again
    epoch: str = ""
    cursor: int = 0
    connections: int = 0
    resumed: int = 0
    closes: Counter[int] = field(default_factory=Counter)
    breaks: list[str] = field(default_factory=list)

    async def listen(self) -> None:
        """For ever."""
        while True:
            try:
                await self._converse()
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd is not None else 1006
                self.closes[code] += 1
                if code in REFUSED_FOR_GOOD:
                    self._break(f"closed with {code}: {closed}")
            except LOST:
                self.closes[0] += 1
            await asyncio.sleep(self.chance.uniform(*PAUSE_S))

    async def _converse(self) -> None:
        async with connect(
            self.url + "/v1/ws",
            subprotocols=[Subprotocol("pgcachewatch.v1")],
            compression=None,
            proxy=None,
            open_timeout=OPEN_WITHIN_S,
            close_timeout=1.0,
            ping_interval=PING_EVERY_S,
            ping_timeout=PING_EVERY_S,
            max_queue=1 if self.sleeps_s else 16,
            sock=await self._small_socket() if self.sleeps_s else None,
        ) as websocket:
            await self._introduce(websocket)
            async for frame in websocket:
                message = json.loads(frame)
                for each in message if isinstance(message, list) else [message]:
                    self._take(each)
                if self.sleeps_s and self.chance.random() < SLEEPS_AFTER_SHARE:
                    await asyncio.sleep(self.chance.uniform(0, self.sleeps_s))

    async def _small_socket(self) -> socket.socket:
        """Connected, with a receive buffer as small as the system allows."""
        address = urlsplit(self.url)
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        small.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(small, (address.hostname, address.port))
        except BaseException:
            small.close()
            raise
        return small

    async def _introduce(self, websocket: ClientConnection) -> None:
        hello: Message = {"t": "hello", "v": 1, "subs": [self.subscription]}
        if self.epoch:
            hello["resume"] = {"e": self.epoch, "s": self.cursor}
        await websocket.send(json.dumps(hello))
        self.connections += 1

    def _take(self, message: Message) -> None:
        match message["t"]:
            case "welcome" if message["resumed"]:
                self.resumed += 1
            case "welcome" | "reset":
                self.epoch, self.cursor = message["e"], message["s"]
                self.lose()
            case "ev" | "mark":
                self._follow(message)
                for item in message.get("i", ()):
                    self.hear(item)
            case "err":
                self._break(f"refused: {message}")

    def _follow(self, message: Message) -> None:
        if message["p"] != self.cursor:
            self._break(f"the chain broke at cursor {self.cursor}: {str(message)[:200]}")
            self.epoch = ""
            raise EOFError("the chain broke")
        self.cursor = message["s"]

    def _break(self, what: str) -> None:
        if len(self.breaks) < BREAKS_KEPT:
            self.breaks.append(what)
