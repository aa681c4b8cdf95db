"""One simulated world from one seed: a database, relays one after the other, clients with caches, and faults.

Everything random is drawn from the seed, so a seed is a whole history that can be run again. For a while writers,
readers and faults do as they like, and the oracle judges each answer. Then faults and writers stop, and the world
must come to rest: every client live, every answer equal to the database (G7), and the caches in use again.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from pgcachewatch.aio.client import Client
from pgcachewatch.aio.connecting import connect_over
from pgcachewatch.aio.connection import Link, Receiver
from pgcachewatch.core.dependencies import Result, Row
from pgcachewatch.errors import BarrierTimeout, PGCacheWatchError
from tests.simulation.database import CHANNEL, SECOND_CHANNEL, Database
from tests.simulation.faults import FAULTS
from tests.simulation.network import ClientEnd, Wire
from tests.simulation.oracle import Call, Oracle, Violation
from tests.simulation.relay import Log, SimulatedRelay
from tests.simulation.virtual_loop import run

TABLES = {"users": 2, "orders": 1}
CLIENTS = 2
READERS = 2  # of each client
TURMOIL_S = 3.0
STALENESS_S = 0.6
READ_EVERY_S = 0.05
WRITE_EVERY_S = 0.3
FAULT_EVERY_S = 0.45
BARRIER_EVERY_S = 0.5
REST_WITHIN_S = 30.0
TIMER_SLACK_S = 1e-6


class Version(int):
    """A version that was read, and of which row: what a result tells its cache."""

    row: str


def number_of(row: str) -> str:
    return row.partition(":")[2]


class FunctionFailed(Exception):
    """Raised by the cached function itself, and by nobody else."""


@dataclass
class Report:
    """What one seed saw; `faults` by kind."""

    seed: int
    answers: int = 0
    runs: int = 0
    barriers: int = 0
    worst_staleness_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)


class World:
    """See the module. `clock` is what clients take for their monotonic clock."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.loop = asyncio.get_running_loop()
        self.database = Database(TABLES, self.chance)
        self.log: Log = {}
        self.oracle = Oracle(self.database, self.log, STALENESS_S)
        self.report = Report(seed)
        self.relay: SimulatedRelay | None = SimulatedRelay(self.database, self.chance, self.log)
        self.wall_offset_s = 0.0
        self.is_calm = False
        self.is_reachable = True
        self._clients: list[Client] = []
        self._barrier_s = [float("-inf")] * CLIENTS
        self._caches: list[dict[str, Callable[[str], Awaitable[int]]]] = []

    def clock(self) -> float:
        return self.loop.time()

    async def open_link(self, url: str, receiver: Receiver) -> Link:
        await asyncio.sleep(self.chance.uniform(0.0005, 0.01))
        if self.relay is None or not self.relay.is_alive or not self.is_reachable:
            raise ConnectionRefusedError("connection refused")
        wire = Wire(receiver, self.chance)
        self.relay.accept(wire)
        return ClientEnd(wire)

    def wires(self) -> list[Wire]:
        return [wire for wire in (self.relay.wires if self.relay else ()) if wire.is_open]

    async def live(self) -> Report:
        """The whole history. Raises Violation."""
        for number in range(CLIENTS):
            client = await connect_over(
                ["ws://simulated"],
                open_link=self.open_link,
                clock=lambda: self.clock(),
                chance=self.chance.random,
                staleness=STALENESS_S,
                channels=(CHANNEL, SECOND_CHANNEL),
                open_timeout=0,
            )
            self._clients.append(client)
            self._caches.append(self._cached(client, number))
        try:
            await self._turmoil()
            self.is_calm = True
            await self._rest()
        finally:
            for client in self._clients:
                await client.aclose()
        self.report.answers = self.oracle.answers
        self.report.worst_staleness_s = self.oracle.worst_staleness_s
        return self.report

    # --- turmoil

    async def _turmoil(self) -> None:
        actors = [self._repeat(WRITE_EVERY_S, self._write), self._repeat(FAULT_EVERY_S, self._fault)]
        for number in range(CLIENTS):
            actors.append(self._repeat(BARRIER_EVERY_S, functools.partial(self._barrier, number)))
            actors += [self._repeat(READ_EVERY_S, functools.partial(self._read, number)) for _ in range(READERS)]
        async with asyncio.TaskGroup() as group:
            for actor in actors:
                group.create_task(actor)

    async def _repeat(self, every_s: float, act: Callable[[], Awaitable[None]]) -> None:
        while self.loop.time() < TURMOIL_S:
            await asyncio.sleep(self.chance.expovariate(1 / every_s))
            await act()

    async def _write(self) -> None:
        try:
            for _ in range(self.chance.choice((1, 1, 1, 1, 40))):
                self.database.commit(self.chance.choice(list(self.database.rows)))
        except OSError:
            pass

    async def _fault(self) -> None:
        kind = self.chance.choice(list(FAULTS))
        self.report.faults[kind] += 1
        await FAULTS[kind](self)

    async def _barrier(self, number: int) -> None:
        started_s = self.loop.time()
        try:
            await self._clients[number].barrier(timeout=self.chance.choice((0.05, 1.0, 3.0)))
        except BarrierTimeout:
            return
        self.report.barriers += 1
        self._barrier_s[number] = max(self._barrier_s[number], started_s)

    # --- the cached function and who calls it

    def _cached(self, client: Client, number: int) -> dict[str, Callable[[str], Awaitable[int]]]:
        async def read(row: str) -> int:
            self.report.runs += 1
            await asyncio.sleep(self.chance.expovariate(1 / self.chance.choice((0.01, 0.2))))
            if not self.is_calm and self.chance.random() < 0.05:
                raise FunctionFailed(row)
            if not self.is_calm and self.chance.random() < 0.03:
                await asyncio.sleep(2.0)
            version = Version(self.database.read(row))
            version.row = row
            # The slower the answer travels, the more may be committed and applied before it is stored.
            await asyncio.sleep(self.chance.expovariate(1 / self.chance.choice((0.005, 0.3))))
            return version

        return {
            "users": client.cache(read, tables=["users"], maxsize=2),
            "users by row": client.cache(read, rows=Row("public.users", id=number_of)),
            "users by result": client.cache(read, rows=Row("users", id=Result(lambda version: number_of(version.row)))),
            "orders": client.cache(read, tables=["orders"]),
            "orders by row": client.cache(read, rows=Row("orders", id=number_of), maxsize=1),
            "": client.cache(read),
        }

    async def _read(self, number: int) -> None:
        row = self.chance.choice(list(self.database.rows))
        # Mostly two of them: races between calls need calls of one function.
        often = (row.partition(":")[0], "")
        name = self.chance.choice((*often, *often, *self._functions_for(number, row)))
        function = self._caches[number][name]
        patience_s = self.chance.choice((0.02, 5.0, 5.0, 5.0))
        status = self._clients[number].status
        call = Call(number, name, row, self.loop.time(), status.position, self._barrier_s[number])
        try:
            async with asyncio.timeout(patience_s):
                version = await function(row)
        except TimeoutError:
            if self.loop.time() - call.started_s < patience_s - TIMER_SLACK_S:
                raise Violation(f"G8: a call of {row} timed out although its caller had patience") from None
        except FunctionFailed as error:
            if error.args != (row,):
                raise Violation(f"G8: a call of {row} got the failure of {error.args}") from error
        except ConnectionRefusedError:
            raise
        except OSError:
            pass  # the database was down: the function's own outcome
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise Violation(f"G8: a call of {row} was cancelled although nobody cancelled it") from error
            raise
        else:
            self.oracle.answered(call, version, self.loop.time())

    # --- rest

    async def _rest(self) -> None:
        """Faults and writers have stopped: everything heals by itself."""
        self.database.start()
        if self.relay is None or not self.relay.is_alive:
            self.relay = SimulatedRelay(self.database, self.chance, self.log)
        for wire in self.wires():
            wire.down.slowness = wire.up.slowness = 1.0
            wire.stall(up=False, down=False)
        for client in self._clients:
            try:
                await client.wait_live(timeout=REST_WITHIN_S)
                await client.barrier(timeout=REST_WITHIN_S)
            except PGCacheWatchError as error:
                raise Violation(f"G7: a client did not come back: {error}; {client.status}") from error
        await asyncio.sleep(STALENESS_S)
        for number in range(CLIENTS):
            await self._read_all(number)
            runs = self.report.runs
            await self._read_all(number)
            if self.report.runs != runs and self._clients[number].status.state == "live":
                raise Violation(f"G7: client {number} is live and quiet, and its cache is not used")

    def _functions_for(self, number: int, row: str) -> list[str]:
        """Names of the client's functions that may be asked for this row."""
        table = row.partition(":")[0]
        return [name for name in self._caches[number] if not name or name.startswith(table)]

    async def _read_all(self, number: int) -> None:
        for row, truth in self.database.rows.items():
            for name in self._functions_for(number, row):
                version = await self._caches[number][name](row)
                if version != truth.version:
                    what = f"{row} at {version}, the database at {truth.version}"
                    raise Violation(f"G7: at rest {name!r} of client {number} has {what}")


def simulate(seed: int) -> Report:
    """Run one seed. Raises Violation, with the command that runs it again."""

    async def main() -> Report:
        return await World(seed).live()

    try:
        return run(main())
    except BaseException as error:
        error.add_note(f"seed {seed}; run it again with: make simulate SEED={seed}")
        raise
