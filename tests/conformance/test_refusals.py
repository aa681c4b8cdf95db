"""Each refusal of PROTOCOL.md against a relay process: the exact code, and nobody else harmed.

Beside each refused client stands a neighbour, which must go on hearing events on its own connection.
"""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from websockets.exceptions import ConnectionClosed

from tests.conformance.hostile import Hostile
from tests.conformance.neighbour import Neighbour
from tests.postgres import Database
from tests.raw_client import Client, Message
from tests.relay_process import RelayProcess

UPGRADE = (
    "Host: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
OFFER = "Sec-WebSocket-Protocol: pgcachewatch.v1\r\n"
HOSTILE_FRAMES = 400
HELLO = '{"t":"hello","v":1,"subs":[{"t":"sub","id":1,"table":"users"}]}'


async def answer(relay: RelayProcess, request: str) -> str:
    """What the relay says to these very bytes, until it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    writer.write(request.encode("latin-1") + b"\r\n")
    try:
        return (await reader.read()).decode("latin-1")
    finally:
        writer.close()
        await writer.wait_closed()


def status(response: str) -> int:
    assert response.startswith("HTTP/1.1 "), response[:80]
    return int(response[9:12])


# --- before the upgrade


@pytest.mark.rule("W-TRANSPORT-2")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        *(("/page", 404), ("/nothing", 404), ("/v1", 404), ("/v1/ws/", 404), ("/V1/WS", 404), ("/v1/ws/../ws", 404)),
        *(("/pgpubsub", 404), ("/pgpubsub/", 404), ("/pgpubsub/%ff", 404)),
        *(("/pgpubsub/" + "x" * 64, 400), ("/pgpubsub/a%00b", 400)),
    ],
)
async def test_a_path_that_leads_nowhere_is_refused_before_the_upgrade(
    relay: RelayProcess, neighbour: Neighbour, path: str, expected: int
) -> None:
    assert status(await answer(relay, f"GET {path} HTTP/1.1\r\n{UPGRADE}{OFFER}")) == expected
    await neighbour.still_hears()


@pytest.mark.rule("W-TRANSPORT-2")
@pytest.mark.parametrize("path", ["/v1/ws", "/pgpubsub/ch", "/up", "/metrics"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_a_method_that_changes_things_is_405(
    relay: RelayProcess, neighbour: Neighbour, method: str, path: str
) -> None:
    assert status(await answer(relay, f"{method} {path} HTTP/1.1\r\n{UPGRADE}{OFFER}")) == 405
    await neighbour.still_hears()


@pytest.mark.rule("W-TRANSPORT-1")
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("Host: relay\r\n", 426),
        (UPGRADE, 400),
        (UPGRADE + "Sec-WebSocket-Protocol: graphql-ws\r\n", 400),
        (UPGRADE + "Sec-WebSocket-Protocol: pgcachewatch.v2, pgcachewatch.v10\r\n", 400),
        (UPGRADE.replace("Version: 13", "Version: 8") + OFFER, 400),
        (UPGRADE.replace("Key: A", "Kay: A") + OFFER, 400),
    ],
    ids=["plain request", "no subprotocol", "another", "other versions", "old websocket", "no key"],
)
async def test_an_upgrade_is_refused_unless_it_offers_the_subprotocol(
    relay: RelayProcess, neighbour: Neighbour, headers: str, expected: int
) -> None:
    assert status(await answer(relay, f"GET /v1/ws HTTP/1.1\r\n{headers}")) == expected
    await neighbour.still_hears()


@pytest.mark.rule("W-TRANSPORT-1")
async def test_an_upgrade_that_offers_it_among_others_is_given_this_one(relay: RelayProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    offer = "Sec-WebSocket-Protocol: graphql-ws, pgcachewatch.v1\r\n"
    writer.write(f"GET /v1/ws HTTP/1.1\r\n{UPGRADE}{offer}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert status(head) == 101
    assert "Sec-WebSocket-Protocol: pgcachewatch.v1\r\n" in head
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("request_text", "expected"),
    [
        ("\x16\x03\x01 hello", 400),
        ("GET /up HTTP/1.1\r\nno colon\r\n", 400),
        ("GET /" + "x" * 9_000 + " HTTP/1.1\r\n", 414),
        ("GET /up HTTP/1.1\r\nX: " + "x" * 9_000 + "\r\n", 431),
        ("GET /up HTTP/1.1\r\n" + "X: y\r\n" * 300, 431),
    ],
    ids=["tls", "header", "line", "long header", "many headers"],
)
async def test_what_is_no_request_is_refused_by_status(
    relay: RelayProcess, neighbour: Neighbour, request_text: str, expected: int
) -> None:
    assert status(await answer(relay, request_text)) == expected
    await neighbour.still_hears()


# --- frames that end the connection


async def ending(relay: RelayProcess, *frames: str | bytes) -> tuple[int, str, list[Message]]:
    """Say these; close code, reason, and what the relay said before it closed."""
    async with Client(relay) as client:
        for frame in frames:
            await client.socket.send(frame)
        with pytest.raises(ConnectionClosed) as caught:
            await client.until("something that is never said")
        close = caught.value.rcvd
        assert close is not None, "closed without a close frame"
        return close.code, close.reason, client.seen


SUB = '{"t":"sub","id":1}'
BAD_FRAMES: list[tuple[str, str | bytes]] = [
    ("W-FRAME-1", b"\x00\x01"),
    ("W-FRAME-1", HELLO.encode()),
    ("W-FRAME-1", ""),
    ("W-FRAME-1", "not json"),
    ("W-FRAME-1", HELLO[:-1]),
    ("W-FRAME-1", HELLO + "{"),
    ("W-FRAME-1", "[" * 20_000),
    ("W-FRAME-2", "null"),
    ("W-FRAME-2", '"hello"'),
    ("W-FRAME-2", "{}"),
    ("W-FRAME-2", '{"t":1}'),
    ("W-FRAME-2", f"[[{HELLO}]]"),
]


@pytest.mark.rule("W-FRAME-1")
@pytest.mark.rule("W-FRAME-2")
@pytest.mark.parametrize(("rule", "frame"), BAD_FRAMES, ids=[repr(frame)[:24] for _, frame in BAD_FRAMES])
@pytest.mark.parametrize("greeting", [(), (HELLO,)], ids=["first", "later"])
async def test_a_frame_that_is_no_message_closes_4300_and_names_the_rule(
    relay: RelayProcess, neighbour: Neighbour, rule: str, frame: str | bytes, greeting: tuple[str, ...]
) -> None:
    code, reason, said = await ending(relay, *greeting, frame)
    assert code == 4300
    assert reason.startswith(f"{rule}:")
    assert said[-1]["t"] == "err"
    assert said[-1]["code"] == "protocol"
    await neighbour.still_hears()


MALFORMED = {
    "v": '{"t":"hello","v":2}',
    "v quoted": '{"t":"hello","v":"1"}',
    "resume": '{"t":"hello","v":1,"resume":{"e":"AA","s":0}}',
    "sub without id": '{"t":"hello","v":1,"subs":[{"t":"sub"}]}',
    "sub of null": '{"t":"hello","v":1,"subs":[null]}',
    "channel of 64 bytes": '{"t":"hello","v":1,"subs":[{"t":"sub","id":1,"channel":"' + "x" * 64 + '"}]}',
    "same ids": f'{{"t":"hello","v":1,"subs":[{SUB},{SUB}]}}',
}


@pytest.mark.rule("W-FRAME-3")
@pytest.mark.rule("W-SUB-1")
@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_hello_closes_4300(relay: RelayProcess, neighbour: Neighbour, frame: str) -> None:
    code, reason, _ = await ending(relay, frame)
    assert code == 4300
    assert reason.startswith(("W-FRAME-3:", "W-SUB-1:"))
    await neighbour.still_hears()


@pytest.mark.rule("W-FRAME-3")
@pytest.mark.rule("W-ID-1")
@pytest.mark.parametrize(
    ("frame", "field"),
    [
        ('{"t":"ping"}', "id"),
        ('{"t":"ping","id":"1"}', "id"),
        ('{"t":"ping","id":-1}', "id"),
        ('{"t":"ping","id":1.0}', "id"),
        ('{"t":"ping","id":9007199254740992}', "id"),
        ('{"t":"ping","id":true}', "id"),
        ('{"t":"sub","id":2,"mode":"push"}', "mode"),
        ('{"t":"sub","id":2,"ops":["x"]}', "ops"),
        ('{"t":"sub","id":2,"keys":[5]}', "keys"),
        ('{"t":"sub","id":2,"table":""}', "table"),
        ('{"t":"auth","token":null}', "token"),
        ('{"t":"ack","s":-1}', "s"),
        ('{"t":"barrier","id":null}', "id"),
    ],
)
async def test_a_malformed_request_closes_4300_and_names_the_field(
    relay: RelayProcess, neighbour: Neighbour, frame: str, field: str
) -> None:
    code, reason, _ = await ending(relay, HELLO, frame)
    assert code == 4300
    assert reason.startswith("W-FRAME-3:")
    assert field in reason.partition(" at ")[2].partition(":")[0]
    await neighbour.still_hears()


@pytest.mark.rule("W-ORDER-1")
@pytest.mark.parametrize(
    "frames",
    [
        ('{"t":"ping","id":1}',),
        (SUB,),
        ('{"t":"unsub","id":1}',),
        ('{"t":"barrier","id":1}',),
        ('{"t":"auth","token":"x"}',),
        ('{"t":"ack","s":1}',),
        ('{"t":"dance"}',),
        (f"[{SUB},{HELLO}]",),
        (HELLO, HELLO),
        (f"[{HELLO},{HELLO}]",),
    ],
    ids=lambda frames: frames[-1][:16],
)
async def test_a_known_message_out_of_order_closes_4300(
    relay: RelayProcess, neighbour: Neighbour, frames: tuple[str, ...]
) -> None:
    code, reason, _ = await ending(relay, *frames)
    assert code == 4300
    assert reason.startswith("W-ORDER-1:")
    await neighbour.still_hears()


async def test_bytes_that_are_no_websocket_close_as_rfc_6455_says(relay: RelayProcess, neighbour: Neighbour) -> None:
    codes = []
    for data in (b"\x81\x02hi", b"\x83\x80\x00\x00\x00\x00", b"\x81\x82\x00\x00\x00\x00\xff\xfe"):
        async with Client(relay) as client:
            await client.hello()
            client.socket.transport.write(data)
            codes.append(await client.close_code())
    assert codes == [1002, 1002, 1007], "unmasked, reserved opcode, no UTF-8"
    await neighbour.still_hears()


# --- requests that are refused on a connection that stays


@pytest.mark.rule("W-FORWARD-2")
@pytest.mark.rule("W-SUB-1")
@pytest.mark.parametrize(
    ("frame", "code", "identity"),
    [
        ('{"t":"dance","id":7}', "unknown_message", 7),
        ('{"t":"dance"}', "unknown_message", None),
        ('{"t":"dance","id":-1}', "unknown_message", None),
        ('{"t":"dance","id":9007199254740992}', "unknown_message", None),
        ('{"t":"\\ud800","id":"x"}', "unknown_message", None),
        ('{"t":"welcome","e":"00000000000000aa","s":0}', "unknown_message", None),
        ('{"t":"sub","id":1,"table":"orders"}', "duplicate_id", 1),
        ('{"t":"unsub","id":9007199254740991}', "unknown_id", 9_007_199_254_740_991),
    ],
)
async def test_a_request_that_can_not_be_met_is_an_err_and_the_connection_goes_on(
    relay: RelayProcess, neighbour: Neighbour, frame: str, code: str, identity: int | None
) -> None:
    async with Client(relay) as client:
        await client.hello()
        await client.socket.send(f'[{frame},{{"t":"ping","id":2}}]')
        refusal = await client.until("err")
        assert (refusal["code"], refusal.get("id")) == (code, identity)
        await client.until("pong", id=2)
    await neighbour.still_hears()


@pytest.mark.rule("W-SUB-1")
@pytest.mark.rule("W-SUB-2")
async def test_an_id_is_free_again_after_its_unsub_and_a_sid_never(relay: RelayProcess, neighbour: Neighbour) -> None:
    async with Client(relay) as client:
        await client.hello({"t": "sub", "id": 1, "table": "users"})
        first = await client.until("subok", id=1)
        await client.say(t="unsub", id=1)
        await client.say(t="unsub", id=1)
        assert (await client.until("err"))["code"] == "unknown_id"
        await client.say(t="sub", id=1, table="users")
        assert (await client.until("subok", id=1))["sid"] > first["sid"]
    await neighbour.still_hears()


async def test_a_channel_the_server_can_not_hold_is_refused_by_name(watched: Database) -> None:
    """Asked of a database in another encoding, where this name has no spelling."""
    name = f"{watched.name}_latin1"
    connection = await asyncpg.connect(watched.dsn)
    try:
        await connection.execute(f"create database {name} template template0 encoding 'LATIN1' locale 'C'")
        with RelayProcess(watched.dsn.replace(watched.name, name), heartbeat_s="0.05") as relay:
            async with Client(relay) as client:
                await client.hello()
                await client.say(t="sub", id=2, channel="\u65e5\u672c")
                assert (await client.until("err", id=2))["code"] == "unusable_channel"
                await client.say(t="sub", id=3, channel="\u00fc")
                await client.until("subok", id=3)
                assert (await ending(relay, '{"t":"hello","v":1,"subs":[{"t":"sub","id":1,"channel":"\u65e5"}]}'))[
                    0
                ] == 4300
    finally:
        await connection.execute(f"drop database if exists {name} with (force)")
        await connection.close()


async def test_hostile_frames_over_a_socket_end_their_own_connection_at_most(
    relay: RelayProcess, neighbour: Neighbour
) -> None:
    hostile = Hostile(seed=6)
    requests = [{"t": "ping", "id": 1}, {"t": "sub", "id": 2, "table": "users"}, {"t": "barrier", "id": 3}]
    codes: list[int] = []
    for number in range(HOSTILE_FRAMES):
        frame = hostile.of(requests) if number % 2 else hostile.random_frame()
        async with Client(relay) as client:
            await client.hello()
            await client.socket.send(frame.encode("utf-8", "replace").decode() if isinstance(frame, str) else frame)
            await client.say(t="ping", id=9)
            try:
                await client.until("pong", id=9)
            except ConnectionClosed as error:
                codes.append(error.rcvd.code if error.rcvd is not None else 0)
        if number % 20 == 0:
            await neighbour.still_hears()
    assert set(codes) <= {4300, 4308}
    assert HOSTILE_FRAMES * 0.3 < len(codes) < HOSTILE_FRAMES


# --- tokens


@pytest.mark.rule("W-TOKEN-1")
async def test_a_token_in_the_query_is_neither_used_nor_written_down(watched: Database) -> None:
    secret = "a-token-nobody-may-see"
    with RelayProcess(watched.dsn, log_level="debug", heartbeat_s="0.05") as relay:
        assert status(await answer(relay, f"GET /v1/ws?token={secret} HTTP/1.1\r\n{UPGRADE}")) == 400
        assert status(await answer(relay, f"GET /nowhere?token={secret} HTTP/1.1\r\n{UPGRADE}")) == 400
        async with Client(relay) as client:
            await client.say(t="hello", v=1, token=secret)
            await client.until("welcome")
            await client.say(t="auth", token=secret)
            await client.say(t="ping", id=1)
            await client.until("pong", id=1)
        assert secret not in relay.log()
        assert secret not in relay.get("/metrics")[1]
