"""The relay's fan-out alone: the program that `pgcachewatch serve` is, with lines in the place of PostgreSQL.

Its source stands in for `PostgresSource`: what a line says arrives where a notification's payload would. Everything
behind that is the relay's own. There are no loopbacks, so clients get no marks, and nobody looks at a catalogue.
PGCW_BENCH_PROFILE names a file that gets a profile of its life.
"""

from __future__ import annotations

import asyncio
import cProfile
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any  # for the relay, as its source knows it
from unittest import mock

from pgcachewatch.models import DEFAULT_PG_CHANNEL
from pgcachewatch_daemon import cli, relay
from pgcachewatch_daemon.io.postgres.contract import SourceStats
from tests.bench.fanout.places import PROFILE_VARIABLE
from tests.bench.fanout.processes import free_port
from tests.bench.fanout.programs.inlet import open_inlet

Clock = Callable[[], float]


class LineSource:
    """A source whose every channel is listened to already. `port` is what the relay was told to serve on."""

    def __init__(self, port: int, _options: object, _loopback: object, listener: Any, clock: Clock) -> None:
        self._port = port
        self._listener = listener
        self.stats = SourceStats()
        self.is_up = False
        self.since_s = clock()
        self.proof_limit_s = 3_600.0

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._open())
        self._task.add_done_callback(lambda task: task.cancelled() or task.result())  # a failure is logged

    async def _open(self) -> None:
        self.is_up = True
        # Of a journal, where the relay asks for one, there is nothing to say.
        self._listener.source_up(None)
        notified, channel = self._listener.notified, DEFAULT_PG_CHANNEL
        self._inlet = await open_inlet(lambda line: notified(channel, line.decode()), port=self._port)

    def ensure_channel(self, channel: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    def is_listening(self, channel: str) -> bool:
        return self.is_up

    def use(self, channel: str) -> None: ...
    def leave(self, channel: str, *, seq: int) -> None: ...
    def give_up_before(self, floor: int) -> None: ...
    def set_busy(self, is_busy: bool) -> None: ...
    def hasten(self, *, spacing_s: float = 0.0) -> None: ...
    async def close(self) -> None: ...


class NoCatalogue:
    """Looks at nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        self.stats = mock.Mock(looks={})

    def start(self) -> None: ...
    def hasten(self) -> None: ...
    def source_up(self) -> None: ...
    def source_lost(self) -> None: ...
    async def close(self) -> None: ...


def main() -> int:
    port = free_port()
    profiled = os.environ.get(PROFILE_VARIABLE)
    with mock.patch.multiple(relay, PostgresSource=partial(LineSource, port), CatalogueWatcher=NoCatalogue):
        if profiled is None:
            return cli.serve(["--port", str(port)])
        with cProfile.Profile() as profile:
            code = cli.serve(["--port", str(port)])
    profile.dump_stats(profiled)
    return code


if __name__ == "__main__":
    sys.exit(main())
