"""picows, one send for each event and client: the fastest WebSocket library for Python, used as it is meant."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import uvloop

from tests.bench.fanout.programs.inlet import open_inlet

# Any: it is no dependency of this project, so there are no types to check against.
picows: Any = importlib.import_module("picows")


class Client(picows.WSListener):  # type: ignore[misc]  # of Any, see above
    """One connection; `clients` holds the transports of those that are open."""

    clients: set[Any] = set()  # noqa: RUF012  # Any: picows' own transport; the one set of this program

    def on_ws_connected(self, transport: Any) -> None:
        self.clients.add(transport)
        transport.send(picows.WSMsgType.TEXT, b"ready")

    def on_ws_disconnected(self, transport: Any) -> None:
        self.clients.discard(transport)


def publish(line: bytes) -> None:
    for transport in Client.clients:
        transport.send(picows.WSMsgType.TEXT, line)


async def main() -> None:
    server = await picows.ws_create_server(lambda request: Client(), "127.0.0.1", 0)
    await open_inlet(publish, port=server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
