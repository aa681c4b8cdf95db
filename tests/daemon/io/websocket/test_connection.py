"""One connection: refusals, limits, closes, and a slow reader that harms nobody."""

from __future__ import annotations

import asyncio
import logging

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from pgcachewatch_daemon.io.websocket import text_frame
from pgcachewatch_daemon.io.websocket.frames import close_frame, pong_frame
from tests.daemon.io.websocket.site import REQUEST, SUBPROTOCOL, Site, closed, handshake, serving, status, v1
from tests.waiting import eventually

OURS = "pgcachewatch_daemon"


async def test_an_answer_is_whole_and_closes(site: Site) -> None:
    answer = await site.raw(b"GET /answer HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status(answer) == 200
    assert answer.endswith(b"\r\n\r\nhello\n")
    assert b"Content-Length: 6" in answer
    assert b"Connection: close" in answer


async def test_a_head_request_gets_the_headers_only(site: Site) -> None:
    answer = await site.raw(b"HEAD /answer HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Content-Length: 6" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_a_client_that_half_closes_after_its_request_still_gets_the_answer(site: Site) -> None:
    answer = await site.raw(b"GET /answer HTTP/1.1\r\nHost: x\r\n\r\n", end=True)
    assert answer.endswith(b"hello\n")


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n", 400),
        (b"hello, is this the relay?\r\n\r\n", 400),
        (b"GET /answer HTTP/1.1\r\nno colon here\r\n\r\n", 400),
        (b"POST /answer HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody", 405),
        (b"PUT /answer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 405),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1_000 + b"\r\n", 431),
        (b"GET /v1 HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        (b"GET /plain HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
        (b"GET /plain HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 505),
    ],
    ids=["tls", "garbage", "header", "post", "put", "line", "long header", "many headers", "426", "no key", "505"],
)
async def test_what_is_no_sound_request_is_refused_by_status(
    site: Site, request_bytes: bytes, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await site.raw(request_bytes)
    assert status(answer) == expected
    assert site.server.stats.refusals[expected] == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_405_says_which_methods_are_right(site: Site) -> None:
    answer = await site.raw(b"POST /answer HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody")
    assert b"Allow: GET, HEAD" in answer


async def test_an_application_error_answers_500_and_the_server_goes_on(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await site.raw(b"GET /fail HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status(answer) == 500
    assert "planted" in caplog.text
    assert status(await site.raw(b"GET /answer HTTP/1.1\r\nHost: x\r\n\r\n")) == 200


async def test_codes_that_clients_make_up_are_counted_as_one(site: Site) -> None:
    for code in (4242, 3999, 4102):
        async with connect(site.url + "/plain", proxy=None) as client:
            await client.close(code)
            assert client.protocol.close_code == code, "the answer repeats it"
    await eventually(lambda: site.server.stats.disconnects == {3000: 3})


@pytest.mark.parametrize(
    ("code", "level", "why"), [(4000, "DEBUG", "relay drains"), (4103, "INFO", "stream queue full")]
)
async def test_each_line_about_a_connection_has_its_number(
    site: Site, caplog: pytest.LogCaptureFixture, code: int, level: str, why: str
) -> None:
    caplog.set_level(logging.DEBUG)
    async with connect(site.url + "/plain", proxy=None):
        (connection,) = site.server.connections
        connection.close(code, "test")
    told = [(each.levelname, each.getMessage()) for each in caplog.records if each.name.startswith(OURS)]
    assert told == [
        ("DEBUG", "client came conn=1 peer=127.0.0.1"),
        (level, f'client gone conn=1 peer=127.0.0.1 code={code} why="{why}"'),
    ]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/stranger", ("INFO", 'request refused conn=1 peer=127.0.0.1 status=403 why="not you"')),
        ("/v1?token=abc", ("DEBUG", "request refused conn=1 peer=127.0.0.1 status=426")),
    ],
)
async def test_who_may_not_come_in_is_told_with_the_reason_and_what_is_malformed_without(
    site: Site, caplog: pytest.LogCaptureFixture, path: str, told: tuple[str, str]
) -> None:
    caplog.set_level(logging.DEBUG)
    await site.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert [(each.levelname, each.getMessage()) for each in caplog.records if each.name.startswith(OURS)] == [told]


async def test_a_missing_or_wrong_subprotocol_is_400(site: Site) -> None:
    for subprotocols in (None, [Subprotocol("graphql-ws")]):
        with pytest.raises(InvalidStatus) as caught:
            await connect(site.url + "/v1", subprotocols=subprotocols, proxy=None)
        assert caught.value.response.status_code == 400
        assert caught.value.response.body is not None
        assert SUBPROTOCOL.encode() in caught.value.response.body


async def test_an_upgrade_may_be_answered_later(site: Site) -> None:
    pending = asyncio.create_task(_open(site.url + "/later"))
    await eventually(lambda: any(each.is_waiting for each in site.application.connections))
    connection = next(each for each in site.application.connections if each.is_waiting)
    assert connection.check_upgrade(None)
    connection.upgrade()
    client = await pending
    await client.send("x")
    assert await client.recv() == "x"
    await client.close()


async def _open(url: str) -> ClientConnection:
    return await connect(url, proxy=None)


async def test_a_client_that_leaves_during_the_handshake_is_noticed(site: Site) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
    writer.write(
        b"GET /later HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await eventually(lambda: len(site.application.connections) == 1)
    connection = site.application.connections[0]
    writer.transport.abort()
    await eventually(lambda: site.application.ended == [connection])
    connection.upgrade()  # too late, and harmless
    assert not connection.is_live


async def test_compression_is_declined(site: Site) -> None:
    async with v1(site.url, compression="deflate") as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers
        await client.send("x" * 1_000)
        assert await client.recv() == "x" * 1_000


async def test_fragments_are_joined_and_pings_are_answered(site: Site) -> None:
    async with v1(site.url) as client:
        await client.send(["a", "", "b", "ü"])
        assert await client.recv() == "abü"
        assert await (await client.ping()) >= 0


async def test_a_frame_at_the_limit_passes_and_one_byte_more_closes_4308(site: Site) -> None:
    async with v1(site.url) as client:
        await client.send("x" * 65_536)
        assert len(await client.recv()) == 65_536
        await client.send("x" * 65_537)
        assert await closed(client) == (4308, "frame limit: 65536 bytes")


async def test_fragments_over_the_limit_close_4308_as_well(site: Site) -> None:
    async with v1(site.url) as client:
        await client.send(["x" * 40_000, "y" * 25_537])
        assert (await closed(client))[0] == 4308


async def test_text_that_is_not_utf_8_closes_1007(site: Site) -> None:
    async with v1(site.url) as client:
        await client.send(b"\xff\xfe", text=True)
        assert (await closed(client))[0] == 1007


async def test_a_binary_message_reaches_the_application_as_bytes(site: Site) -> None:
    async with v1(site.url) as client:
        await client.send(b"\x00\x01")
        await client.send("done")
        await client.recv()
        assert site.application.received_frames == [b"\x00\x01", "done"]


async def test_an_unmasked_frame_closes_1002_and_prints_no_traceback(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async with v1(site.url) as client:
        client.transport.write(b"\x81\x01x")
        assert (await closed(client))[0] == 1002
    assert "Traceback" not in caplog.text


async def test_an_application_error_closes_4100_and_spares_the_others(site: Site) -> None:
    async with v1(site.url) as one, v1(site.url) as other:
        await one.send("fail")
        assert (await closed(one))[0] == 4100
        await other.send("still here")
        assert await other.recv() == "still here"


async def test_each_of_many_pings_in_a_row_is_answered(site: Site) -> None:
    frames = [Frame(Opcode.PING, bytes([number])) for number in range(100)] + [Frame(Opcode.CLOSE, b"\x03\xe8")]
    said = await spoken(site, b"".join(frame.serialize(mask=True) for frame in frames))
    assert said == b"".join(pong_frame(bytes([number])) for number in range(100)) + close_frame(1000)


async def spoken(site: Site, *parts: bytes) -> bytes:
    """Everything the server says to these bytes behind a handshake, until it hangs up."""
    reader, writer = await handshake(site)
    for part in parts:
        writer.write(part)
    said = await reader.read()
    writer.close()
    return said


async def test_answers_come_in_the_order_of_what_they_answer(site: Site) -> None:
    frames = (
        Frame(Opcode.TEXT, b"a", fin=False),
        Frame(Opcode.PING, b"between"),
        Frame(Opcode.CONT, b"b"),
        Frame(Opcode.PING, b"behind"),
        Frame(Opcode.CLOSE, b"\x03\xe8"),
    )
    said = await spoken(site, b"".join(frame.serialize(mask=True) for frame in frames))
    assert said == pong_frame(b"between") + text_frame("ab") + pong_frame(b"behind") + close_frame(1000)


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x0f\xa0bye"])
async def test_a_close_is_answered_with_its_own_code_and_what_follows_it_is_not_read(
    site: Site, payload: bytes
) -> None:
    close = Frame(Opcode.CLOSE, payload).serialize(mask=True)
    late = Frame(Opcode.TEXT, b"late").serialize(mask=True)
    assert await spoken(site, close + late) == Frame(Opcode.CLOSE, payload).serialize(mask=False)
    assert site.application.received_frames == []
    assert len(site.application.ended) == 1


async def test_much_at_once_is_handled_in_order_with_others_in_between(site: Site) -> None:
    many = [Frame(Opcode.TEXT, str(number).encode()).serialize(mask=True) for number in range(20_000)]
    async with v1(site.url) as other:
        reader, writer = await handshake(site)
        writer.write(b"".join(many) + Frame(Opcode.CLOSE, b"").serialize(mask=True))
        await other.send("other")
        assert await other.recv() == "other"
        said = await reader.read()
        assert said == b"".join(text_frame(str(number)) for number in range(20_000)) + close_frame(1005)
        writer.close()


async def test_who_goes_on_sending_after_its_refusal_is_cut() -> None:
    async with serving(close_s=3_600.0) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
        writer.write(b"nonsense\r\n\r\n")
        assert status(await reader.read()) == 400
        writer.write(b"x" * 1_000_000)
        await eventually(lambda: not site.server.connections)
        writer.transport.abort()


async def test_wrong_text_closes_1007_before_its_message_has_ended(site: Site) -> None:
    frame = Frame(Opcode.TEXT, b"\xff" + b"x" * 1_000).serialize(mask=True)
    said = await spoken(site, frame[:-500])
    assert said[2:4] == (1007).to_bytes(2)


async def test_frames_in_one_packet_with_the_request_are_read_after_the_upgrade(site: Site) -> None:
    frames = Frame(Opcode.TEXT, b"early").serialize(mask=True) + Frame(Opcode.CLOSE, b"").serialize(mask=True)
    answer = await site.raw(REQUEST + frames)
    assert status(answer) == 101
    assert answer.endswith(b"\r\n\r\n" + text_frame("early") + close_frame(1005))


async def test_frames_before_the_answer_are_400(site: Site) -> None:
    request = REQUEST.replace(b"/plain", b"/later")
    assert status(await site.raw(request + Frame(Opcode.TEXT, b"early").serialize(mask=True))) == 400
    assert status(await site.raw(request, b"\x81")) == 400


async def test_after_our_close_messages_are_not_read_and_the_peers_close_hangs_up(site: Site) -> None:
    reader, writer = await handshake(site)
    connection = site.application.connections[0]
    connection.close(4000, "drained")
    connection.close(4100, "once is enough")
    writer.write(Frame(Opcode.TEXT, b"late").serialize(mask=True) + Frame(Opcode.PING, b"late").serialize(mask=True))
    writer.write(Frame(Opcode.CLOSE, b"\x0f\xa0").serialize(mask=True))
    assert await reader.read() == close_frame(4000, "drained")
    assert site.application.received_frames == []
    assert site.server.stats.disconnects == {4000: 1}
    writer.close()


async def test_a_clean_close_is_counted_by_its_code(site: Site) -> None:
    async with v1(site.url) as client:
        await client.close(1001, "going")
    await eventually(lambda: site.server.stats.disconnects[1001] == 1)
    assert len(site.application.ended) == 1


async def test_a_lost_socket_is_counted_as_1006_and_told_once(site: Site) -> None:
    async with v1(site.url) as client:
        client.transport.abort()
    await eventually(lambda: site.server.stats.disconnects[1006] == 1)
    assert len(site.application.ended) == 1


async def test_a_full_socket_leaves_the_rest_in_the_outbox_until_there_is_room() -> None:
    async with serving(send_buffer_bytes=4_096) as site:
        reader, writer = await handshake(site, receive_buffer=4_096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a read transport
        connection = site.application.connections[0]
        application = site.application
        frame = text_frame("x" * 10_000)
        sent = 0
        while not application.backlog:
            application.say(connection, "x" * 10_000)
            sent += 1
            await asyncio.sleep(0)
        assert connection.is_full
        assert application.fills == 1
        assert len(application.backlog) == 1, "a full socket takes nothing more"
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        received = 0
        while received < sent * len(frame):
            received += len(await reader.read(65_536))
        await eventually(lambda: not connection.is_full and not application.backlog)
        assert application.drains >= 1
        writer.close()


async def test_a_client_that_floods_pings_and_reads_nothing_holds_no_memory_here() -> None:
    async with serving(send_buffer_bytes=4_096, write_stall_s=0.1) as site:
        _, writer = await handshake(site, receive_buffer=4_096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        ping = b"\x89\xfd\x00\x00\x00\x00" + b"p" * 125
        transport = site.application.connections[0]._transport
        assert transport is not None
        most = 0
        while site.server.stats.disconnects[4102] == 0 and not writer.is_closing():
            if writer.transport.get_write_buffer_size() == 0:
                writer.write(ping * 100)
            most = max(most, transport.get_write_buffer_size())
            await asyncio.sleep(0)
        assert most < 1_000_000
        writer.close()
