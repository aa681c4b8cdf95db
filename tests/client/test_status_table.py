"""The live table in a real terminal, and what it draws."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from rich.console import Console

from pgcachewatch import status_table
from pgcachewatch.errors import ConnectionFailed, Refused
from pgcachewatch.remote import Remote
from pgcachewatch.status import Document, fetch
from pgcachewatch.status_table import draw, watch
from tests.postgres import Database
from tests.raw_client import Client, notify, options, payload, running
from tests.waiting import eventually


def drawn(document: Document, before: Document | None = None) -> str:
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(draw(document, before))
    return console.export_text()


async def document_of(database: Database) -> Document:
    async with running(options(database.dsn)) as relay, Client(relay) as reader:
        await reader.hello({"t": "sub", "id": 1})
        await notify(database, payload("[red]users[/red]", "5"))
        await reader.until("ev")
        return await asyncio.to_thread(fetch, Remote("ws", f"127.0.0.1:{relay.port}"))


async def test_it_draws_what_the_relay_says(database: Database) -> None:
    document = await document_of(database)
    text = drawn(document)
    assert text.startswith("✓ Events are flowing for ")
    assert "public.[red]users[/red]" in text  # a name is no markup
    assert "live" in text

    later = {**document, "uptime_s": document["uptime_s"] + 2.0}
    later["counts"] = {**document["counts"], "events": document["counts"]["events"] + 100}
    figures = drawn(later, document).splitlines()
    names = next(place for place, line in enumerate(figures) if line.startswith("events/s"))
    assert figures[names + 1].split()[0] == "50"


async def test_durable_consumers_are_drawn_where_there_are_any(database: Database) -> None:
    document = await document_of(database)
    assert "consumer" not in drawn(document)
    listed = [
        {"name": "mails\x1b[2J", "clients": 0, "pending": None, "lag_s": 900.0},
        {"name": "search", "clients": 1, "pending": 3, "lag_s": 0.0},
    ]
    text = drawn({**document, "consumers": {"total": 2, "listed": listed}}).splitlines()
    rows = [" ".join(line.split()) for line in text]
    assert "mails\\x1b[2J 0 not known here 15 min 0 s" in rows
    assert "search 1 3 nothing waits" in rows


async def test_a_relay_that_stops_answering_is_shown_and_asked_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = await document_of(database)
    answers: list[Document | Exception] = [document, ConnectionFailed("gone"), {**document, "ready": False}]
    shown: list[int] = []

    def ask() -> Document:
        shown.append(len(answers))
        answer = answers.pop(0) if answers else KeyboardInterrupt()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(status_table, "EVERY_S", 0.0)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    output = io.StringIO()
    assert watch(ask, Console(file=output, force_terminal=True, width=100)) == 1
    assert shown == [3, 2, 1, 0]
    silent = output.getvalue().rpartition("✗ gone")[2].partition("✗")[0]
    assert silent
    assert "flowing" not in silent, "nobody knows that"


async def test_a_refusal_ends_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    document = await document_of(database)
    answers: list[Callable[[], Document]] = [lambda: document]

    def ask() -> Document:
        if not answers:
            raise Refused("no", code=401, may_retry=False)
        return answers.pop()()

    monkeypatch.setattr(status_table, "EVERY_S", 0.0)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(Refused):
        watch(ask, Console(file=io.StringIO(), force_terminal=True))


@pytest.mark.parametrize("by_key", [True, False], ids=["q", "Ctrl-C"])
async def test_it_lives_in_a_terminal_until_somebody_leaves(database: Database, by_key: bool) -> None:
    async with running(options(database.dsn)) as relay:
        controller, terminal = pty.openpty()
        process = _launch(relay.url, terminal)
        os.close(terminal)
        seen: list[bytes] = []
        reading = threading.Thread(target=_read, args=(controller, seen))
        reading.start()
        try:
            await eventually(lambda: b"".join(seen).count(b"Events are flowing") >= 2)
            if by_key:
                os.write(controller, b"q")
            else:
                process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait, 30) == 0
        finally:
            process.kill()
            process.wait()
            reading.join()
            os.close(controller)
        assert b"\x1b[?1049l" in b"".join(seen)  # the screen that was there before is back
        assert b"Traceback" not in b"".join(seen)


def _launch(url: str, terminal: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "pgcachewatch", "status", url],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
    )


def _read(controller: int, seen: list[bytes]) -> None:
    try:
        while data := os.read(controller, 65_536):
            seen.append(data)
    except OSError:
        pass  # the other end of a terminal that is closed
