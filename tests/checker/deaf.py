"""A client that asks for every event and never reads one.

Its receive buffer is as small as the system allows, so what is sent to it soon waits in the relay. After the handshake
it speaks as little as it takes to be sent something.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from pgcachewatch.protocol import messages
from pgcachewatch.protocol.client_session import ClientSession
from tests.checker.plan import CHANNEL, TABLE

SUBPROTOCOL = Subprotocol("pgcachewatch.v1")
RECEIVE_BUFFER_BYTES = 4_096


@asynccontextmanager
async def stay_deaf(port: int, *, is_original: bool) -> AsyncIterator[None]:
    """Connected and subscribed inside; gone without a word afterwards. Raises OSError when nobody listens on `port`."""
    path = f"/pgpubsub/{CHANNEL}" if is_original else "/v1/ws"
    protocol = ClientProtocol(
        parse_uri(f"ws://127.0.0.1:{port}{path}"), subprotocols=None if is_original else [SUBPROTOCOL]
    )
    protocol.send_request(protocol.connect())
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, b"".join(protocol.data_to_send()))
        if not is_original:
            answer = await loop.sock_recv(connection, RECEIVE_BUFFER_BYTES)
            protocol.receive_data(answer)
            if protocol.state is not State.OPEN:
                raise ConnectionError(f"the relay refused the handshake: {answer[:80]!r}")
            subscription = messages.Sub(id=1, table=TABLE)
            hello = ClientSession(subscriptions=[subscription]).hello(now_s=loop.time())
            protocol.send_text(hello.encode())
            await loop.sock_sendall(connection, b"".join(protocol.data_to_send()))
        yield
