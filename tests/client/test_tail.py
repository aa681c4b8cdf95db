"""`pgcachewatch tail` as a process of its own: what it prints, how it comes back, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pgcachewatch.remote import Remote
from pgcachewatch.status import fetch, status
from tests.certificates import Authority
from tests.integration.tokens import guarded, write_tokens
from tests.postgres import Database
from tests.raw_client import notify, options, payload, running
from tests.relay_process import RelayProcess
from tests.waiting import eventually

WITHIN_S = 30.0


class Tail:
    """The process, and what it said on standard error."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""
        assert process.stderr is not None
        self._errors = asyncio.create_task(self._listen(process.stderr), name="errors of the tail")

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        while text := await stream.read(4_096):
            self.said += text.decode()

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def ended(self) -> int:
        async with asyncio.timeout(WITHIN_S):
            code = await self.process.wait()
            await self._errors
            return code


@contextlib.asynccontextmanager
async def tailing(url: str, *arguments: str) -> AsyncIterator[Tail]:
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "pgcachewatch", "tail", url, *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, stdin=asyncio.subprocess.DEVNULL)
    tail = Tail(process)
    try:
        yield tail
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await tail.ended()
        process._transport.close()  # type: ignore[attr-defined]  # else it warns when it is collected


async def has_clients(relay: object, count: int) -> None:
    await eventually(lambda: len(relay.sights().clients) == count)  # type: ignore[attr-defined]
    await eventually(lambda: all(each.stream for each in relay.sights().clients))  # type: ignore[attr-defined]


async def test_each_change_is_a_line_and_so_is_a_gap(database: Database) -> None:
    async with (
        running(options(database.dsn)) as relay,
        tailing(relay.url) as people,
        tailing(relay.url.replace("ws", "http"), "--json", "--table", "users", "--operation", "update") as programs,
    ):
        await has_clients(relay, 2)
        await notify(database, payload("orders", "9", operation="insert"))
        await notify(database, payload("users", "5", "a\x1b[2Jb"))
        await notify(database, payload("users", operation="delete"))
        await notify(database, "not json")

        told = [(await people.line()).split() for _ in range(4)]
        assert [words[1:-2] for words in told[:3]] == [
            ["insert", "orders", "9"],
            ["update", "users", "5", "a\\x1b[2Jb"],
            ["delete", "users", "(whole", "table)"],
        ]
        assert " ".join(told[3]).startswith("--- gap: anything may have changed without an event here (unreadable")

        event, gap = json.loads(await programs.line()), json.loads(await programs.line())
        assert (event["type"], event["table"], event["operation"]) == ("event", "users", "update")
        assert event["keys"] == ["5", "a\x1b[2Jb"]
        assert (gap["type"], gap["reason"]) == ("gap", "unreadable")


async def test_ctrl_c_ends_it_without_a_traceback(database: Database) -> None:
    async with running(options(database.dsn)) as relay, tailing(relay.url) as tail:
        await has_clients(relay, 1)
        tail.process.send_signal(signal.SIGINT)
        assert await tail.ended() == 130
        assert tail.said == ""


async def test_output_that_nobody_reads_ends_it_quietly(database: Database) -> None:
    async with running(options(database.dsn)) as relay:
        reader, writer = os.pipe()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pgcachewatch", "tail", relay.url), stdout=writer, stderr=asyncio.subprocess.PIPE
        )
        os.close(writer)
        await has_clients(relay, 1)
        os.close(reader)
        await notify(database, payload("users", "5"))
        async with asyncio.timeout(WITHIN_S):
            _, said = await process.communicate()
        assert (process.returncode, said) == (0, b"")


async def test_it_comes_back_to_a_relay_that_was_killed_and_tells_of_the_gap(database: Database) -> None:
    with RelayProcess(database.dsn) as relay:
        async with tailing(relay.url) as tail:
            await eventually(lambda: '"stream":1' in relay.get("/v1/status")[1])
            relay.kill()
            await eventually(lambda: "connecting again" in tail.said)
            relay.start()
            relay.wait_ready()
            await eventually(lambda: "connected again" in tail.said)
            assert (await tail.line()).startswith("--- gap: anything")
            await notify(database, payload("users", "after"))
            assert "after" in await tail.line()


async def test_a_channel_that_can_not_be_is_a_sentence_and_2(database: Database) -> None:
    async with running(options(database.dsn)) as relay, tailing(relay.url, "--channel", "x" * 64) as tail:
        assert await tail.ended() == 2
        assert "1 to 63 bytes" in tail.said
        assert tail.said.count("\n") == 1


async def test_a_relay_that_is_not_there_is_a_sentence_and_1() -> None:
    async with tailing("ws://127.0.0.1:1", "--timeout", "0.2") as tail:
        assert await tail.ended() == 1
        assert tail.said.startswith("pgcachewatch tail: no relay welcomed this client within 0.2 s")
        assert "Traceback" not in tail.said


async def test_over_tls_with_a_token_from_the_environment_or_a_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    authority, token = Authority(tmp_path), "token-of-an-operator"
    certificate, key = authority.issue("relay")
    write_tokens(tmp_path / "tokens", {token: {"modes": ["stream", "status"]}})
    (tmp_path / "token").write_text(f"{token}\n")
    files = {
        "tls_certificate_file": str(certificate),
        "tls_key_file": str(key),
        "tokens_file": str(tmp_path / "tokens"),
    }
    relay = RelayProcess(database.dsn, port=0, **files)
    relay.trust = authority.client()
    trust, shown = ["--ca-file", str(authority.file)], ["--token-file", str(tmp_path / "token")]
    with relay:
        assert await asyncio.to_thread(status, [relay.url, *trust]) == 1
        assert "asks for a token" in capsys.readouterr().err
        assert await asyncio.to_thread(status, [relay.http, *shown]) == 1
        assert "certificate" in capsys.readouterr().err
        assert await asyncio.to_thread(status, [relay.http, *trust, *shown]) == 0
        monkeypatch.setenv("PGCACHEWATCH_TOKEN", token)
        async with tailing(relay.url, *trust) as tail:
            remote = Remote("wss", f"127.0.0.1:{relay.port}", token, relay.trust)
            await eventually(lambda: fetch(remote)["clients"]["stream"] == 1)
            await notify(database, payload("users", "5"))
            assert (await tail.line()).split()[2:4] == ["users", "5"]


async def test_a_token_that_is_refused_is_a_sentence_and_1(database: Database, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    async with (
        running(guarded(database, tmp_path / "tokens", {"another": {}})) as relay,
        tailing(relay.url, "--token-file", str(tmp_path / "token")) as tail,
    ):
        assert await tail.ended() == 1
        assert tail.said.startswith("pgcachewatch tail: ")
        assert "token" in tail.said
        assert "s3cret" not in tail.said
        assert "Traceback" not in tail.said
