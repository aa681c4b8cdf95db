"""`websockets.broadcast` on uvloop: the way the library offers to send one message to many clients."""

from __future__ import annotations

import asyncio

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from tests.bench.fanout.programs.inlet import open_inlet

clients: set[ServerConnection] = set()


async def stay(client: ServerConnection) -> None:
    clients.add(client)
    try:
        await client.send("ready")
        await client.wait_closed()
    finally:
        clients.discard(client)


async def main() -> None:
    async with serve(stay, "127.0.0.1", 0, compression=None, backlog=1_024) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        await open_inlet(lambda line: broadcast(clients, line.decode()), port=port)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
