"""What the primary hands to workers; what they make of it together is in tests/integration/test_workers.py."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.core.loopback import LoopbackLimits
from pgcachewatch_daemon.io.metrics import METRICS
from pgcachewatch_daemon.io.websocket import TlsOptions
from pgcachewatch_daemon.relay import Relay, RelayOptions
from pgcachewatch_daemon.workers import sockets
from pgcachewatch_daemon.workers.primary import PrimaryRelay
from tests.raw_client import get, options
from tests.waiting import eventually


async def test_what_it_counts_itself_and_what_workers_count_are_the_table() -> None:
    relay = PrimaryRelay(RelayOptions(port=0, workers=4))
    text = (await relay._scrapes.ask()).decode()
    own = set(relay._readings())
    assert own | set(Relay(RelayOptions()).client_readings()) == {row.name for row in METRICS}
    assert all(f"# TYPE {row.full_name} " in text for row in METRICS)
    await relay.close()


async def test_it_serves_without_postgresql_and_says_so_and_leaves_when_stopped() -> None:
    unreachable = options("postgresql://u@127.0.0.1:1/d", workers=1)
    relay = PrimaryRelay(unreachable)
    await relay.start()
    assert list(relay.workers) == [1]
    assert (await get(relay, "/livez")).status_code == 200
    assert (await get(relay, "/readyz")).json()["checks"]["source"]["ok"] is False
    relay.stop()
    await relay.run()
    await relay.close()
    assert not relay.workers


async def test_one_that_is_stopped_while_it_starts_leaves_nobody_behind() -> None:
    relay = PrimaryRelay(replace(options("postgresql://u@127.0.0.1:1/d"), workers=2))
    relay.stop()
    await relay.start()
    await relay.run()
    await relay.close()
    assert not relay._staff.serving


async def test_a_worker_that_was_killed_is_another_process_soon() -> None:
    async with PrimaryRelay(options("postgresql://u@127.0.0.1:1/d", workers=1)) as relay:
        killed = relay.workers[1]
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: relay.workers.get(1, killed) != killed)


async def test_a_port_that_is_taken_is_refused_before_a_worker_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "HOLD_WITHIN_S", 0.1)
    async with PrimaryRelay(options("postgresql://u@127.0.0.1:1/d", workers=1)) as first:
        second = PrimaryRelay(replace(options("postgresql://u@127.0.0.1:1/d"), workers=2, port=first.port))
        with pytest.raises(OSError, match="in use"):
            await second.start()
        await second.close()


async def test_files_that_no_worker_could_use_are_refused_before_any_is_told() -> None:
    relay = PrimaryRelay(RelayOptions(port=0, workers=2))
    before = relay.options
    for broken in (
        replace(before, tls=TlsOptions(certificate_file="/none", key_file="/none")),
        replace(before, access=replace(before.access, tokens_file="/none")),
    ):
        with pytest.raises(ConfigurationError):
            relay.prepare(replace(broken, barriers=LoopbackLimits(barriers=5)))()
    assert relay.options == before
    assert relay._loopback.limits == before.barriers
    await relay.close()
