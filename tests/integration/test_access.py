"""Who comes in, what each may ask for, and how it ends: a real relay, with a file of tokens."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pgcachewatch_daemon.io.websocket import SocketLimits
from pgcachewatch_daemon.relay import Relay
from tests.bench.idle_memory import REQUEST
from tests.daemon.io.jwt.signing import CLAIM, SECRET, public_pem, token
from tests.integration.tokens import bearer, guarded, write_tokens
from tests.postgres import Database
from tests.raw_client import CHANNEL, Client, Message, http_client, notify, options, payload, running
from tests.waiting import eventually

ALL, SHOP, STATUS = "token-of-all", "token-of-the-shop", "token-of-the-page"
TOKENS: dict[str, Any] = {ALL: {}, SHOP: {"tables": ["shop_*"]}, STATUS: {"modes": ["status"]}}
WISHES = [{"t": "sub", "id": 1, "table": "shop_orders"}, {"t": "sub", "id": 2, "table": "users"}]


async def refusal(relay: Relay, path: str, **headers: str) -> httpx.Response:
    """Of a handshake on this path."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    offered = {"Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==", "Sec-WebSocket-Protocol": "pgcachewatch.v1"}
    async with http_client() as client:
        return await client.get(f"http://127.0.0.1:{relay.port}{path}", headers={**upgrade, **offered, **headers})


async def greet(client: Client, *subs: Message, shown: str | None = None) -> None:
    await client.say(t="hello", v=1, subs=list(subs), **({"token": shown} if shown is not None else {}))


@pytest.mark.rule("W-TOKEN-1")
@pytest.mark.parametrize("path", ["/v1/ws", f"/pgpubsub/{CHANNEL}", "/metrics", "/"])
async def test_a_token_in_an_address_is_refused_and_not_repeated(database: Database, path: str, tmp_path: Path) -> None:
    async with running(guarded(database, tmp_path / "t", TOKENS)) as relay:
        for query in (f"?token={ALL}", f"?a=1&access_token={ALL}", f"?%74oken={ALL}", f"?Token={ALL}"):
            answer = await refusal(relay, path + query)
            assert answer.status_code == 400
            assert "Authorization: Bearer" in answer.text
            assert ALL not in answer.text + str(answer.headers)


@pytest.mark.rule("W-TOKEN-2")
async def test_a_handshake_without_a_token_that_is_accepted_is_refused(database: Database, tmp_path: Path) -> None:
    async with running(guarded(database, tmp_path / "t", TOKENS)) as relay:
        for path, headers in (
            (f"/pgpubsub/{CHANNEL}", {}),
            (f"/pgpubsub/{CHANNEL}", bearer("else")),
            (f"/pgpubsub/{CHANNEL}", {"Authorization": f"Basic {ALL}"}),
            ("/v1/ws", bearer("else")),
        ):
            answer = await refusal(relay, path, **headers)
            assert (answer.status_code, answer.headers["WWW-Authenticate"].partition(" ")[0]) == (401, "Bearer")
        async with connect(f"{relay.url}/pgpubsub/{CHANNEL}", additional_headers=bearer(ALL), proxy=None) as plain:
            await notify(database, "hello")
            assert await plain.recv() == "hello"


@pytest.mark.rule("W-TOKEN-2")
async def test_a_token_comes_in_the_handshake_or_in_the_hello(database: Database, tmp_path: Path) -> None:
    async with running(guarded(database, tmp_path / "t", TOKENS)) as relay:
        async with Client(relay, additional_headers=bearer(ALL)) as client:
            await greet(client, {"t": "sub", "id": 1})
            await client.until("subok")
        async with Client(relay) as client:
            await greet(client, {"t": "sub", "id": 1}, shown=ALL)
            await client.until("subok")
        async with Client(relay, additional_headers=bearer(ALL)) as client:
            await greet(client, *WISHES, shown=SHOP)
            assert (await client.until("err"))["code"] == "forbidden", "that of the hello counts"
        async with Client(relay) as client:
            await greet(client)
            assert await client.close_code() == 4301


@pytest.mark.rule("W-TOKEN-3")
async def test_a_hello_with_a_token_that_grants_nothing_is_closed_by_the_reason(
    database: Database, tmp_path: Path
) -> None:
    old = "token-of-the-past"
    tokens = {**TOKENS, old: {"expires": time.time() - 1}}
    async with running(guarded(database, tmp_path / "t", tokens, jwt_secret=SECRET)) as relay:
        for shown, code in ((old, 4200), (token(exp=1), 4200), ("else", 4301), (token(sub="7"), 4303)):
            async with Client(relay) as client:
                await greet(client, *WISHES, shown=shown)
                assert await client.close_code() == code
        codes: list[int] = []
        while not codes or codes[-1] == 4301:
            async with Client(relay) as client:
                await greet(client, shown=token("ES256"))
                codes.append(await client.close_code())
        assert codes[-1] == 4105, "whoever sends many that are wrong is told to wait"


