"""What a client is told on each path, and when it is turned away; with a real PostgreSQL behind."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from pgcachewatch_daemon.core.admission import AdmissionLimits
from pgcachewatch_daemon.core.loopback import LoopbackLimits
from pgcachewatch_daemon.io.websocket import SocketLimits
from pgcachewatch_daemon.relay import Relay
from tests.postgres import Database
from tests.proxy import Proxy, port_of, through
from tests.raw_client import (
    CHANNEL,
    QUIET,
    SOURCE,
    Client,
    Message,
    get,
    kill_listener,
    legacy_connect,
    notify,
    options,
    payload,
    refused,
    running,
)
from tests.waiting import eventually


@pytest.fixture
async def relay(database: Database) -> AsyncIterator[Relay]:
    async with running(options(database.dsn)) as relay:
        yield relay


# --- the protocol


@pytest.mark.rule("W-ORDER-1")
async def test_a_hello_is_answered_by_welcome_subok_and_a_proof(relay: Relay) -> None:
    async with Client(relay) as client:
        welcome = await client.hello({"t": "sub", "id": 5, "table": "users"}, {"t": "sub", "id": 6, "channel": "other"})
        assert (welcome["resumed"], welcome["node"]) == (False, "test")
        assert (await client.next())["id"] == 5
        assert (await client.next())["id"] == 6
        mark = await client.until("mark")
        while "as_of" not in mark:
            mark = await client.until("mark")
        assert mark["as_of"] > 0


@pytest.mark.rule("W-CHAIN-1")
@pytest.mark.rule("W-CHAIN-2")
@pytest.mark.rule("W-SUB-4")
async def test_an_event_reaches_whoever_subscribed_to_it_and_nobody_else(relay: Relay, database: Database) -> None:
    async with Client(relay) as users, Client(relay) as orders:
        await users.hello({"t": "sub", "id": 1, "table": "users"})
        await orders.hello({"t": "sub", "id": 1, "table": "orders"})
        await notify(database, payload("users", "7"))
        event = await users.until("ev")
        assert event["i"] == [[1, "u", "7"]]
        await orders.until("mark", s=event["s"])
        assert [message for message in orders.seen if message["t"] == "ev"] == []


@pytest.mark.rule("W-EV-5")
async def test_an_unreadable_notification_reaches_every_subscription_of_its_channel(
    relay: Relay, database: Database
) -> None:
    async with Client(relay) as client:
        await client.hello({"t": "sub", "id": 1, "table": "users"})
        await notify(database, "not json")
        assert (await client.until("ev"))["i"] == [[1, "*", None]]


@pytest.mark.rule("W-SUB-5")
async def test_a_subscription_added_later_is_live_from_its_subok(relay: Relay, database: Database) -> None:
    async with Client(relay) as client:
        await client.hello()
        await client.say(t="sub", id=9, channel="later", table="users")
        subok = await client.until("subok", id=9)
        await notify(database, payload("users", "1"), "later")
        event = await client.until("ev")
        assert event["i"] == [[subok["sid"], "u", "1"]]
        await client.say(t="unsub", id=9)
        await client.say(t="ping", id=1)
        await client.until("pong", id=1)
        await notify(database, payload("users", "2"), "later")
        await notify(database, payload("users", "3"))
        assert (await client.until("ev"))["i"][0][2] == "3"


@pytest.mark.rule("W-FORWARD-2")
async def test_an_unknown_message_is_an_error_and_the_connection_stays(relay: Relay) -> None:
    async with Client(relay) as client:
        await client.hello()
        await client.say(t="nonsense", id=3)
        assert (await client.until("err"))["code"] == "unknown_message"
        await client.say(t="ping", id=4)
        await client.until("pong", id=4)


@pytest.mark.rule("W-BARRIER-1")
async def test_a_barrier_passes_behind_the_event_committed_before_it(database: Database) -> None:
    async with running(options(database.dsn, QUIET)) as relay, Client(relay) as client:
        await client.hello()
        for number in range(20):
            await notify(database, payload("users", str(number)))
            await client.say(t="barrier", id=number)
            answer = await client.until("barrierok", id=number)
            events = [message for message in client.seen if message["t"] == "ev"]
            assert events[-1]["i"][0][2] == str(number)
            assert answer["s"] >= events[-1]["s"]


@pytest.mark.rule("W-BARRIER-2")
async def test_a_token_passes_behind_the_events_of_its_transaction_whenever_it_is_asked_for(
    database: Database,
) -> None:
    connection = await database.connect()
    async with running(options(database.dsn, QUIET)) as relay, Client(relay) as client:
        await client.hello()
        position = relay._hub.position
        for number, token in enumerate((f"{number:032x}" for number in range(20)), 1):
            async with connection.transaction():
                await connection.execute("SELECT pg_notify('pgcachewatch_token', $1)", token)
                await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload("users", str(number)))
            await client.say(t="barrier", id=number, token=token)
            answer = await client.until("barrierok", id=number)
            events = [message for message in client.seen if message["t"] == "ev"]
            assert events[-1]["i"][0][2] == str(number)
            assert answer["s"] == events[-1]["s"] == position.seq + number, "a token has no position"


@pytest.mark.rule("W-BARRIER-2")
async def test_a_token_is_lost_with_the_listen_connection_and_asked_for_without(
    relay: Relay, database: Database
) -> None:
    token = "f" * 32
    async with Client(relay) as client:
        await client.hello()
        await notify(database, token, "pgcachewatch_token")
        await client.say(t="barrier", id=1, token=token)
        await client.until("barrierok", id=1)
        await client.say(t="barrier", id=2, token="e" * 32)
        await client.say(t="ping", id=9)
        await client.until("pong", id=9)
        await kill_listener(database)
        assert (await client.until("err", id=2))["code"] == "token_lost"
        await client.until("reset")
        await client.say(t="barrier", id=3)
        await client.until("barrierok", id=3)


async def test_nobody_can_subscribe_to_the_channel_of_tokens(relay: Relay) -> None:
    async with Client(relay) as client:
        await client.hello()
        await client.say(t="sub", id=7, channel="pgcachewatch_token")
        assert (await client.until("err", id=7))["code"] == "unusable_channel"
    assert await refused(relay.url + "/pgpubsub/pgcachewatch_token") == 400


async def test_requests_sent_with_the_hello_wait_for_its_channels(relay: Relay) -> None:
    async with Client(relay) as client:
        await client.socket.send(
            json.dumps(
                [
                    {"t": "hello", "v": 1, "subs": [{"t": "sub", "id": 1, "channel": "fresh"}]},
                    {"t": "barrier", "id": 2},
                    {"t": "ping", "id": 3},
                ]
            )
        )
        await client.until("pong", id=3)
        kinds = [message["t"] for message in client.seen]
        assert kinds[:2] == ["welcome", "subok"]
        if "barrierok" not in kinds:
            await client.until("barrierok", id=2)


async def test_a_frame_that_changes_many_subscriptions_many_times_holds_up_nobody_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change goes through all of them: at once, these would be a hundred thousand."""
    async with running(options(database.dsn, QUIET)) as relay, Client(relay) as busy, Client(relay) as other:
        await other.hello()
        await busy.hello(*({"t": "sub", "id": number, "table": f"t{number}"} for number in range(1, 500)))
        churn = [[{"t": "sub", "id": 900, "table": "x"}, {"t": "unsub", "id": 900}] for _ in range(100)]
        await busy.socket.send(json.dumps([*itertools.chain(*churn), {"t": "ping", "id": 7}]))
        await eventually(lambda: any(visitor.is_resting for visitor in relay._reception.visitors))
        await other.say(t="ping", id=8)
        await other.until("pong", id=8)
        (resting,) = [visitor for visitor in relay._reception.visitors if visitor.is_resting]
        assert len(resting.backlog) > 100, "it has most of it before it"
        assert not resting.connection._transport.is_reading()  # type: ignore[union-attr]
        monkeypatch.setattr("pgcachewatch_daemon.reception.WORK_S", 0.0)  # it has shown that it rests
        await busy.until("pong", id=7)
        assert sum(message["t"] == "subok" for message in busy.seen) == 499 + 100, "each was answered, in order"


