"""What an event costs the client: CPU of its thread, from the socket to the entry that is gone, in bursts of 1,000.

The relay is the library's server in a thread of its own, and writes a burst at once, as a relay does under load: a
frame for each event, or arrays of 100. The floor is what any client in Python pays, `json.loads` of the same frames.

The second table shows that a change costs a store what depends on it, and not what it holds; it is counted, and
asserted, in tests/client/core/test_store_costs.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from pgcachewatch import Row as RowOf
from pgcachewatch import connect
from pgcachewatch.aio.caching import CacheKeywords
from pgcachewatch.core.dependencies import RowKey
from pgcachewatch.core.store import Store
from pgcachewatch.core.trust import FOREVER, Trust
from pgcachewatch.protocol import codec, messages
from tests.bench.rounds import IS_MEASURING, Row, report, rounds

BURST = 1_000
BURSTS = 40
PER_ARRAY = 100
LEASE_S = 3_600.0
HEARTBEAT_MS = 60_000
SIZES = (1_000, 10_000, 100_000) if IS_MEASURING else (1_000, 2_000)
CHANGES = 500

# By kind: what the function depends on, and the key that event number n has.
KINDS: dict[str, tuple[CacheKeywords, Callable[[int], str | None]]] = {
    "row": ({"rows": RowOf("users", id="key"), "maxsize": BURST}, lambda number: str(number % BURST)),
    "table": ({"tables": ["users"], "maxsize": BURST}, lambda number: None),
}


class BurstRelay:
    """Grants what it is asked for, and sends events when it is told to, from any thread."""

    def __init__(self) -> None:
        self.port = 0
        self.seq = 0
        self._loop = asyncio.new_event_loop()
        self._connection: ServerConnection | None = None
        self._started, self._ended = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> BurstRelay:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()

    def frames(self, key_of: Callable[[int], str | None], *, per_frame: int) -> list[str]:
        """The frames of one burst."""
        texts = []
        for number in range(BURST):
            texts.append(codec.encode_ev(self.seq, self.seq + 1, [(1, "u", key_of(number))]))
            self.seq += 1
        if per_frame == 1:
            return texts
        return [f"[{','.join(texts[at : at + per_frame])}]" for at in range(0, BURST, per_frame)]

    def send(self, frames: Sequence[str]) -> None:
        data = b"".join(Frame(Opcode.TEXT, text.encode()).serialize(mask=False) for text in frames)
        assert self._connection is not None
        self._loop.call_soon_threadsafe(self._connection.transport.write, data)

    async def _run(self) -> None:
        subprotocols = [Subprotocol(messages.SUBPROTOCOL)]
        async with serve(self._serve, "127.0.0.1", 0, subprotocols=subprotocols, compression=None) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self._started.set()
            await self._ended.wait()

    async def _serve(self, connection: ServerConnection) -> None:
        self._connection = connection
        async for frame in connection:
            message = json.loads(frame)
            for answer in self._answers(message):
                await connection.send(answer)

    def _answers(self, message: dict[str, Any]) -> Iterator[str]:
        match message["t"]:
            case "hello":
                welcome = messages.Welcome(
                    e="00000000000000aa", s=self.seq, resumed=False, now=1, hb_ms=HEARTBEAT_MS, node="bench"
                )
                yield codec.encode(welcome)
                for sub in message["subs"]:
                    yield from self._answers(sub)
            case "sub":
                types = ["int8"] if message.get("columns") else None
                yield codec.encode(messages.Subok(id=message["id"], sid=message["id"], s=self.seq, types=types))
                yield codec.encode_mark(self.seq, self.seq, 1.0)
            case "ping":
                yield codec.encode(messages.Pong(id=message["id"], now=1))
            case "barrier":
                yield codec.encode(messages.Barrierok(id=message["id"], s=self.seq))


async def burst_us(kind: str, per_frame: int) -> tuple[float, float]:
    """CPU us an event: the floor, and the client."""
    dependencies, key_of = KINDS[kind]
    floors, costs = [], []
    async with linked(dependencies) as (relay, client, get):
        for _ in range(rounds(BURSTS)):
            for number in range(BURST):
                await get(number)
            await asyncio.sleep(0)
            assert get.cache_info().currsize == BURST
            frames = relay.frames(key_of, per_frame=per_frame)
            floors.append(cpu_ns(lambda frames=frames: [json.loads(frame) for frame in frames]))  # type: ignore[misc]
            gc.collect()
            started_ns = time.thread_time_ns()
            relay.send(frames)
            await client.barrier()
            costs.append(time.thread_time_ns() - started_ns)
            assert client.status.position.seq == relay.seq
            assert get.cache_info().currsize == 0
    return min(floors) / BURST / 1_000, min(costs) / BURST / 1_000


@contextlib.asynccontextmanager
async def linked(dependencies: CacheKeywords) -> AsyncIterator[tuple[BurstRelay, Any, Any]]:
    """A relay, a client of it, and a cached function."""
    with BurstRelay() as relay:
        async with connect(f"ws://127.0.0.1:{relay.port}", staleness=LEASE_S) as client:

            @client.cache(**dependencies)
            async def get(key: int) -> int:
                return key

            await client.wait_live()
            yield relay, client, get


def cpu_ns(act: Callable[[], object]) -> int:
    started_ns = time.thread_time_ns()
    act()
    return time.thread_time_ns() - started_ns


@pytest.mark.bench
async def test_an_event_of_a_burst_costs_the_client_little_more_than_reading_it() -> None:
    rows = []
    for kind in KINDS:
        for name, per_frame in (("a frame each", 1), (f"arrays of {PER_ARRAY}", PER_ARRAY)):
            rows.append(Row(f"{kind}, {name}", *await burst_us(kind, per_frame)))
    report("events of a burst, CPU us an event", rows)


def filled(trust: Trust, count: int) -> Store[int, None]:
    store: Store[int, None] = Store(trust, scopes=[], maxsize=count, lock=threading.RLock())
    for number in range(count):
        store.finish(store.begin(number, now=0, run=None, rows=[RowKey(0, str(number))]), number)
    return store


def change_ns(store: Store[int, None], change: Callable[[int], object]) -> float:
    """The best of some rounds, each on rows of its own."""
    best = FOREVER
    for first in range(0, len(store.entries), CHANGES):
        started_ns = time.perf_counter_ns()
        for number in range(first, first + CHANGES):
            change(number)
        best = min(best, (time.perf_counter_ns() - started_ns) / CHANGES)
    return best


@pytest.mark.bench
def test_a_change_costs_what_depends_on_it() -> None:
    found: dict[str, list[float]] = {"row": [], "flush": [], "gap": []}
    for count in SIZES:
        trust = Trust(FOREVER)
        store = filled(trust, count)
        found["row"].append(change_ns(store, lambda number: store.forget_row(RowKey(0, str(number)))))  # noqa: B023
        assert all(store.lookup(number) is None for number in range(count))
        found["flush"].append(change_ns(store, lambda number: store.flush()))  # noqa: B023
        found["gap"].append(change_ns(store, lambda number: trust.gap()))  # noqa: B023
    sys.stdout.write(f"\n{'a change, ns':<16}" + "".join(f"{count:>9,}" for count in SIZES) + "  entries\n")
    for name, times_ns in found.items():
        sys.stdout.write(f"  {name:<14}" + "".join(f"{one:>9.0f}" for one in times_ns) + "\n")
