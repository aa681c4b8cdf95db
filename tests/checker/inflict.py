"""Makes the planned faults happen to a stage.

Every fault is undone by itself, also when the run is cancelled. One that found nothing to strike (no LISTEN session,
since PostgreSQL was being restarted) did not happen and is not counted.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import asyncpg

from pgcachewatch_daemon.embedded import EmbeddedPostgres
from tests.checker.deaf import stay_deaf
from tests.checker.faults import Fault, Happened
from tests.checker.plan import CHANNEL, TABLE, RunSettings
from tests.checker.processes import Child
from tests.checker.source import SOURCE_ERRORS
from tests.proxy import Direction, Proxy
from tests.relay_process import RelayProcess

BURST_EVENTS = 10_000
ADMIN_TIMEOUT_S = 10.0
RELAY_ENDS_WITHIN_S = 10.0

# A session that listens can not be told from outside, except by its name or by its last words.
FIND_LISTENERS = """
    SELECT pid FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND (application_name = 'pgcachewatch relay' OR query ILIKE 'listen %')
"""
# Each payload differs, as PostgreSQL sends equal ones of a transaction once.
BURST = f"""
    SELECT pg_notify('{CHANNEL}', json_build_object(
        'operation', 'update', 'table', '{TABLE}', 'sent_at', now() + number * interval '1 microsecond',
        'key', json_build_array('key'),
        'keys', CASE WHEN number % 2 = 0 THEN json_build_array((number % 16)::text) END)::text)
    FROM generate_series(1, {BURST_EVENTS}) AS number
"""
# The same in journal mode, where nothing is notified. No trigger fires, so it is read when the relay looks next.
JOURNAL_BURST = f"""
    INSERT INTO pgcachewatch.journal (shape, rel, op, keys)
    SELECT (SELECT max(id) FROM pgcachewatch.shapes), '{TABLE}'::regclass, 'u',
        CASE WHEN number % 2 = 0 THEN ARRAY[(number % 16)::text] END
    FROM generate_series(1, {BURST_EVENTS}) AS number
    RETURNING seq