@pytest.mark.rule("W-TOKEN-4")
async def test_a_subscription_that_the_token_does_not_allow_is_refused_and_the_others_go_on(
    database: Database, tmp_path: Path
) -> None:
    async with running(guarded(database, tmp_path / "t", TOKENS)) as relay, Client(relay) as client:
        await greet(client, *WISHES, shown=SHOP)
        assert (await client.until("subok"))["id"] == 1
        refused = await client.until("err")
        assert (refused["id"], refused["code"], refused["retry"]) == (2, "forbidden", False)
        for wish in ({"table": "users"}, {}, {"table": "shop_x", "channel": "other", "mode": "stream"}):
            await client.say(t="sub", id=3, **wish)
            answer = await client.until("subok" if "channel" in wish else "err")
            assert answer["id"] == 3, "the id of one that was refused is free again"
        await notify(database, payload("users", "1"))
        await notify(database, payload("shop_orders", "2"))
        assert (await client.until("ev"))["i"] == [[1, "u", "2"]]


@pytest.mark.rule("W-TOKEN-4")
async def test_the_plain_path_is_refused_to_a_token_that_is_limited(database: Database, tmp_path: Path) -> None:
    async with running(guarded(database, tmp_path / "t", TOKENS)) as relay:
        assert (await refusal(relay, f"/pgpubsub/{CHANNEL}", **bearer(SHOP))).status_code == 403


async def test_a_channel_that_the_token_does_not_allow_is_not_listened_to(database: Database, tmp_path: Path) -> None:
    tokens = {SHOP: {"channels": [CHANNEL]}}
    async with running(guarded(database, tmp_path / "t", tokens)) as relay:
        async with Client(relay) as client:
            await greet(client, {"t": "sub", "id": 1, "channel": "secret1"}, shown=SHOP)
            await client.until("err")
            await client.say(t="sub", id=2, channel="secret2")
            await client.until("err")
            assert (await refusal(relay, "/pgpubsub/secret3", **bearer(SHOP))).status_code == 403
        metrics = await httpx_get(relay, "/metrics")
        assert "pgcachewatch_source_channels 1.0" in metrics.text
        assert 'pgcachewatch_authentications_total{result="accepted"} 2.0' in metrics.text


async def httpx_get(relay: Relay, path: str, **headers: str) -> httpx.Response:
    async with http_client() as client:
        return await client.get(f"http://127.0.0.1:{relay.port}{path}", headers=headers)


async def test_the_state_of_the_relay_needs_a_token_that_names_it_and_health_checks_need_none(
    database: Database, tmp_path: Path
) -> None:
    async with running(guarded(database, tmp_path / "t", TOKENS)) as relay:
        status = [await httpx_get(relay, "/v1/status", **headers) for headers in ({}, bearer(ALL), bearer(STATUS))]
        assert [answer.status_code for answer in status] == [401, 403, 200]
        for path in ("/livez", "/readyz", "/up", "/metrics", "/"):
            assert (await httpx_get(relay, path)).status_code == 200


@pytest.mark.rule("W-TOKEN-5")
async def test_the_end_of_a_token_is_told_and_closes(database: Database, tmp_path: Path) -> None:
    tokens = {SHOP: {"expires": time.time() + 4}}
    async with running(guarded(database, tmp_path / "t", tokens)) as relay:
        plain = await connect(f"{relay.url}/pgpubsub/{CHANNEL}", additional_headers=bearer(SHOP), proxy=None)
        async with Client(relay) as client:
            await greet(client, {"t": "sub", "id": 1}, shown=SHOP)
            assert (await client.until("bye"))["code"] == 4200
            assert await client.close_code() == 4200
        with pytest.raises(ConnectionClosed) as closed:
            await plain.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012


