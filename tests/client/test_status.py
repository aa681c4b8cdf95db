"""`pgcachewatch status URL` says in lines what the page shows, and by its exit code whether events flow."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from pgcachewatch.errors import ConnectionFailed, Refused
from pgcachewatch.remote import Remote
from pgcachewatch.status import fetch, lines, status
from pgcachewatch_daemon.relay import Relay
from tests.postgres import Database
from tests.raw_client import Client, notify, options, payload, running


@contextmanager
def answering(code: int, body: str = "", **headers: str) -> Iterator[tuple[Remote, list[dict[str, str]]]]:
    """A server that is no relay, and the headers that it was sent."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(dict(self.headers.items()))
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:  # Any: as in the class above
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Remote("ws", f"127.0.0.1:{server.server_port}", token="s3cret"), asked
        finally:
            server.shutdown()
            thread.join()


async def test_a_relay_that_is_well_is_told_in_lines_and_as_json(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(options(database.dsn)) as relay, Client(relay) as reader:
        await reader.hello({"t": "sub", "id": 1, "mode": "stream"})
        await notify(database, payload("users\x1b[2J", "5"))
        await reader.until("ev")
        assert await asyncio.to_thread(status, [relay.url]) == 0
        text = capsys.readouterr().out
        assert text.startswith("Events are flowing (for ")
        assert "clients: 1, 0 cache and 1 stream subscriptions\n" in text
        assert "table: public.users\\x1b[2J update 0 s ago\n" in text
        assert await asyncio.to_thread(status, [relay.url.replace("ws", "http"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["node"] == "test"


async def test_a_relay_without_postgresql_is_1_and_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    async with Relay(options("postgresql://nobody@127.0.0.1:1/none")) as relay:
        assert await asyncio.to_thread(status, [relay.url]) == 1
        assert "PostgreSQL was not reached yet" in capsys.readouterr().out


def test_a_relay_that_can_not_be_reached_is_1_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["ws://127.0.0.1:1"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("pgcachewatch status: the relay at http://127.0.0.1:1 can not be reached (")
    assert said.count("\n") == 1


def test_an_address_that_can_not_work_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["example.com"]) == 2
    assert "write ws://host:port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (401, "refused the token (why not)"),
        (403, "needs the mode status"),
        (404, "there is no state at"),
        (503, "answered 503 (why not)"),
    ],
)
def test_a_refusal_is_told_with_what_the_relay_said(code: int, sentence: str) -> None:
    with answering(code, "why not\n") as (remote, _), pytest.raises(Refused) as caught:
        fetch(remote)
    assert sentence in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_token_is_asked_for_where_none_was_given() -> None:
    with answering(401, "why not\n") as (remote, _), pytest.raises(Refused, match="give one with --token-file"):
        fetch(Remote("ws", remote.place))


def test_the_token_goes_into_a_header_and_follows_no_redirect() -> None:
    with answering(200, "{}") as (other, asked_elsewhere), answering(307, Location=f"{other.http}/") as (remote, asked):
        with pytest.raises(Refused):
            fetch(remote)
        assert [each["Authorization"] for each in asked] == ["Bearer s3cret"]
        assert asked_elsewhere == []


@pytest.mark.parametrize("body", ["<html>", "[]", "{}"])
def test_another_program_s_answer_is_no_state(body: str) -> None:
    with answering(200, body) as (remote, _), pytest.raises(ConnectionFailed, match="another program"):
        fetch(remote)


def test_trouble_is_told_before_anything_else() -> None:
    document = {
        "health": {"title": "PostgreSQL is lost", "since_s": 75.0, "advice": "Look at it."},
        "node": "n", "version": "1", "uptime_s": 100.0, "ready": False,
        "postgres": {"version": "", "server": "db", "mode": "notify"},
        "checks": [{"name": "source", "ok": False, "since_s": 75.0}],
        "counts": {"events": 1, "gaps": 0}, "history": {"events": 1},
        "clients": {"total": 0, "invalidate": 0, "stream": 0, "listed": []},
        "tables": {"listed": []},
        "consumers": {"listed": [{"name": "mails", "clients": 0, "pending": None, "lag_s": 75.0}]},
        "drift": {"listed": [{"table": "users", "detail": "no trigger", "remedy": "install it"}]},
    }  # fmt: skip
    told = list(lines(document))
    assert told[:2] == ["PostgreSQL is lost (for 1 min 15 s)", "  Look at it."]
    assert "check: source failing for 1 min 15 s" in told
    assert "consumer: mails 0 clients here, jobs not known here, 1 min 15 s behind" in told
    assert told[-1] == "drift: users: no trigger; install it"


def test_the_state_of_a_relay_of_another_version_is_a_sentence_and_no_traceback() -> None:
    with (
        answering(200, '{"health": {"title": "new"}, "version": "9.0", "ready": true}') as (remote, _),
        pytest.raises(ConnectionFailed, match=r"is of version 9\.0, and its state has no 'node'; ask it with"),
    ):
        fetch(remote)


async def test_a_pipe_that_nobody_reads_is_no_reason_to_complain(database: Database) -> None:
    async with running(options(database.dsn)) as relay:
        command = f"{sys.executable} -m pgcachewatch status {relay.url} | true"
        process = await asyncio.create_subprocess_shell(command, stdout=PIPE, stderr=PIPE)
        assert await process.communicate() == (b"", b"")
