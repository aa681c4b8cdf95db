"""A token goes in and never comes out: not in an answer, a log line, a metric, or what a command prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from pgcachewatch_daemon.core.credentials import digest
from tests.daemon.io.jwt.signing import CLAIM, token
from tests.integration.tokens import bearer, write_tokens
from tests.postgres import Database
from tests.raw_client import http_client
from tests.relay_process import RelayProcess
from tests.waiting import LIMIT_S, eventually

JWT_SECRET = "the-secret-of-the-issuer-0123456789abcdef"
GOOD, BAD, REVOKED = "pgcw_good-7c1d2e", "pgcw_bad-93ab44", "pgcw_revoked-5f5f01"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
OFFER = {"Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==", "Sec-WebSocket-Protocol": "pgcachewatch.v1"}


async def heard_by(socket: ClientConnection, *said: object) -> str:
    """All that the relay answers to these until it closes, or until it has answered a ping behind them."""
    heard: list[str] = []
    try:
        for each in said:
            await socket.send(each if isinstance(each, str | bytes) else json.dumps(each))
        await socket.send('{"t":"ping","id":99}')
        while '"pong"' not in "".join(heard):
            heard.append(str(await socket.recv()))
    except ConnectionClosed as closed:
        heard.append(str(closed))
    return "".join(heard)


async def through_http(relay: RelayProcess, secret: str) -> str:
    paths = ["/v1/ws", "/pgpubsub/c", "/v1/status", "/", f"/{secret}"]
    shown = [bearer(secret), {"Authorization": f"Basic {secret}"}, {"Authorization": secret}, {"Cookie": f"t={secret}"}]
    shown += [{"Sec-WebSocket-Protocol": f"pgcachewatch.v1, {secret}"}, {"Origin": f"https://{secret}"}]
    heard = []
    async with http_client() as client:
        for path in paths:
            heard.append(await answer(client, f"{relay.http}{path}?access_token={secret}&x=1", {}))
            for headers in shown:
                heard.append(await answer(client, relay.http + path, headers))
        response = await client.post(relay.http + f"/{secret}", headers=bearer(secret))
        heard.append(response.text + str(response.headers))
    return "".join(heard)


async def answer(client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> str:
    """Of a request that is not to become a WebSocket: without a version it is refused behind all other checks."""
    upgrade = {name: value for name, value in {**UPGRADE, **OFFER}.items() if name != "Sec-WebSocket-Version"}
    response = await client.get(url, headers={**upgrade, **headers})
    return response.text + str(response.headers)


async def through_sockets(relay: RelayProcess, secret: str) -> str:
    hello: dict[str, Any] = {"t": "hello", "v": 1, "subs": [{"t": "sub", "id": 1}]}
    auth = {"t": "auth", "token": secret}
    conversations: list[list[object]] = [
        [{**hello, "token": secret}, auth, {"t": "sub", "id": 2, "table": secret[:3]}],
        [{**hello, "token": secret}, {"t": "auth", "token": secret + "x"}],
        [{**hello, "token": [secret]}],
        [{**hello, "token": secret * 1_000}],
        [{"token": secret}],
        [f'{{"t":"hello","token":"{secret}"'],
        [f'"token {secret}"'],
        [json.dumps({**hello, "token": secret}).encode()],
        [auth],
        [{**hello, "token": secret, "resume": {"e": secret}}],
    ]
    heard = []
    for said in conversations:
        for headers in ({}, bearer(secret)):
            try:
                async with connect(
                    relay.url + "/v1/ws",
                    subprotocols=[Subprotocol("pgcachewatch.v1")],
                    additional_headers=headers,
                    proxy=None,
                ) as socket:
                    heard.append(await heard_by(socket, *said))
            except InvalidStatus as refused:
                heard.append(str(refused.response))
    return "".join(heard)


async def test_a_token_never_comes_out_of_a_relay(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    write_tokens(path, {GOOD: {"modes": ["invalidate", "stream", "consume", "status"]}, REVOKED: {}})
    signed = token(sub="7", **CLAIM)
    secrets = [GOOD, BAD, REVOKED, signed, signed.rpartition(".")[2], JWT_SECRET]
    async with RelayProcess(
        database.dsn, tokens_file=str(path), jwt_secret=JWT_SECRET, log_level="debug", drift_check_s="3600"
    ) as relay:
        heard = ""
        for secret in (GOOD, BAD, signed):
            heard += await through_http(relay, secret) + await through_sockets(relay, secret)
        async with connect(
            relay.url + "/pgpubsub/c", additional_headers=bearer(REVOKED), proxy=None, open_timeout=LIMIT_S
        ) as plain:
            path.write_text(f'[x]\nsha256 = "{GOOD}"\n')  # as somebody does who has not read how
            await eventually(lambda: "not read again" in relay.log())
            relay.signal(signal.SIGHUP)
            await eventually(lambda: "settings not reloaded" in relay.log())
            write_tokens(path, {GOOD: {"modes": ["status"]}})
            heard += await heard_by(plain)
        async with http_client() as client:
            heard += (await client.get(relay.http + "/v1/status", headers=bearer(GOOD))).text
        heard += relay.get("/metrics")[1]
        heard += relay.log()
    assert "their tokens no longer cover them" in heard, "the log is in it"
    assert "pgcachewatch_source_up" in heard
    hashes = [digest(secret).hex() for secret in (GOOD, REVOKED)]
    assert [secret for secret in (*secrets, *hashes) if secret in heard] == []


def test_the_secret_that_tokens_are_signed_with_is_not_shown_by_any_command(tmp_path: Path) -> None:
    environment = {**os.environ, "PGCACHEWATCH_JWT_SECRET": JWT_SECRET}
    short = {**os.environ, "PGCACHEWATCH_JWT_SECRET": JWT_SECRET[:20]}
    shown = ""
    for command, variables in ((["settings"], environment), (["serve"], short)):
        program = [sys.executable, "-m", "pgcachewatch", *command]
        ended = subprocess.run(program, env=variables, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        shown += ended.stdout + ended.stderr
    assert "jwt_secret has 20 bytes" in shown
    assert JWT_SECRET[:20] not in shown