@pytest.mark.rule("W-RESUME-1")
@pytest.mark.rule("W-RESUME-2")
async def test_a_client_that_comes_back_is_replayed_what_it_missed(relay: Relay, database: Database) -> None:
    async with Client(relay) as client:
        await client.hello()
        await client.until("mark")
        position: Message = {"e": client.epoch, "s": client.cursor}
    await notify(database, payload("users", "missed"))
    await eventually(lambda: relay._hub.position.seq > position["s"])
    async with Client(relay) as again:
        again.cursor = position["s"]
        assert (await again.hello(resume=position))["resumed"] is True
        assert (await again.until("ev"))["i"] == [[1, "*", "missed"]]


@pytest.mark.rule("W-RESUME-1")
async def test_a_channel_nobody_listened_to_can_not_be_resumed(relay: Relay, database: Database) -> None:
    async with Client(relay) as client:
        await client.hello()
        position = {"e": client.epoch, "s": client.cursor}
        await notify(database, payload("users", "1"))
        await client.until("ev")
    async with Client(relay) as other:
        welcome = await other.hello({"t": "sub", "id": 1, "channel": "unheard"}, resume=position)
        assert welcome["resumed"] is False, "what the channel said meanwhile is unknown"


@pytest.mark.rule("W-ERR-1")
async def test_barriers_over_the_limit_are_refused_by_name(database: Database) -> None:
    limits = LoopbackLimits(barriers=100, barriers_per_subscriber=2)
    async with running(options(database.dsn, barriers=limits)) as relay, Client(relay) as client:
        await client.hello()
        await client.socket.send(json.dumps([{"t": "barrier", "id": number} for number in range(4)]))
        refusal = await client.until("err")
        assert refusal["code"] == "too_many_barriers"
        assert "2" in refusal["message"]
        await client.say(t="ping", id=9)
        await client.until("pong", id=9)


