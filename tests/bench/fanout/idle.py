"""Clients that only are there: what each costs in memory, as the slope over many, and in CPU time to connect and keep.

The clients come in steps, each with a load of its own. The slope is that of a straight line through all steps but the
first, so that what a server takes for itself, once, is not in it.
"""

from __future__ import annotations

import json
import statistics
import time
from contextlib import ExitStack

from tests.bench.fanout import processes
from tests.bench.fanout.cases import Case
from tests.bench.fanout.places import compiled
from tests.bench.fanout.servers import Peer
from tests.bench.fanout.trial import Figures

STEPS = 5
HOLD_S = 5.0
LIMIT_S = 300.0


def run_idle(peer: Peer, case: Case) -> Figures:
    """Raises processes.Failed when clients can not connect."""
    clients = case.clients // STEPS
    counts, resident_kb = [0], []
    connect_us = 0.0
    with ExitStack() as running:
        serving = running.enter_context(peer.open(case))
        resident_kb.append(processes.resident_kb(serving.pid))
        begun_us = processes.cpu_us(serving.pid)
        for step in range(1, STEPS + 1):
            names = ("--clients", str(clients), "--events", "0", "--limit", str(LIMIT_S))
            load = running.enter_context(processes.child([compiled("load"), *serving.options, *names]))
            json.loads(load.line(LIMIT_S))
            connect_us = processes.cpu_us(serving.pid) - begun_us
            processes.await_calm(serving.pid)
            counts.append(step * clients)
            resident_kb.append(processes.resident_kb(serving.pid))
        before_us = processes.cpu_us(serving.pid)
        time.sleep(HOLD_S)
        idle_us = processes.cpu_us(serving.pid) - before_us
    return {
        "clients": counts[-1],
        "resident_per_client_kb": statistics.linear_regression(counts[1:], resident_kb[1:]).slope,
        "resident_kb": dict(zip(map(str, counts), resident_kb, strict=True)),
        "connect_cpu_us": connect_us / counts[-1],
        "idle_cpu_us_per_client_s": idle_us / counts[-1] / HOLD_S,
    }
