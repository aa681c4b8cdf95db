"""`pgcachewatch serve` as a process: exit codes, signals, and what it prints."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from pgcachewatch_config import Settings
from pgcachewatch_daemon.cli import relay_options, serve
from pgcachewatch_daemon.relay import RelayOptions
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.waiting import eventually

HELLO = '{"t":"hello","v":1,"subs":[{"t":"sub","id":1}]}'


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PGCACHEWATCH_")}
    program = "import sys; from pgcachewatch_daemon.cli import serve; sys.exit(serve(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_wrong_value_is_one_sentence_and_exit_code_2() -> None:
    ended = run("--port", "99999")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    for part in ("'port'", "'99999'", "--port", "0 to 65535"):
        assert part in ended.stderr


def test_a_wrong_value_in_the_environment_names_the_variable() -> None:
    ended = run(PGCACHEWATCH_LOG_LEVEL="loud")
    assert ended.returncode == 2
    assert "PGCACHEWATCH_LOG_LEVEL" in ended.stderr


def test_a_configuration_file_may_be_named_by_flag_or_environment(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text("port = -5\n")
    for ended in (run("--config", str(path)), run(PGCACHEWATCH_CONFIG=str(path))):
        assert ended.returncode == 2
        assert "relay.toml" in ended.stderr


def test_an_unknown_flag_is_exit_code_2() -> None:
    assert run("--prot", "1").returncode == 2


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        serve(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name in Settings.model_fields:
        assert "--" + name.replace("_", "-") in text


def test_a_port_that_is_taken_is_one_sentence_and_exit_code_1() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run("--port", str(port), "--log-level", "error", "--dsn", "postgresql://u@127.0.0.1:1/d")
    assert ended.returncode == 1
    assert ended.stderr == (
        f"pgcachewatch serve: 127.0.0.1:{port} is in use; "
        "end the program that listens there, or choose another --port\n"
    )


def test_the_defaults_of_settings_are_those_of_the_parts() -> None:
    from_settings, own = relay_options(Settings()), RelayOptions()
    for part in fields(RelayOptions):
        assert getattr(from_settings, part.name) == getattr(own, part.name), part.name


async def test_a_relay_without_postgresql_stays_up_and_says_once_what_is_wrong() -> None:
    relay = RelayProcess("postgresql://someone:hunter2@127.0.0.1:1/d", reconnect_max_s="0.05", reconnect_min_s="0.01")
    relay.start()
    try:
        await eventually(lambda: relay.get("/livez")[0] == 200)
        await eventually(lambda: _failures(relay) >= 3)
        assert relay.get("/readyz")[0] == 503
        assert relay.log().count("source unavailable") == 1
        assert "hunter2" not in relay.log()
        first = relay.log().splitlines()[0]
        assert "relay starting version=" in first
        assert "database=postgresql://someone:***@127.0.0.1:1/d" in first
        assert "reconnect_min_s,reconnect_max_s" in first
        relay.signal(signal.SIGTERM)
        assert relay.wait() == 0
    finally:
        relay.__exit__(None, None, None)


def _failures(relay: RelayProcess) -> float:
    lines = relay.get("/metrics")[1].splitlines()
    return next(
        float(line.split()[1]) for line in lines if line.startswith("pgcachewatch_source_connect_failures_total ")
    )


async def test_sigterm_drains_idle_clients_and_leaves_with_0(database: Database) -> None:
    with RelayProcess(database.dsn) as relay:
        protocols = [Subprotocol("pgcachewatch.v1")]
        async with (
            connect(relay.url + "/v1/ws", subprotocols=protocols, proxy=None) as client,
            connect(relay.url + "/v1/ws", subprotocols=protocols, proxy=None) as silent,
            connect(relay.url + "/pgpubsub/ch", proxy=None) as plain,
        ):
            await client.send(HELLO)
            await client.recv()
            relay.signal(signal.SIGTERM)
            await asyncio.gather(client.wait_closed(), silent.wait_closed(), plain.wait_closed())
            codes = [each.protocol.close_code for each in (client, silent, plain)]
        assert codes == [4000, 4000, 1012]
        assert await asyncio.to_thread(relay.wait) == 0
        assert "Traceback" not in relay.log()


async def test_a_second_signal_ends_it_at_once_whoever_is_connected(database: Database) -> None:
    with RelayProcess(database.dsn, drain_grace_s="600") as relay:
        _, writer = await asyncio.open_connection("127.0.0.1", relay.port)  # says nothing, and never goes
        relay.signal(signal.SIGTERM)
        await eventually(lambda: "relay draining" in relay.log())
        relay.signal(signal.SIGTERM)
        assert await asyncio.to_thread(relay.wait) == 128 + signal.SIGTERM
        writer.close()


async def test_libpq_variables_are_used_when_no_dsn_is_given(database: Database) -> None:
    parts = urlsplit(database.dsn)
    environment = {
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port),
        "PGUSER": parts.username or "",
        "PGPASSWORD": parts.password or "",
        "PGDATABASE": parts.path[1:],
        "PGCACHEWATCH_PORT": "0",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PGCACHEWATCH_", "PG"))}
    command = "from pgcachewatch_daemon.cli import serve; raise SystemExit(serve([]))"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", command, env=inherited | environment, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        while b"source up" not in await process.stderr.readline():
            assert process.returncode is None
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


async def test_a_lookup_that_fails_after_its_attempt_was_given_up_is_not_logged() -> None:
    # One attempt is over before its lookup is, again and again; "draining" comes behind them all.
    options = ("--port", "0", "--connect-timeout-s", "0.001", "--reconnect-min-s", "0.01", "--reconnect-max-s", "0.01")
    command = "import sys; from pgcachewatch_daemon.cli import serve; sys.exit(serve(sys.argv[1:]))"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", command, *options, "--dsn", "postgresql://u@nohost.invalid/d"),
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    lines: list[bytes] = []
    try:
        while not lines or b"source unavailable" not in lines[-1]:
            lines.append(await process.stderr.readline())
            assert lines[-1], b"".join(lines)
    finally:
        process.terminate()
        lines.append((await process.communicate())[1])
    assert b"never retrieved" not in b"".join(lines)
    assert process.returncode == 0


def test_tls_files_that_do_not_work_are_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(["--tls-certificate-file", str(tmp_path / "none.pem")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "none.pem can not be read (No such file or directory)" in said


def test_a_trusted_proxy_that_is_no_network_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert serve(["--trusted-proxies", "10.0.0.0/8,nginx"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "trusted_proxies" in said
    assert "networks as 10.0.0.0/8" in said
