"""A rolling update as a cluster does it, with real processes: each relay is replaced while its clients go on.

A new relay is started first, then an old one is taken out of the service and told to end. Clients know one address, the
service's, behind which is whoever is in it at that moment: the new relay, and the other old one, which was started
before the one that some clients leave and to which their position says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import signal
import time
from collections.abc import AsyncIterator

import pytest

import pgcachewatch
from pgcachewatch import Row
from pgcachewatch.models import DEFAULT_PG_CHANNEL
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.row_triggers import RowTriggers
from tests.waiting import eventually

CLIENTS = 50
ROWS = 3
JITTER_S = 1.0
COPIED_BYTES = 65_536
RESUMES = re.compile(r'^pgcachewatch_resumes_total\{result="(\w+)"\} ([\d.]+)$', re.MULTILINE)


class Service:
    """An address that leads to one of `members` in turn; who is connected stays where he is. Notes who comes when."""

    def __init__(self) -> None:
        self.members: list[RelayProcess] = []
        self.arrivals_s: list[float] = []
        self._turns = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Service:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.arrivals_s.append(time.monotonic())
        member = self.members[next(self._turns) % len(self.members)]
        with contextlib.closing(writer), contextlib.suppress(OSError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", member.port)
            with contextlib.closing(up_writer):
                await asyncio.wait(
                    [
                        asyncio.ensure_future(copy(reader, up_writer)),
                        asyncio.ensure_future(copy(up_reader, writer)),
                    ]
                )
        self._tasks.discard(task)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one end closes; then the other one is closed too."""
    with contextlib.suppress(OSError):
        while data := await reader.read(COPIED_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


class Program:
    """One client with a cache. `runs` counts what its cache did not know."""

    def __init__(self, client: pgcachewatch.Client, rows: RowTriggers, turn: asyncio.Lock) -> None:
        self.client = client
        self.runs = 0

        @client.cache(rows=Row("products", id="number"))
        async def version(number: int) -> int:
            self.runs += 1
            async with turn:  # all programs share the connection
                return int(await rows.writer.fetchval("SELECT version FROM products WHERE id = $1", number))

        self.version = version

    async def is_warm(self) -> bool:
        """All rows are read, and kept."""
        runs = self.runs
        for number in range(ROWS):
            await self.version(number)
        return self.runs == runs and self.client.status.state == "live"


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database)
    await rig.writer.execute(
        "CREATE TABLE products (id int PRIMARY KEY, version int NOT NULL DEFAULT 0);"
        f"INSERT INTO products SELECT generate_series(0, {ROWS - 1})"
    )
    await rig.install("products", mode="journal", channel=DEFAULT_PG_CHANNEL)
    return rig


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service() as service:
        yield service


async def resumes(relay: RelayProcess) -> dict[str, int]:
    """How often, by result; what never happened is left out."""
    _, text = await asyncio.to_thread(relay.get, "/metrics")
    return {result: int(float(count)) for result, count in RESUMES.findall(text) if float(count)}


async def test_clients_move_to_new_relays_staggered_and_keep_their_caches(rows: RowTriggers, service: Service) -> None:
    async with contextlib.AsyncExitStack() as stack:

        async def relay() -> RelayProcess:
            return await stack.enter_async_context(RelayProcess(rows.database.dsn, drain_jitter_s=str(JITTER_S)))

        service.members = [await relay(), await relay()]
        clients = [
            await stack.enter_async_context(pgcachewatch.connect(service.url, staleness=60.0)) for _ in range(CLIENTS)
        ]
        turn = asyncio.Lock()
        programs = [Program(client, rows, turn) for client in clients]
        await asyncio.gather(*(eventually(program.is_warm) for program in programs))
        runs = [program.runs for program in programs]

        cold = 0
        for version in (1, 2):
            service.members.append(new := await relay())
            # The younger one first, so that some of its clients go to the older one.
            old = service.members.pop(1 if version == 1 else 0)
            before = [program.client.status.reconnects for program in programs]
            service.arrivals_s.clear()
            await rows.writer.execute("UPDATE products SET version = version + 1 WHERE id = 0")

            old.signal(signal.SIGTERM)

            assert await asyncio.to_thread(old.wait) == 0
            await asyncio.gather(*(program.client.barrier() for program in programs))
            assert [await program.version(0) for program in programs] == [version] * CLIENTS
            moved = [each.client.status.reconnects - was for each, was in zip(programs, before, strict=True)]
            assert "relay cuts" not in old.log()
            assert 0 < sum(moved) < CLIENTS, "those of one relay move, and those of the other one stay"
            # Of a few dozen, spread evenly, all within a third of the time would be a wonder.
            assert max(service.arrivals_s) - min(service.arrivals_s) > JITTER_S / 3
            assert set(await resumes(new)) == {"resumed"}, "whoever comes to a new relay finds his place"
            if version == 1:
                cold = (await resumes(service.members[0])).get("epoch", 0)

        for program in programs:
            await program.version(1)
            await program.version(2)
        read_again = [program.runs - was for program, was in zip(programs, runs, strict=True)]
        assert sorted(read_again) == [2] * (CLIENTS - cold) + [4] * cold, (
            "the row that changed, once for each time; and everything once, by those who went to an older relay"
        )
