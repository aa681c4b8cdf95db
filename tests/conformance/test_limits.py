"""Each limit of PROTOCOL.md against a relay process, at the limit and one above it, and nobody else harmed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

import pgcachewatch
from pgcachewatch.protocol import codec, messages
from tests.conformance.neighbour import Neighbour
from tests.postgres import Database
from tests.raw_client import Client, notify, payload
from tests.relay_process import RelayProcess
from tests.waiting import eventually

WITHIN_S = 60.0
FRAME_BYTES = 65_536
SUBSCRIPTIONS = 1_000
KEY_BYTES = 1_024
RELAY_FRAME_BYTES = 1_048_576
EPOCH = "00000000000000aa"


def padded(message: str, size: int, filler: str = "x") -> str:
    """The same message in a frame of exactly this many bytes."""
    room = size - len(message) - len(',"pad":""')
    width = len(filler.encode())
    text = f'{message[:-1]},"pad":"{filler * (room // width)}{"x" * (room % width)}"}}'
    assert len(text.encode()) == size
    return text


# --- W-LIMIT-1: a frame a client sends


@pytest.mark.rule("W-LIMIT-1")
@pytest.mark.parametrize("filler", ["x", "ü"])
async def test_a_frame_of_65536_bytes_is_read_and_one_more_closes_4308(
    relay: RelayProcess, neighbour: Neighbour, filler: str
) -> None:
    async with Client(relay) as client:
        await client.hello()
        await client.socket.send(padded('{"t":"ping","id":1}', FRAME_BYTES, filler))
        await client.until("pong", id=1)
        await client.socket.send(padded('{"t":"ping","id":2}', FRAME_BYTES + 1, filler))
        assert await client.close_code() == 4308
        close = client.socket.protocol.close_rcvd
        assert close is not None
        assert close.reason.startswith("W-LIMIT-1")
    await neighbour.still_hears()


@pytest.mark.rule("W-LIMIT-1")
async def test_the_limit_holds_for_the_hello_and_for_a_frame_in_pieces(
    relay: RelayProcess, neighbour: Neighbour
) -> None:
    hello = '{"t":"hello","v":1}'
    async with Client(relay) as client:
        await client.socket.send(padded(hello, FRAME_BYTES))
        await client.until("welcome")
    async with Client(relay) as client:
        await client.socket.send(padded(hello, FRAME_BYTES + 1))
        assert await client.close_code() == 4308
    async with Client(relay) as client:
        whole = padded(hello, FRAME_BYTES)
        await client.socket.send([whole[:40_000], whole[40_000:]])
        await client.until("welcome")
        whole = padded('{"t":"ping","id":1}', FRAME_BYTES + 1)
        await client.socket.send([whole[:40_000], whole[40_000:]])
        assert await client.close_code() == 4308
    await neighbour.still_hears()


# --- W-LIMIT-2: a frame a relay sends


@pytest.mark.rule("W-LIMIT-2")
@pytest.mark.parametrize("mode", ["invalidate", "stream"])
async def test_an_event_that_would_pass_1_mib_says_everything_instead(watched: Database, mode: str) -> None:
    """6 KB that each of 600 subscriptions is to hear in full, and an outbox that would take all of it."""
    keys = [f"{number:0100d}" for number in range(60)]
    with RelayProcess(watched.dsn, outbox_bytes="16777216", heartbeat_s="0.05") as relay:
        async with Client(relay) as client, Neighbour(relay, watched) as neighbour:
            await neighbour.settle()
            await client.hello(*({"t": "sub", "id": number, "mode": mode} for number in range(600)))
            await notify(watched, payload("neighbours", *keys))
            assert (await client.until("ev"))["i"] == [[0, "*", None]]
            await neighbour.until("ev", i=[[1, "u", key] for key in keys])
            await neighbour.still_hears()


@pytest.mark.rule("W-LIMIT-2")
@pytest.mark.rule("W-SLOW-1")
async def test_an_event_that_passes_the_outbox_names_whole_subscriptions(
    relay: RelayProcess, watched: Database, neighbour: Neighbour
) -> None:
    async with Client(relay) as client:
        await client.hello(*({"t": "sub", "id": number} for number in range(100)))
        await client.until("subok", id=99)
        await notify(watched, payload("users", *(f"{number:0100d}" for number in range(60))))
        items = (await client.until("ev"))["i"]
        assert {sid for sid, _, _ in items} == set(range(1, 101)), "nothing is skipped"
        assert [1, "*", None] in items
    await neighbour.still_hears()


@asynccontextmanager
async def false_relay(*frames: str) -> AsyncIterator[str]:
    """A relay that welcomes, grants, and then says these; its url."""

    async def say(connection: ServerConnection) -> None:
        hello = json.loads(await connection.recv())
        await connection.send(
            codec.encode(messages.Welcome(e=EPOCH, s=0, resumed=False, now=1.0, hb_ms=500, node="false"))
        )
        for sub in hello["subs"]:
            await connection.send(codec.encode(messages.Subok(id=sub["id"], sid=sub["id"], s=0)))
        for frame in frames:
            await connection.send(frame)
        await connection.wait_closed()

    async with serve(say, "127.0.0.1", 0, subprotocols=[Subprotocol(messages.SUBPROTOCOL)]) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


@pytest.mark.rule("W-LIMIT-2")
async def test_a_client_reads_a_frame_of_1_mib_and_drops_a_relay_that_sends_more() -> None:
    fits = padded('{"t":"mark","p":0,"s":0,"as_of":1}', RELAY_FRAME_BYTES)
    async with asyncio.timeout(WITHIN_S):
        async with false_relay(fits) as url, pgcachewatch.connect(url) as client:
            await client.wait_live()
        async with false_relay(fits + " ") as url, pgcachewatch.connect(url) as client:
            await eventually(lambda: client.status.reconnects >= 1)
            assert client.status.state == "cold"


# --- W-LIMIT-3: subscriptions of a connection


@pytest.mark.rule("W-LIMIT-3")
async def test_the_1001st_subscription_is_an_err_and_the_other_1000_go_on(
    relay: RelayProcess, watched: Database, neighbour: Neighbour
) -> None:
    async with Client(relay) as client:
        subs = [{"t": "sub", "id": number, "table": f"t{number}"} for number in range(SUBSCRIPTIONS)]
        await client.hello(*subs)
        last = await client.until("subok", id=SUBSCRIPTIONS - 1)
        await client.say(t="sub", id=SUBSCRIPTIONS, table="one_more")
        refusal = await client.until("err", id=SUBSCRIPTIONS)
        assert refusal["code"] == "too_many_subscriptions"
        await notify(watched, payload(f"t{SUBSCRIPTIONS - 1}", "5"))
        await client.until("ev", i=[[last["sid"], "u", "5"]])
        await client.say(t="unsub", id=0)
        await client.say(t="sub", id=SUBSCRIPTIONS, table="one_more")
        await client.until("subok", id=SUBSCRIPTIONS)
    await neighbour.still_hears()


@pytest.mark.rule("W-LIMIT-3")
async def test_a_hello_with_1001_subscriptions_closes_4308(relay: RelayProcess, neighbour: Neighbour) -> None:
    async with Client(relay) as client:
        await client.say(t="hello", v=1, subs=[{"t": "sub", "id": number} for number in range(SUBSCRIPTIONS + 1)])
        assert await client.close_code() == 4308
    await neighbour.still_hears()


# --- W-LIMIT-4: a key


@pytest.mark.rule("W-LIMIT-4")
@pytest.mark.parametrize("filler", ["k", "ü"])
async def test_a_key_of_1024_bytes_is_subscribed_to_and_one_more_closes_4300(
    relay: RelayProcess, watched: Database, neighbour: Neighbour, filler: str
) -> None:
    fits = filler * (KEY_BYTES // len(filler.encode()))
    async with Client(relay) as client:
        await client.hello({"t": "sub", "id": 1, "table": "users", "keys": [fits]})
        await client.until("subok")
        await notify(watched, payload("users", fits))
        await client.until("ev", i=[[1, "u", fits]])
        await client.say(t="sub", id=2, table="users", keys=[fits + "k"])
        assert await client.close_code() == 4300
    async with Client(relay) as client:
        await client.say(t="hello", v=1, subs=[{"t": "sub", "id": 1, "keys": [fits + "k"]}])
        assert await client.close_code() == 4300
    await neighbour.still_hears()


@pytest.mark.rule("W-LIMIT-4")
async def test_an_event_with_a_longer_key_travels_with_key_null(relay: RelayProcess, watched: Database) -> None:
    async with Client(relay) as client:
        await client.hello({"t": "sub", "id": 1, "table": "users", "keys": ["another"]})
        await client.until("subok")
        await notify(watched, payload("users", "k" * (KEY_BYTES + 1)))
        await client.until("ev", i=[[1, "u", None]])


# --- W-LIMIT-5: time to the hello


@pytest.mark.rule("W-HELLO-1")
@pytest.mark.rule("W-LIMIT-5")
async def test_who_is_silent_after_the_upgrade_is_closed_4101_and_who_spoke_may_be_silent(watched: Database) -> None:
    with RelayProcess(watched.dsn, hello_timeout_s="0.3", heartbeat_s="0.05") as relay:
        async with Client(relay) as spoke, Client(relay) as silent:
            await spoke.hello()
            assert await silent.close_code() == 4101
            await spoke.say(t="ping", id=1)
            await spoke.until("pong", id=1)


# --- W-LIMIT-6: channels of a relay


@pytest.mark.rule("W-LIMIT-6")
async def test_one_channel_more_than_a_relay_may_listen_to_is_refused_on_each_way(watched: Database) -> None:
    with RelayProcess(watched.dsn, channels_limit="2", heartbeat_s="0.05") as relay:
        async with Neighbour(relay, watched) as neighbour, Client(relay) as client:
            await neighbour.settle()
            await client.hello()
            await client.say(t="sub", id=2, channel="second")
            await client.until("subok", id=2)
            await client.say(t="sub", id=3, channel="third")
            assert (await client.until("err", id=3))["code"] == "too_many_channels"
            async with Client(relay) as late:
                await late.say(t="hello", v=1, subs=[{"t": "sub", "id": 1, "channel": "third"}])
                assert await late.close_code() == 4308
            async with connect(relay.url + "/pgpubsub/second", proxy=None):
                pass
            await neighbour.still_hears()


# --- W-LIMIT-7: barriers in a second


@pytest.mark.rule("W-LIMIT-7")
async def test_a_client_whose_barriers_come_too_fast_waits_and_has_each_of_them(watched: Database) -> None:
    with RelayProcess(watched.dsn, barrier_rate="5", heartbeat_s="0.05") as relay:
        async with asyncio.timeout(WITHIN_S), pgcachewatch.connect(relay.url) as client, Client(relay) as raw:
            for _ in range(8):
                await client.barrier(timeout=WITHIN_S)
            await raw.hello()
            for identity in range(20):
                await raw.say(t="barrier", id=identity)
            refused = await raw.until("err", code="too_many_barriers")
            assert refused["retry"] is True
            assert 0 < refused["after_ms"] <= 200
            await raw.say(t="ping", id=1)
            await raw.until("pong", id=1)


# --- W-LIMIT-8: channels of a client


@pytest.mark.rule("W-LIMIT-8")
async def test_one_channel_more_than_a_client_may_have_is_refused_and_others_go_on(watched: Database) -> None:
    with RelayProcess(watched.dsn, client_channels_limit="2", heartbeat_s="0.05") as relay:
        async with Neighbour(relay, watched) as neighbour, Client(relay) as client, Client(relay) as late:
            await neighbour.settle()
            await client.hello({"t": "sub", "id": 1}, *({"t": "sub", "id": n, "channel": f"c{n}"} for n in (2, 3)))
            await client.say(t="sub", id=4, channel="one_more")
            assert (await client.until("err", id=4))["code"] == "too_many_channels"
            await client.say(t="unsub", id=2)
            await client.say(t="sub", id=4, channel="one_more")
            await client.until("subok", id=4)
            await late.say(t="hello", v=1, subs=[{"t": "sub", "id": n, "channel": f"c{n}"} for n in range(3)])
            assert await late.close_code() == 4308
            await neighbour.still_hears()


# --- limits of the relay alone


async def test_who_comes_when_too_many_begin_is_told_when_to_return_and_a_client_does(watched: Database) -> None:
    async def told(relay: RelayProcess) -> str:
        """When to return; nothing for who is let in."""
        try:
            async with Client(relay):
                return ""
        except InvalidStatus as refused:
            return f"{refused.response.status_code} {refused.response.headers['Retry-After']}"

    with RelayProcess(watched.dsn, handshake_rate="0.5", heartbeat_s="0.05") as relay:
        answers = await asyncio.gather(*(told(relay) for _ in range(8)))
        assert set(answers) - {""}, "at most one in two seconds is let in"
        assert set(answers) <= {"", "503 1", "503 2", "503 3", "503 4"}
        assert await asyncio.to_thread(relay.is_ready)
        async with pgcachewatch.connect(relay.url, open_timeout=WITHIN_S) as client:
            await client.wait_live(WITHIN_S)


@pytest.mark.skipif(sys.platform != "linux", reason="a second address of this machine is Linux's")
async def test_who_comes_too_often_from_one_address_keeps_no_other_out(watched: Database) -> None:
    async def told(address: str) -> int:
        try:
            async with Client(relay, local_addr=(address, 0)):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    with RelayProcess(watched.dsn, handshake_rate="16", heartbeat_s="0.05") as relay:
        flood = asyncio.gather(*(told("127.0.0.1") for _ in range(80)))
        others = [await told(f"127.0.0.{number}") for number in range(2, 4)]
        assert set(await flood) <= {101, 429}, "it is the flood that is refused, where anybody is"
        assert others == [101, 101]
