"""What the server ends by its clock, and how it ends itself."""

from __future__ import annotations

import asyncio
import struct

import pytest
from websockets.exceptions import ConnectionClosed

from tests.daemon.io.websocket.site import Site, closed, handshake, serving, status, v1
from tests.waiting import eventually


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