@pytest.mark.rule("W-TOKEN-5")
async def test_a_client_that_does_not_read_can_not_put_off_the_end_of_its_token(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "t"
    small = SocketLimits(send_buffer_bytes=4_096)
    async with running(replace(guarded(database, path, {SHOP: {}}), sockets=small)) as relay:
        with socket.create_connection(("127.0.0.1", relay.port)) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            hello = f'{{"t":"hello","v":1,"token":"{SHOP}","subs":[{{"t":"sub","id":1}}]}}'.encode()
            raw.sendall(REQUEST + bytes((0x81, 0x80 | len(hello))) + bytes(4) + hello)
            await eventually(lambda: has_slow_client(relay, database))
            write_tokens(path, {})
            await eventually(lambda: not relay.sights().clients)
        assert 'pgcachewatch_disconnects_total{code="4201"} 1.0' in (await httpx_get(relay, "/metrics")).text


async def has_slow_client(relay: Relay, database: Database) -> bool:
    """After one event more."""
    await notify(database, payload("orders", *(f"{number:0>60}" for number in range(90))))
    return any(client.state in ("slow", "conflating") for client in relay.sights().clients)


@pytest.mark.rule("W-TOKEN-5")
async def test_whoever_is_revoked_or_narrowed_has_to_go_and_nobody_else(database: Database, tmp_path: Path) -> None:
    path, names = tmp_path / "t", ("kept", "revoked", "narrowed", "narrowed-elsewhere")
    async with running(guarded(database, path, {name: {} for name in names})) as relay:
        clients = {name: Client(relay) for name in names}
        for name, client in clients.items():
            await client.__aenter__()
            await greet(client, {"t": "sub", "id": 1, "table": "orders"}, shown=name)
            await client.until("subok")
        plain = await connect(f"{relay.url}/pgpubsub/{CHANNEL}", additional_headers=bearer("revoked"), proxy=None)
        write_tokens(
            path, {"kept": {}, "narrowed": {"tables": ["users"]}, "narrowed-elsewhere": {"tables": ["orders"]}}
        )
        for name, code in (("revoked", 4201), ("narrowed", 4000)):
            assert (await clients[name].until("bye"))["code"] == code
            assert await clients[name].close_code() == code
        with pytest.raises(ConnectionClosed):
            await plain.recv()
        await notify(database, payload("orders", "1"))
        for name in ("kept", "narrowed-elsewhere"):
            assert (await clients[name].until("ev"))["i"] == [[1, "u", "1"]]
            await clients[name].__aexit__(None, None, None)


@pytest.mark.rule("W-TOKEN-5")
async def test_a_signed_token_that_is_revoked_ends_each_connection_that_it_opened(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "t"
    tokens = {jti: token(sub="user-7", jti=jti, **CLAIM) for jti in ("stolen", "own")}
    async with (
        running(guarded(database, path, {}, jwt_secret=SECRET)) as relay,
        Client(relay) as thief,
        Client(relay) as waiting,
        Client(relay) as owner,
    ):
        await greet(thief, {"t": "sub", "id": 1, "table": "orders"}, shown=tokens["stolen"])
        await greet(owner, {"t": "sub", "id": 1, "table": "orders"}, shown=tokens["own"])
        path.write_text('[revoked]\njti = ["stolen"]\n')
        assert (await thief.until("bye"))["code"] == 4201
        assert await thief.close_code() == 4201
        await waiting.say(t="hello", v=1, token=tokens["stolen"], subs=[])
        assert await waiting.close_code() == 4201
        assert (await refusal(relay, "/v1/ws", **bearer(tokens["stolen"]))).status_code == 401
        await notify(database, payload("orders", "1"))
        assert (await owner.until("ev"))["i"] == [[1, "u", "1"]]
        await owner.say(t="auth", token=tokens["stolen"])
        assert await owner.close_code() == 4201


@pytest.mark.rule("W-TOKEN-6")
async def test_another_token_counts_from_the_moment_it_is_offered(database: Database, tmp_path: Path) -> None:
    tokens = {**TOKENS, "ends": {"expires": time.time() + 600}}
    async with running(guarded(database, tmp_path / "t", tokens)) as relay, Client(relay) as client:
        await greet(client, {"t": "sub", "id": 1, "table": "shop_orders"}, shown="ends")
        assert 0 < (await client.until("authok"))["token_ms"] <= 600_000
        await client.say(t="auth", token=SHOP)
        assert "token_ms" not in await client.until("authok")
        await client.say(t="sub", id=2, table="users")
        assert (await client.until("err"))["code"] == "forbidden"
        await client.say(t="auth", token=ALL)
        await client.say(t="sub", id=2, table="users")
        assert (await client.until("subok"))["id"] == 2
        await notify(database, payload("shop_orders", "1"))
        assert (await client.until("ev"))["i"] == [[1, "u", "1"]], "the chain was not broken"


@pytest.mark.rule("W-TOKEN-6")
@pytest.mark.parametrize(
    ("offered", "code"),
    [("else", 4301), ("past", 4200), (SHOP, 4303), ("", 4301)],
    ids=["bad", "past", "narrow", "none"],
)
async def test_a_token_that_is_worse_than_the_one_before_ends_the_connection(
    database: Database, tmp_path: Path, offered: str, code: int
) -> None:
    tokens = {**TOKENS, "past": {"expires": time.time() - 1}}
    async with running(guarded(database, tmp_path / "t", tokens)) as relay, Client(relay) as client:
        await greet(client, *WISHES, shown=ALL)
        await client.say(t="auth", token=offered)
        await client.say(t="sub", id=9, table="shop_x")
        assert (await client.until("bye"))["code"] == code
        assert await client.close_code() == code
        assert not any(message.get("id") == 9 for message in client.seen), "what came behind it was not heard"


@pytest.mark.rule("W-TOKEN-6")
async def test_a_token_that_can_not_be_checked_leaves_the_one_before(database: Database, tmp_path: Path) -> None:
    unreachable = "http://127.0.0.1:1/jwks"
    async with (
        running(guarded(database, tmp_path / "t", TOKENS, jwks_url=unreachable)) as relay,
        Client(relay) as client,
    ):
        await greet(client, *WISHES, shown=ALL)
        await client.say(t="auth", token=token("ES256", kid="new"))
        answer = await client.until("err")
        assert (answer["code"], answer["retry"], "id" in answer) == ("not_ready", True, False)
        await client.say(t="sub", id=3, table="users")
        assert (await client.until("subok", id=3))["id"] == 3


@pytest.mark.rule("W-ORIGIN-1")
async def test_pages_of_strangers_may_not_connect(database: Database, tmp_path: Path) -> None:
    async with running(options(database.dsn)) as relay:
        for path in ("/v1/ws", f"/pgpubsub/{CHANNEL}", "/v1/status"):
            stranger = await refusal(relay, path, Origin="https://evil.example")
            rebound = await refusal(relay, path, Origin="http://evil.example", Host="evil.example")
            assert (stranger.status_code, rebound.status_code) == (403, 403)
        own = f"http://127.0.0.1:{relay.port}"
        async with connect(f"{relay.url}/pgpubsub/{CHANNEL}", origin=own, proxy=None):  # type: ignore[arg-type]  # Origin
            pass
    listed = guarded(database, tmp_path / "t", TOKENS, allowed_origins=("https://app.example",))
    async with running(listed) as relay:
        for origin, status in (("https://app.example", 401), ("https://evil.example", 403)):
            with pytest.raises(InvalidStatus) as caught:
                await connect(f"{relay.url}/pgpubsub/{CHANNEL}", origin=origin, proxy=None)  # type: ignore[arg-type]
            assert caught.value.response.status_code == status


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a second address of the loopback must be set up")
async def test_a_flood_of_bad_tokens_from_one_address_keeps_nobody_else_out(database: Database, tmp_path: Path) -> None:
    keys = tmp_path / "keys.pem"
    keys.write_text(public_pem("ES256"))
    async with running(guarded(database, tmp_path / "t", {}, jwt_keys_file=str(keys))) as relay, Client(relay) as first:
        await greet(first, {"t": "sub", "id": 1}, shown=token("ES256", sub="first", pgcachewatch={}))
        await first.until("subok")
        flood = asyncio.create_task(flood_with_bad_tokens(relay, 200))
        for number in range(10):
            async with Client(relay) as newcomer:
                shown = token("ES256", sub=str(number), pgcachewatch={})
                await greet(newcomer, {"t": "sub", "id": 1}, shown=shown)
                await newcomer.until("subok")
            assert (await httpx_get(relay, "/readyz")).status_code == 200
        await notify(database, payload("orders", "1"))
        assert (await first.until("ev"))["i"] == [[1, "u", "1"]]
        statuses = await flood
        assert statuses[401] >= 20
        assert statuses[503] > statuses[401], "most of them cost no check"
        assert statuses.total() == 200


async def flood_with_bad_tokens(relay: Relay, count: int) -> Counter[int]:
    """Handshakes from another address, each with another token; how they were answered."""
    statuses: Counter[int] = Counter()
    for number in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port, local_addr=("127.0.0.2", 0))
        bad = token("ES256", 1, sub=str(number))
        writer.write(REQUEST.replace(b"Host: x", b"Host: x\r\nAuthorization: Bearer " + bad.encode()))
        statuses[int((await reader.read()).split(b" ")[1])] += 1
        writer.close()
        await writer.wait_closed()
    return statuses
