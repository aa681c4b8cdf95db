"""A client that hears of everything and does nothing with it: `python listener.py URL`."""

from __future__ import annotations

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.typing import Subprotocol


async def listen(url: str) -> None:
    """Until the connection ends."""
    async with connect(f"{url}/v1/ws", subprotocols=[Subprotocol("pgcachewatch.v1")], proxy=None) as socket:
        await socket.send('{"t":"hello","v":1,"subs":[{"t":"sub","id":1}]}')
        async for _ in socket:
            pass


if __name__ == "__main__":
    asyncio.run(listen(sys.argv[1]))
