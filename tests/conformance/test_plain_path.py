"""The plain path of a relay process: raw payloads, in order, from the very first one, and a loss that can be seen."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.conformance.neighbour import Neighbour
from tests.postgres import Database
from tests.proxy import Proxy, port_of, through
from tests.raw_client import Client, kill_listener, notify
from tests.relay_process import RelayProcess
from tests.waiting import LIMIT_S, eventually


@pytest.mark.rule("W-PLAIN-5")
async def test_the_handshake_announces_the_protocol_on_this_path_alone(relay: RelayProcess) -> None:
    async with connect(relay.url + "/pgpubsub/ch", proxy=None) as plain, Client(relay) as client:
        for socket, announced in ((plain, "pgcachewatch.v1"), (client.socket, None)):
            assert socket.response is not None
            assert socket.response.headers.get("PGCacheWatch-Protocol") == announced


@pytest.mark.rule("W-PLAIN-1")
async def test_each_payload_of_the_channel_arrives_as_it_is_and_in_order(
    relay: RelayProcess, watched: Database
) -> None:
    payloads = ["not json", "{}", "ü\u2028", "x" * 7_000, "", "last"]
    async with asyncio.timeout(LIMIT_S), connect(relay.url + "/pgpubsub/ch%20%C3%BC", proxy=None) as client:
        assert client.subprotocol is None
        for payload in payloads:
            await notify(watched, payload, "ch ü")
            await notify(watched, "of another channel", "ch")
        assert [await client.recv() for _ in payloads] == payloads


@pytest.mark.rule("W-PLAIN-2")
async def test_what_is_notified_right_after_the_handshake_arrives_each_time(
    relay: RelayProcess, watched: Database
) -> None:
    connection = await asyncpg.connect(watched.dsn)
    try:
        async with asyncio.timeout(LIMIT_S):
            for number in range(100):
                async with connect(f"{relay.url}/pgpubsub/fresh_{number}", proxy=None) as client:
                    await connection.execute("SELECT pg_notify($1, $2)", f"fresh_{number}", str(number))
                    assert await client.recv() == str(number)
    finally:
        await connection.close()


@pytest.mark.rule("W-PLAIN-2")
@pytest.mark.rule("W-SUB-5")
async def test_no_handshake_and_no_subok_before_postgresql_has_answered_the_listen(database: Database) -> None:
    async with asyncio.timeout(LIMIT_S), Proxy("127.0.0.1", port_of(database.dsn)) as proxy:
        dsn = through(proxy, database.dsn)
        async with RelayProcess(dsn, heartbeat_s="60", loopback_overdue_s="60") as relay, Client(relay) as client:
            await client.hello()
            await client.until("subok", id=1)
            proxy.stall("down")
            handshake = asyncio.create_task(_open(f"{relay.url}/pgpubsub/fresh"))
            await client.say(t="sub", id=2, channel="fresh")
            await client.say(t="ping", id=3)
            await client.until("pong", id=3)
            assert not handshake.done()
            assert not [message for message in client.seen if message.get("id") == 2]
            proxy.forward()
            await client.until("subok", id=2)
            plain = await handshake
            await notify(database, "after", "fresh")
            assert await plain.recv() == "after"
            await plain.close()


async def _open(url: str) -> ClientConnection:
    return await connect(url, proxy=None)


@pytest.mark.rule("W-PLAIN-3")
async def test_a_gap_closes_1012_and_the_next_connection_hears_again(database: Database) -> None:
    with RelayProcess(database.dsn, heartbeat_s="0.05", reconnect_min_s="0.01") as relay:
        async with asyncio.timeout(LIMIT_S):
            async with connect(relay.url + "/pgpubsub/ch", proxy=None) as client:
                await kill_listener(database)
                await client.wait_closed()
                assert client.protocol.close_code == 1012
            await eventually(relay.is_ready)
            async with connect(relay.url + "/pgpubsub/ch", proxy=None) as client:
                await notify(database, "again", "ch")
                assert await client.recv() == "again"


@pytest.mark.rule("W-PLAIN-4")
async def test_up_answers_200_while_ready_and_503_otherwise(database: Database) -> None:
    async with Proxy("127.0.0.1", port_of(database.dsn)) as proxy:
        dsn = through(proxy, database.dsn)
        settings = {"loopback_overdue_s": "0.2", "connect_timeout_s": "0.5", "reconnect_max_s": "0.1"}
        async with RelayProcess(dsn, port=0, idle_heartbeat_s="0.05", **settings) as relay:
            assert (await asyncio.to_thread(relay.get, "/up"))[0] == 200
            proxy.black_hole()
            await eventually(lambda: _answers(relay, 503))
            proxy.forward()
            await eventually(lambda: _answers(relay, 200))


async def _answers(relay: RelayProcess, status: int) -> bool:
    return (await asyncio.to_thread(relay.get, "/up"))[0] == status


@pytest.mark.rule("W-TRANSPORT-2")
async def test_without_postgresql_each_way_in_is_503_with_retry_after(unused_tcp_port: int) -> None:
    relay = RelayProcess(f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/none", reconnect_max_s="0.1")
    relay.start()
    try:
        await eventually(lambda: relay.get("/livez")[0] == 200)
        for path in ("/v1/ws", "/pgpubsub/ch"):
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                "Sec-WebSocket-Protocol: pgcachewatch.v1\r\n\r\n".encode()
            )
            answer = (await reader.read()).decode()
            assert answer.startswith("HTTP/1.1 503 ")
            assert "\r\nRetry-After: 1\r\n" in answer
            writer.close()
            await writer.wait_closed()
    finally:
        relay.__exit__(None, None, None)


async def test_what_a_plain_client_says_harms_nobody(relay: RelayProcess, neighbour: Neighbour) -> None:
    async with asyncio.timeout(LIMIT_S), connect(relay.url + "/pgpubsub/ch", proxy=None) as client:
        for frame in (json.dumps({"t": "hello", "v": 1}), b"\x00", "x" * 60_000):
            await client.send(frame)
        await (await client.ping())
        await neighbour.still_hears()
