"""A worker from its link to its end, in the test's process: the test is the primary at the other end."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from pgcachewatch_daemon.core.tokens import Memory
from pgcachewatch_daemon.workers import worker
from pgcachewatch_daemon.workers.link import Link
from pgcachewatch_daemon.workers.messages import Begin, Drain, Hello, Here, Message, Serving, Start
from pgcachewatch_daemon.workers.worker import Worker
from tests.raw_client import CHANNEL, Client, options
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def _root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Stage:
    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.is_lost = False
        self.losses = 0
        self.worker = Worker(on_lost=self._lost)
        self.link: Link
        self.running: asyncio.Task[int]

    def _lost(self) -> None:
        self.losses += 1

    def _link_lost(self) -> None:
        self.is_lost = True

    async def connect(self) -> None:
        own, others = socket.socketpair()
        self.link = await Link.connect(own, self.heard.extend, self._link_lost)
        self.running = asyncio.create_task(self.worker.run(others))
        await eventually(lambda: self.heard == [Hello()])

    def start(self, *, port: int = 0, sockets: tuple[int, ...] = (), drain_grace_s: float = 5.0) -> None:
        relay_options = replace(options("unused"), port=port, drain_grace_s=drain_grace_s, log_format="text")
        memory = Memory(None, {}, {})
        now_s = time.monotonic()
        self.link.say(
            Start(1, relay_options, sockets, logging.INFO),
            Begin("a" * 16, 0),
            Here(True, now_s, "start", {CHANNEL: 0}, now_s * 1_000, 3.5, memory, b"", 0.0),
        )

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        return next(message.port for message in self.heard if isinstance(message, Serving))

    async def until_serving(self) -> None:
        await eventually(lambda: any(isinstance(message, Serving) for message in self.heard))


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    it = Stage()
    await it.connect()
    try:
        yield it
    finally:
        it.link.cut()
        await it.running
        await eventually(lambda: it.is_lost)


async def test_it_is_told_what_to_be_then_serves_and_drains() -> None:
    async with stage() as it:
        it.start()
        await it.until_serving()
        async with Client(it) as client:
            await client.hello()
            it.link.say(Drain())
            assert (await client.until("bye"))["code"] == 4000
            assert await client.close_code() == 4000
        assert await it.running == 0
        await eventually(lambda: it.is_lost)
        assert it.losses == 0, "the link ended because it had nothing more to say"


async def test_when_the_link_ends_its_clients_are_sent_elsewhere_and_it_ends() -> None:
    async with stage() as it:
        it.start()
        await it.until_serving()
        async with Client(it) as client:
            await client.hello()
            it.link.cut()
            await client.until("bye")
            assert await client.close_code() == 4000
        assert await it.running == 1
        assert it.losses == 1


@pytest.mark.parametrize("is_draining", [False, True], ids=["serving", "draining"])
async def test_a_client_that_does_not_go_delays_the_end_of_a_lost_worker_by_no_more_than_the_grace(
    monkeypatch: pytest.MonkeyPatch, is_draining: bool
) -> None:
    monkeypatch.setattr(worker, "LOST_GRACE_S", 0.01)
    async with stage() as it:
        it.start(drain_grace_s=3600.0)
        await it.until_serving()
        _, writer = await asyncio.open_connection("127.0.0.1", it.port)  # says nothing, and never goes
        if is_draining:
            it.link.say(Drain())
            await eventually(lambda: it.worker._ended.done())
        it.link.cut()
        assert await it.running == (0 if is_draining else 1)
        writer.close()


async def test_a_signal_drains_it_as_the_primary_would() -> None:
    async with stage() as it:
        it.start()
        await it.until_serving()
        it.worker.leave("drain")
        assert await it.running == 0


async def test_a_port_that_can_not_be_had_ends_it_with_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with stage() as it:
            it.start(port=taken.getsockname()[1])
            assert await it.running == 1
    assert "level=ERROR worker=1 worker can not listen" in capsys.readouterr().err


async def test_it_accepts_from_the_sockets_it_has_inherited() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        async with stage() as it:
            it.start(sockets=(bound.dup().detach(),))
            await it.until_serving()
            assert it.port == bound.getsockname()[1]
            async with Client(it) as client:
                await client.hello()


async def test_a_primary_that_says_nothing_any_more_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PRIMARY_SILENCE_S", -1.0)
    monkeypatch.setattr(worker, "WATCH_S", 0.01)
    async with stage() as it:
        it.start()
        assert await it.running == 1
        assert it.losses == 1


async def test_one_whose_primary_is_gone_before_it_was_told_anything_just_ends() -> None:
    async with stage() as it:
        it.link.cut()
        assert await it.running == 1