# --- violations


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x00", 4300),
        ("not json", 4300),
        ('{"t":"ping","id":1}', 4300),
        ('{"t":"hello","v":2}', 4300),
        ("x" * 65_537, 4308),
    ],
    ids=["binary", "json", "order", "version", "size"],
)
async def test_a_violation_closes_that_connection_with_its_code_and_no_other(
    relay: Relay, frame: str | bytes, code: int
) -> None:
    async with Client(relay) as good, Client(relay) as bad:
        await good.hello()
        await bad.socket.send(frame)
        assert await bad.close_code() == code
        await good.say(t="ping", id=1)
        await good.until("pong", id=1)


@pytest.mark.rule("W-HELLO-1")
async def test_a_client_that_says_no_hello_is_closed_4101(database: Database) -> None:
    sockets = SocketLimits(close_s=0.05)
    async with running(options(database.dsn, hello_timeout_s=0.02, sockets=sockets)) as relay, Client(relay) as client:
        assert await client.close_code() == 4101


@pytest.mark.rule("W-TRANSPORT-1")
@pytest.mark.rule("W-TRANSPORT-2")
async def test_requests_are_refused_before_the_upgrade_by_status(relay: Relay) -> None:
    assert await refused(relay.url + "/v1/ws") == 400
    assert await refused(relay.url + "/v1/ws", subprotocols=["graphql-ws"]) == 400
    assert await refused(relay.url + "/nothing") == 404
    assert await refused(relay.url + "/pgpubsub/" + "x" * 64) == 400
    assert (await get(relay, "/v1/ws")).status_code == 426
    assert (await get(relay, "/v1/ws", "POST")).headers["Allow"] == "GET"


@pytest.mark.rule("W-TRANSPORT-2")
async def test_admission_refuses_with_503_when_full_and_429_by_address(database: Database) -> None:
    full = AdmissionLimits(connections=1, connections_per_address=10)
    async with running(options(database.dsn, admission=full)) as relay:
        async with Client(relay):
            assert await refused(relay.url + f"/pgpubsub/{CHANNEL}") == 503
        await eventually(lambda: relay._admission.stats.connections == 0)
        async with Client(relay) as client:
            await client.hello()
    crowded = AdmissionLimits(connections=10, connections_per_address=1)
    async with running(options(database.dsn, admission=crowded)) as relay, Client(relay):
        assert await refused(relay.url + f"/pgpubsub/{CHANNEL}") == 429


