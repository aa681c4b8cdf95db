"""A relay without everything that makes it one: bytes in, NOTIFY, bytes out. No WebSocket, no JSON, no session, no log.

    python tests/bench/bare_relay.py DSN

Prints its port. It shows what a hop through another process costs before a relay does any work.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import asyncpg
import uvloop

CHANNEL = "bench_bare"


class Bare(asyncio.Protocol):
    """One connection: each read asks for one notification."""

    def __init__(self, asked: asyncio.Queue[asyncio.Transport]) -> None:
        self._asked = asked
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._asked.put_nowait(self._transport)


async def serve(dsn: str) -> None:
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    asked: asyncio.Queue[asyncio.Transport] = asyncio.Queue()
    waiting: list[asyncio.Transport] = []
    await connection.add_listener(CHANNEL, lambda *_: waiting.pop().write(b"."))
    server = await asyncio.get_running_loop().create_server(lambda: Bare(asked), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        waiting.append(await asked.get())
        await connection.execute(f"NOTIFY {CHANNEL}, 'x'")


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
