"""An idle client costs the relay little memory, and nothing of its handshake stays.

What asyncio and the sockets hold is left out: under the tests they are those of both ends, and of another event loop
than the relay's own. tests/bench/idle_memory.py measures all of it.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

from websockets.server import ServerProtocol

from pgcachewatch_daemon.relay import Relay
from tests.bench.idle_memory import MASKED_HELLO, REQUEST
from tests.postgres import Database
from tests.raw_client import QUIET, options, running
from tests.waiting import LIMIT_S

UNCOUNTED = 20
CLIENTS = 200
LIMIT_BYTES = 2_000  # 1,200 on Python 3.11
LEFT_OUT = ("*/asyncio/*", "*/selectors.py", "*/socket.py", "*/weakref.py", "*/tracemalloc.py", __file__)


async def test_an_idle_client_costs_less_than_its_bound(database: Database) -> None:
    async with running(options(database.dsn, QUIET)) as relay:
        with sockets() as clients:
            await connect(relay, clients, UNCOUNTED)
            before_bytes = 0
            tracemalloc.start()
            try:
                before_bytes = traced_bytes()
                await connect(relay, clients, CLIENTS)
                each_bytes = (traced_bytes() - before_bytes) / CLIENTS
            finally:
                tracemalloc.stop()
    assert 100 < each_bytes < LIMIT_BYTES


async def test_what_the_library_keeps_for_a_handshake_goes_with_the_upgrade_and_not_with_the_garbage(
    database: Database,
) -> None:
    async with running(options(database.dsn, QUIET)) as relay:
        with sockets() as clients:
            gc.collect()
            gc.disable()
            try:
                before = protocols()
                await connect(relay, clients, 5)
                assert protocols() == before
            finally:
                gc.enable()


def protocols() -> int:
    return sum(isinstance(each, ServerProtocol) for each in gc.get_objects())


def traced_bytes() -> int:
    gc.collect()
    filters = [tracemalloc.Filter(False, pattern) for pattern in LEFT_OUT]
    return sum(each.size for each in tracemalloc.take_snapshot().filter_traces(filters).statistics("filename"))


@contextmanager
def sockets() -> Iterator[list[socket.socket]]:
    clients: list[socket.socket] = []
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


async def connect(relay: Relay, clients: list[socket.socket], count: int) -> None:
    """So many more clients, each with one subscription and its welcome read."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(LIMIT_S):
        for _ in range(count):
            client = socket.socket()
            clients.append(client)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", relay.port))
            for said, awaited in ((REQUEST, b"\r\n\r\n"), (MASKED_HELLO, b'"mark"')):
                await loop.sock_sendall(client, said)
                seen = b""
                while awaited not in seen:
                    data = await loop.sock_recv(client, 65_536)
                    assert data, f"the relay hung up after {seen!r}"
                    seen += data