@pytest.mark.rule("W-TRANSPORT-2")
@pytest.mark.rule("W-PLAIN-4")
async def test_without_postgresql_everybody_is_told_to_come_back(database: Database) -> None:
    nowhere = "postgresql://u@127.0.0.1:1/d"
    async with Relay(options(nowhere)) as relay:
        with pytest.raises(InvalidStatus) as caught:
            await connect(relay.url + "/v1/ws", subprotocols=[Subprotocol("pgcachewatch.v1")], proxy=None)
        assert caught.value.response.status_code == 503
        assert caught.value.response.headers["Retry-After"] == "1"
        ready = await get(relay, "/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["source"]["ok"] is False
        assert (await get(relay, "/livez")).status_code == 200
        assert (await get(relay, "/up")).status_code == 503


# --- the plain path


@pytest.mark.rule("W-PLAIN-1")
@pytest.mark.rule("W-PLAIN-2")
@pytest.mark.parametrize("connect_to", [connect, legacy_connect], ids=["asyncio", "legacy"])
@pytest.mark.filterwarnings("ignore:websockets.legacy:DeprecationWarning")
async def test_no_notification_sent_right_after_the_plain_handshake_is_lost(
    relay: Relay, database: Database, connect_to: Callable[..., Any]
) -> None:
    connection = await database.connect()
    extra = {"proxy": None} if connect_to is connect else {}
    async with connect_to(relay.url + "/pgpubsub/fresh", compression="deflate", **extra) as client:
        await connection.execute("SELECT pg_notify('fresh', i::text) FROM generate_series(1, 10000) i")
        received = [await client.recv() for _ in range(10_000)]
    assert received == [str(number) for number in range(1, 10_001)]


@pytest.mark.rule("W-LIMIT-6")
async def test_one_channel_more_than_the_limit_is_refused_on_each_path_and_harms_nobody(database: Database) -> None:
    source = replace(SOURCE, channels_limit=1)
    async with running(options(database.dsn, source)) as relay, Client(relay) as client:
        await client.hello()
        await client.say(t="sub", id=7, channel="one_more")  # its sid would be 2
        refusal = await client.until("err")
        assert (refusal["code"], refusal["id"]) == ("too_many_channels", 7)
        async with Client(relay) as other:
            await other.say(t="hello", v=1, subs=[{"t": "sub", "id": 1, "channel": "one_more"}])
            assert await other.close_code() == 4308
        assert await refused(relay.url + "/pgpubsub/one_more") == 503
        await notify(database, payload())
        await client.until("ev")


async def test_a_plain_client_that_leaves_during_its_handshake_harms_nobody(database: Database) -> None:
    async with Proxy("127.0.0.1", port_of(database.dsn)) as proxy:
        dsn = through(proxy, database.dsn)
        async with running(options(dsn, QUIET)) as relay:
            proxy.stall()
            _, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(
                b"GET /pgpubsub/waiting HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            await eventually(lambda: len(relay._reception.visitors) == 1)
            writer.transport.abort()
            await eventually(lambda: not relay._reception.visitors)
            proxy.forward()
            async with connect(relay.url + "/pgpubsub/waiting", proxy=None) as client:
                await notify(database, "hello", "waiting")
                assert await client.recv() == "hello"


@pytest.mark.rule("W-PLAIN-3")
async def test_a_plain_client_is_closed_1012_when_events_may_be_missing(relay: Relay, database: Database) -> None:
    async with connect(relay.url + f"/pgpubsub/{CHANNEL}", proxy=None) as client:
        await kill_listener(database)
        await client.wait_closed()
        assert client.protocol.close_code == 1012


async def test_what_a_plain_client_says_is_ignored(relay: Relay, database: Database) -> None:
    async with connect(relay.url + "/pgpubsub/a%20channel", proxy=None) as client:
        await client.send("hello?")
        await client.send(b"\x00")
        await notify(database, "x", "a channel")
        assert await client.recv() == "x"
