"""Access as an operator meets it: a relay of its own process, its exit codes, its signals, and its workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.certificates import Authority
from tests.integration.tokens import write_tokens
from tests.postgres import Database
from tests.raw_client import Client
from tests.relay_process import RelayProcess
from tests.waiting import LIMIT_S, eventually


def serve(**settings: str) -> tuple[int, str]:
    """Exit code and what it said; for settings that end it at once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PGCACHEWATCH_")}
    environment |= {f"PGCACHEWATCH_{name.upper()}": value for name, value in settings.items()}
    program = [sys.executable, "-m", "pgcachewatch", "serve"]
    ended = subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    return ended.returncode, ended.stderr


def test_an_address_that_others_reach_is_not_bound_without_authentication() -> None:
    code, said = serve(host="0.0.0.0", port="0")

    assert code == 2
    assert said.count("\n") == 1
    for way_out in ("tokens_file", "host=127.0.0.1", "allow_anonymous=true"):
        assert way_out in said


def test_tokens_that_can_not_be_read_end_the_start(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text("[shop]\ntables = 7\n")
    code, said = serve(tokens_file=str(path), port="0")

    assert (code, said.count("\n")) == (2, 1)
    assert f"tokens_file '{path}' can not be used: token 'shop'" in said


async def test_another_file_is_taken_over_by_a_signal_and_what_can_not_work_is_not(
    database: Database, tmp_path: Path
) -> None:
    first, second, config = tmp_path / "first", tmp_path / "second", tmp_path / "relay.toml"
    write_tokens(first, {"one": {}})
    write_tokens(second, {"two": {}})
    config.write_text(f'tokens_file = "{first}"\n')
    async with RelayProcess(database.dsn, config=str(config)) as relay, Client(relay) as client:
        await client.say(t="hello", v=1, token="one", subs=[])
        await client.until("welcome")
        config.write_text('tokens_file = "/nowhere"\n')
        relay.signal(signal.SIGHUP)
        await eventually(lambda: "settings not reloaded" in relay.log())
        config.write_text(f'tokens_file = "{second}"\n')
        relay.signal(signal.SIGHUP)
        assert (await client.until("bye"))["code"] == 4201
        async with Client(relay) as newcomer:
            await newcomer.say(t="hello", v=1, token="two", subs=[])
            await newcomer.until("welcome")


async def test_each_worker_asks_for_tokens_and_hears_of_their_end(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    write_tokens(path, {"kept": {}, "gone": {"tables": ["orders"]}})
    async with RelayProcess(database.dsn, workers="2", tokens_file=str(path)) as relay:
        clients = [Client(relay) for _ in range(8)]  # the kernel spreads them over the workers
        for client in clients:
            await client.__aenter__()
            await client.say(t="hello", v=1, token="gone", subs=[{"t": "sub", "id": 1, "table": "users"}])
            assert (await client.until("err"))["code"] == "forbidden"
        async with Client(relay) as stranger:
            await stranger.say(t="hello", v=1, subs=[])
            assert await stranger.close_code() == 4301
        write_tokens(path, {"kept": {}})
        for client in clients:
            assert (await client.until("bye"))["code"] == 4201
            with pytest.raises(ConnectionClosed):
                await client.until("never")
        assert 'authentications_total{result="accepted"} 8.0' in relay.get("/metrics")[1]


async def test_where_certificates_are_required_they_say_who_a_client_is(database: Database, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("relay")
    relay = RelayProcess(
        database.dsn,
        host="0.0.0.0",
        tls_certificate_file=str(certificate),
        tls_key_file=str(key),
        tls_client_ca_file=str(authority.file),
    )
    relay.trust = authority.client(certificate=authority.issue("billing"))
    async with relay, Client(relay, ssl=relay.trust) as client:
        await client.say(t="hello", v=1, subs=[{"t": "sub", "id": 1}])
        await client.until("subok")
        state = json.loads(relay.get("/v1/status")[1])
        assert [listed["subject"] for listed in state["clients"]["listed"]] == ["billing"]