"""


class DidNotHappen(Exception):
    """There was nothing to strike."""


class Struck(Protocol):
    """A process of clients, and the link that it reaches the relay by."""

    @property
    def child(self) -> Child: ...
    @property
    def link(self) -> Proxy: ...


class Scene(Protocol):
    """What faults can strike. The relay reaches PostgreSQL by `source`."""

    @property
    def settings(self) -> RunSettings: ...
    @property
    def server(self) -> EmbeddedPostgres: ...
    @property
    def source(self) -> Proxy: ...
    @property
    def relay(self) -> RelayProcess: ...
    @property
    def readers(self) -> Sequence[Struck]: ...
    def relay_taken_down(self) -> AbstractContextManager[RelayProcess]: ...


class Inflictor:
    """Plays a plan; `happened` is what became of it."""

    def __init__(self, stage: Scene, seed: int) -> None:
        self.happened: list[Happened] = []
        self.did_not_happen = 0
        self._stage = stage
        self._chance = random.Random(seed)
        # The plan keeps faults of one component apart; one that takes longer than planned is waited for.
        self._components: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._faults: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "listen_backend_terminated": self._terminate_listener,
            "listen_backend_killed": self._kill_listener,
            "postgres_restarted": self._restart_postgres,
            "postgres_killed": self._kill_postgres,
            "relay_killed": self._kill_relay,
            "relay_restarted": self._restart_relay,
            "relay_stopped": self._stop_relay,
            "relay_reloaded": self._reload_relay,
            "source_cut": self._cut,
            "source_black_holed": self._black_hole,
            "source_stalled": self._stall,
            "link_cut": self._cut,
            "link_stalled": self._stall,
            "link_stalled_down": functools.partial(self._stall, directions=("down",)),
            "link_stalled_up": functools.partial(self._stall, directions=("up",)),
            "link_black_holed": self._black_hole,
            "client_stopped": self._stop_client,
            "client_stopped_long": self._stop_client,
            "burst": self._burst,
            "deaf_client": self._deafen,
        }

    @property
    def kinds(self) -> set[str]:
        """What it can do."""
        return set(self._faults)

    async def play(self, plan: list[Fault]) -> None:
        """Returns when all faults are over."""
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in plan:
                await asyncio.sleep(began_s + fault.at_s - time.monotonic())
                group.create_task(self._inflict(fault))
        self.happened.sort(key=lambda happened: happened.started_s)

    async def _inflict(self, fault: Fault) -> None:
        async with self._components[fault.component]:
            started_s = time.monotonic()
            try:
                await self._faults[fault.kind](fault)
            except (DidNotHappen, *SOURCE_ERRORS):
                self.did_not_happen += 1
            else:
                self.happened.append(Happened(fault.kind, fault.reader, started_s, time.monotonic()))

    # --- PostgreSQL

    async def _terminate_listener(self, fault: Fault) -> None:
        await self._on_database(f"SELECT pg_terminate_backend(pid) FROM ({FIND_LISTENERS}) AS listeners")

    async def _kill_listener(self, fault: Fault) -> None:
        pids = await self._on_database(FIND_LISTENERS)
        os.kill(self._chance.choice(pids), signal.SIGKILL)

    async def _restart_postgres(self, fault: Fault) -> None:
        await asyncio.to_thread(self._stage.server.restart)

    async def _kill_postgres(self, fault: Fault) -> None:
        await asyncio.to_thread(self._stage.server.kill)
        try:
            await asyncio.sleep(fault.length_s)
        finally:
            await asyncio.to_thread(self._stage.server.start)

    async def _on_database(self, query: str) -> list[int]:
        """The first column. Raises DidNotHappen when there are no rows."""
        connection = await asyncpg.connect(self._stage.server.dsn, timeout=ADMIN_TIMEOUT_S)
        try:
            rows = await connection.fetch(query, timeout=ADMIN_TIMEOUT_S)
        finally:
            connection.terminate()
        if not rows:
            raise DidNotHappen
        return [row[0] for row in rows]

    # --- the relay

    async def _kill_relay(self, fault: Fault) -> None:
        with self._stage.relay_taken_down() as relay:
            await asyncio.to_thread(relay.kill)
            await asyncio.sleep(fault.length_s)

    async def _restart_relay(self, fault: Fault) -> None:
        with self._stage.relay_taken_down() as relay:
            relay.signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(relay.wait, RELAY_ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                await asyncio.to_thread(relay.kill)

    async def _stop_relay(self, fault: Fault) -> None:
        self._stage.relay.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.length_s)
        finally:
            self._stage.relay.signal(signal.SIGCONT)

    async def _reload_relay(self, fault: Fault) -> None:
        self._stage.relay.signal(signal.SIGHUP)

    # --- networks

    async def _cut(self, fault: Fault) -> None:
        proxy = self._proxy(fault)
        if not proxy.connections:
            raise DidNotHappen
        proxy.cut()

    async def _black_hole(self, fault: Fault) -> None:
        proxy = self._proxy(fault)
        proxy.black_hole()
        try:
            await asyncio.sleep(fault.length_s)
        finally:
            proxy.forward()

    async def _stall(self, fault: Fault, *, directions: tuple[Direction, ...] = ()) -> None:
        proxy = self._proxy(fault)
        proxy.stall(*directions)
        try:
            await asyncio.sleep(fault.length_s)
        finally:
            proxy.forward()

    def _proxy(self, fault: Fault) -> Proxy:
        return self._stage.source if fault.reader is None else self._stage.readers[fault.reader].link

    # --- clients and load

    async def _stop_client(self, fault: Fault) -> None:
        assert fault.reader is not None
        child = self._stage.readers[fault.reader].child
        child.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.length_s)
        finally:
            child.signal(signal.SIGCONT)

    async def _burst(self, fault: Fault) -> None:
        await self._on_database(JOURNAL_BURST if self._stage.settings.mode == "journal" else BURST)

    async def _deafen(self, fault: Fault) -> None:
        is_original = self._stage.settings.is_original
        async with stay_deaf(self._stage.relay.port, is_original=is_original):
            await self._burst(fault)
            await asyncio.sleep(fault.length_s)
