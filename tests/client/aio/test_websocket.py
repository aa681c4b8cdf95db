"""The link over a real socket on loopback: refused handshakes, close codes, and peers that do not answer."""

from __future__ import annotations

import asyncio
import contextlib
import http
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol
from websockets.utils import accept_key

from pgcachewatch.aio.connection import LinkLost, LinkRefused
from pgcachewatch.aio.websocket import FRAMES_WAITING, endpoint, websocket_links
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.protocol.messages import RELAY_FRAME_BYTES, SUBPROTOCOL

Handler = Callable[[ServerConnection], Awaitable[None]]


class Inbox:
    """A Receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[str | bytes] = asyncio.Queue()
        self.batches = 0
        self.end: asyncio.Future[LinkLost] = asyncio.get_running_loop().create_future()

    def receive(self, frame: str | bytes) -> None:
        self.frames.put_nowait(frame)

    def receive_many(self, frames: Sequence[str | bytes]) -> None:
        self.batches += 1
        for frame in frames:
            self.frames.put_nowait(frame)

    def lost(self, how: LinkLost) -> None:
        assert not self.end.done(), "a link is lost once"
        self.end.set_result(how)


@contextlib.asynccontextmanager
async def relay(handler: Handler, **options: object) -> AsyncIterator[str]:
    """A server on a free port; yields its url."""
    options.setdefault("subprotocols", [Subprotocol(SUBPROTOCOL)])
    server: Server
    async with serve(handler, "127.0.0.1", 0, **options) as server:  # type: ignore[arg-type]  # options by keyword
        host, port = next(iter(server.sockets)).getsockname()
        yield f"ws://{host}:{port}"


async def echo(connection: ServerConnection) -> None:
    async for frame in connection:
        await connection.send(frame)


async def test_frames_go_both_ways_in_order() -> None:
    async with relay(echo) as url:
        inbox = Inbox()
        link = await websocket_links()(url, inbox)
        for number in range(100):
            link.send(str(number))
        assert [await inbox.frames.get() for _ in range(100)] == [str(number) for number in range(100)]
        await link.close(1000, "done")


async def test_a_frame_in_parts_arrives_whole_and_what_is_no_text_as_bytes() -> None:
    async def speak(connection: ServerConnection) -> None:
        await connection.send(["he", "l", "lo ü"])
        await connection.send(b"bin")
        await connection.send([b"b", b"in"])
        await connection.send("last")

    async with relay(speak) as url:
        inbox = Inbox()
        link = await websocket_links()(url, inbox)
        assert [await inbox.frames.get() for _ in range(4)] == ["hello ü", b"bin", b"bin", "last"]
        link.abort()


async def test_text_that_is_no_utf_8_arrives_as_the_bytes_it_is() -> None:
    async def speak(connection: ServerConnection) -> None:
        connection.protocol.send_text(b"\xff")
        connection.send_data()
        await connection.wait_closed()

    async with relay(speak) as url:
        inbox = Inbox()
        link = await websocket_links()(url, inbox)
        assert await inbox.frames.get() == b"\xff"
        link.abort()


async def test_frames_that_were_written_at_once_arrive_in_few_batches() -> None:
    count = 1_000

    async def speak(connection: ServerConnection) -> None:
        frames = [Frame(Opcode.TEXT, str(number).encode()).serialize(mask=False) for number in range(count)]
        connection.transport.write(b"".join(frames))
        await connection.wait_closed()

    async with relay(speak) as url:
        inbox = Inbox()
        link = await websocket_links()(url, inbox)
        assert [await inbox.frames.get() for _ in range(count)] == [str(number) for number in range(count)]
        assert inbox.batches <= count / 10
        link.abort()


async def answered(reader: asyncio.StreamReader) -> bytes:
    """The response to a handshake."""
    head = await reader.readuntil(b"\r\n\r\n")
    key = next(line for line in head.decode().splitlines() if line.lower().startswith("sec-websocket-key"))
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key.split(': ')[1])}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 5, 1_000])
async def test_frames_that_come_with_the_handshake_arrive_however_it_is_cut(piece_bytes: int) -> None:
    frames = [
        Frame(Opcode.TEXT, b"plain"),
        Frame(Opcode.PING, b"?"),
        Frame(Opcode.TEXT, b"pa", fin=False),
        Frame(Opcode.CONT, b"rts"),
        Frame(Opcode.TEXT, b"last"),
        Frame(Opcode.CLOSE, b"\x0f\xa0bye"),
        Frame(Opcode.TEXT, b"behind the end"),
    ]

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = await answered(reader) + b"".join(frame.serialize(mask=False) for frame in frames)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(stream), piece_bytes):
            writer.write(stream[at : at + piece_bytes])
            await asyncio.sleep(0)  # so that the other side reads in between; all of this holds if it does not
        writer.write_eof()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        inbox = Inbox()
        await websocket_links()(f"ws://127.0.0.1:{port}", inbox)

        assert await inbox.end == LinkLost(4000, "bye")
        assert [inbox.frames.get_nowait() for _ in range(inbox.frames.qsize())] == ["plain", "parts", "last"]


async def test_a_frame_beyond_the_limit_ends_the_link_behind_what_came_before_it() -> None:
    async def speak(connection: ServerConnection) -> None:
        await connection.send("before")
        await connection.send("x" * (RELAY_FRAME_BYTES + 1))
        await connection.wait_closed()

    async with relay(speak) as url:
        inbox = Inbox()
        await websocket_links()(url, inbox)

        assert "1009" in (await inbox.end).reason
        assert inbox.frames.get_nowait() == "before"
        assert inbox.frames.empty()


async def test_a_frame_of_the_greatest_size_arrives() -> None:
    async def speak(connection: ServerConnection) -> None:
        await connection.send("x" * RELAY_FRAME_BYTES)
        await connection.wait_closed()

    async with relay(speak) as url:
        inbox = Inbox()
        link = await websocket_links()(url, inbox)
        assert await inbox.frames.get() == "x" * RELAY_FRAME_BYTES
        link.abort()


async def test_close_code_and_reason_arrive() -> None:
    async def refuse(connection: ServerConnection) -> None:
        await connection.close(4303, "forbidden")

    async with relay(refuse) as url:
        inbox = Inbox()
        link = await websocket_links()(url, inbox)
        assert await inbox.end == LinkLost(4303, "forbidden")
        link.abort()


async def test_a_cut_connection_has_no_code() -> None:
    async def cut(connection: ServerConnection) -> None:
        connection.transport.abort()

    async with relay(cut) as url:
        inbox = Inbox()
        link = await websocket_links()(url, inbox)
        assert (await inbox.end).code is None
        link.abort()


async def test_an_aborted_link_delivers_nothing_more() -> None:
    async with relay(echo) as url:
        inbox = Inbox()
        link = await websocket_links()(url, inbox)
        link.send("hello")
        link.abort()
        await asyncio.sleep(0.05)
        assert inbox.frames.empty()
        assert not inbox.end.done()


async def test_closing_does_not_wait_for_a_peer_that_is_stuck() -> None:
    stuck = asyncio.Event()

    async def hang(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await stuck.wait()

    async with relay(hang, close_timeout=0.1) as url:
        link = await websocket_links()(url, Inbox())
        async with asyncio.timeout(5):
            await link.close(1000, "done")
        stuck.set()


async def test_a_relay_that_does_not_read_loses_the_link() -> None:
    stuck = asyncio.Event()

    async def hang(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await stuck.wait()

    async with relay(hang, close_timeout=0.1) as url:
        inbox = Inbox()
        link = await websocket_links()(url, inbox)
        frame = "x" * 65_536  # one object, however often it waits; the kernel takes a few megabytes of it
        for _ in range(FRAMES_WAITING + 1_000):
            link.send(frame)
        assert "does not read" in (await inbox.end).reason
        stuck.set()


async def test_a_refused_upgrade_tells_status_and_retry_after() -> None:
    def busy(connection: ServerConnection, request: Request) -> Response:
        return Response(503, "Service Unavailable", Headers({"Retry-After": "7"}), b"")

    async with relay(echo, process_request=busy) as url:
        with pytest.raises(LinkRefused) as caught:
            await websocket_links()(url, Inbox())
        assert (caught.value.status, caught.value.retry_after_s) == (503, 7.0)


async def test_a_redirect_to_another_host_is_not_followed_since_a_token_would_go_there() -> None:
    visitors: list[str] = []

    def note(connection: ServerConnection, request: Request) -> None:
        visitors.append(request.path)

    async with relay(echo, process_request=note) as stranger:

        def away(connection: ServerConnection, request: Request) -> Response:
            place = stranger if request.path.startswith("/same") else stranger.replace("127.0.0.1", "localhost")
            return Response(307, "Temporary Redirect", Headers({"Location": f"{place}/v1/ws"}), b"")

        async with relay(echo, process_request=away) as url:
            with pytest.raises(LinkRefused) as caught:
                await websocket_links()(url, Inbox())
            assert (caught.value.status, visitors) == (307, [])
            link = await websocket_links()(f"{url}/same", Inbox())
            await link.close(1000, "")
            assert visitors == ["/v1/ws"], "another port of the same host"


async def test_a_retry_after_that_is_a_date_is_not_used() -> None:
    def busy(connection: ServerConnection, request: Request) -> Response:
        response = connection.respond(http.HTTPStatus.TOO_MANY_REQUESTS, "")
        response.headers["Retry-After"] = "Wed, 21 Oct 2037 07:28:00 GMT"
        return response

    async with relay(echo, process_request=busy) as url:
        with pytest.raises(LinkRefused) as caught:
            await websocket_links()(url, Inbox())
        assert (caught.value.status, caught.value.retry_after_s) == (429, 0.0)


async def test_a_server_that_is_no_relay_is_refused() -> None:
    async with relay(echo, subprotocols=None) as url:
        with pytest.raises((LinkRefused, ConnectionError)):
            await websocket_links()(url, Inbox())


async def test_a_port_nobody_listens_on_is_an_os_error(unused_tcp_port: int) -> None:
    with pytest.raises(OSError, match=r".+"):
        await websocket_links()(f"ws://127.0.0.1:{unused_tcp_port}", Inbox())


async def test_the_path_of_the_protocol_is_asked_for() -> None:
    paths: list[str] = []

    def note(connection: ServerConnection, request: Request) -> None:
        paths.append(request.path)

    async with relay(echo, process_request=note) as url:
        for base in (url, f"{url}/", f"{url}/prefix", f"{url}/v1/ws"):
            link = await websocket_links()(base, Inbox())
            await link.close(1000, "")
    assert paths == ["/v1/ws", "/v1/ws", "/prefix/v1/ws", "/v1/ws"]


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8420", "http://a", "ws://", "ws://a/?token=secret", "wss://a#b", "postgresql://a"]
)
def test_urls_that_can_not_work_are_refused_without_showing_secrets(url: str) -> None:
    with pytest.raises(ConfigurationError, match="relay url") as caught:
        endpoint(url)
    assert "secret" not in str(caught.value)
