"""What the server ends by its clock, and how it ends itself."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.exceptions import ConnectionClosed

from pgcachewatch_daemon.io.websocket import SocketLimits, WebSocketServer
from tests.daemon.io.websocket.site import Echo, Site, closed, handshake, serving, status, v1
from tests.waiting import eventually

ANSWER = b"GET /answer HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_request_that_is_never_finished_times_out_with_408() -> None:
    async with serving(handshake_s=0.05) as site:
        answer = await site.raw(b"GET / HTTP/1.1\r\nX-Slow: lo")
        assert status(answer) == 408
        assert site.server.stats.refusals[408] == 1


async def test_above_the_handshakes_limit_the_oldest_silent_socket_goes() -> None:
    async with serving(handshakes_limit=2) as site:
        first_reader, first_writer = await asyncio.open_connection("127.0.0.1", site.server.port)
        await eventually(lambda: len(site.server.connections) == 1)
        others = [await asyncio.open_connection("127.0.0.1", site.server.port) for _ in range(2)]
        await eventually(lambda: first_reader.at_eof() or first_reader.exception() is not None)
        assert site.server.stats.evicted_handshakes == 1
        assert status(await site.raw(b"GET /answer HTTP/1.1\r\nHost: x\r\n\r\n")) == 200
        for writer in (first_writer, *(writer for _, writer in others)):
            writer.close()


async def test_a_hello_that_does_not_come_closes_4101() -> None:
    async with serving(close_s=0.05) as site:
        site.application.hello_s = 0.001
        async with v1(site.url) as client:
            assert (await closed(client))[0] == 4101


async def test_a_silent_client_is_pinged_and_stays() -> None:
    async with serving(ping_after_s=0.01, pong_s=5.0) as site, v1(site.url, ping_interval=None) as client:
        pings: list[bytes] = []
        original = client.protocol.recv_frame

        def spy(frame: object) -> None:
            pings.append(bytes(getattr(frame, "data", b"")))
            original(frame)  # type: ignore[arg-type]

        client.protocol.recv_frame = spy  # type: ignore[method-assign]
        await eventually(lambda: len(pings) >= 3)
        await client.send("x")
        assert await client.recv() == "x"


async def test_a_client_that_answers_no_ping_is_closed_4106() -> None:
    async with serving(ping_after_s=0.02, pong_s=0.02, close_s=0.05) as site:
        reader, writer = await handshake(site)
        await eventually(lambda: site.server.stats.disconnects[4106] == 1)
        data = await reader.read()
        assert struct.pack("!H", 4106) in data
        writer.close()


@pytest.mark.rule("W-SLOW-3")
async def test_a_client_that_takes_no_byte_is_cut_4102_and_the_others_go_on() -> None:
    async with serving(send_buffer_bytes=4_096, write_stall_s=0.1) as site:
        _, writer = await handshake(site, receive_buffer=4_096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection = site.application.connections[0]
        site.application.say(connection, "x" * 8_000_000)
        async with v1(site.url) as other:
            await eventually(lambda: site.server.stats.disconnects[4102] == 1)
            await other.send("x")
            assert await other.recv() == "x"
        assert site.server.stats.write_stalls == 1
        writer.close()


async def test_closing_the_server_ends_idle_connections_at_once(site: Site) -> None:
    async with v1(site.url) as client:
        assert not await site.server.until_empty(0.0)
        await site.server.close()
        with pytest.raises(ConnectionClosed):
            await client.recv()
    assert not site.server.connections


@asynccontextmanager
async def another(start: Callable[[WebSocketServer], Awaitable[None]]) -> AsyncIterator[Site]:
    """A server that is started in a way of the test's own."""
    loop = asyncio.get_running_loop()
    application = Echo(loop.time)
    server = WebSocketServer(application, SocketLimits(), clock=loop.time)
    await start(server)
    try:
        yield Site(server, application)
    finally:
        await server.close()


def beside(port: int) -> Callable[[WebSocketServer], Awaitable[None]]:
    return lambda server: server.start("127.0.0.1", port, reuse_port=True)


async def test_of_two_that_reuse_a_port_one_that_stops_listening_leaves_it_to_the_other() -> None:
    async with another(beside(0)) as first, another(beside(first.server.port)) as second:
        assert first.server.port == second.server.port
        first.server.stop_listening()
        for _ in range(20):  # the first would get half of them, if it still had its part
            assert status(await second.raw(ANSWER)) == 200
        assert second.server.stats.writes >= 20


async def test_a_port_that_is_not_to_be_shared_is_refused() -> None:
    async with another(beside(0)) as site:
        server = WebSocketServer(site.application, SocketLimits(), clock=asyncio.get_running_loop().time)
        with pytest.raises(OSError, match="in use"):
            await server.start("127.0.0.1", site.server.port)
        await server.close()


async def test_sockets_that_another_process_has_bound_are_accepted_from() -> None:
    with socket.socket() as bound, socket.socket() as other:
        for each in (bound, other):
            each.bind(("127.0.0.1", 0))
            each.listen()
        copies = [bound.dup(), other.dup()]
        async with another(lambda server: server.start_on(copies)) as site:
            for each in (bound, other):
                site.server.port = each.getsockname()[1]
                assert status(await site.raw(ANSWER)) == 200
