"""One trial: one peer, one case. Starts the server, the load, then the publisher, and returns the figures.

CPU time is that of the server alone, with its descendants, from when it had come to rest behind its last client's
arrival until the load has everything. PostgreSQL's, the publisher's and the load's are not in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.fanout import processes
from tests.bench.fanout.cases import WAKE_S, Case
from tests.bench.fanout.places import compiled
from tests.bench.fanout.programs.board import new_board
from tests.bench.fanout.servers import Inlet, Peer, Serving

Figures = dict[str, Any]  # JSON
CHANNEL = "ch_pgcachewatch_table_change"
SLOWEST_DELIVERY_US = 60.0  # no peer takes longer: what exceeds this has hung
GRACE_S = 30.0
PUBLISHER_GRACE_S = 2.0
LOOK_S = 0.2


def run_trial(peer: Peer, case: Case, *, has_stamps: bool = False) -> Figures:
    """Raises processes.Failed when something did not run as it should. `has_stamps`: latency counts from COMMIT."""
    limit_s = GRACE_S + 1.5 * case.seconds + case.clients * case.count * SLOWEST_DELIVERY_US / 1e6
    with ExitStack() as running:
        board = running.enter_context(new_board(stamps=case.count if has_stamps else 0))
        serving = running.enter_context(peer.open(case))
        empty_kb = processes.resident_kb(serving.pid) if serving.pid else 0.0
        load = running.enter_context(processes.child(load_command(serving, case, board, limit_s)))
        ready = json.loads(load.line(limit_s))
        pid = serving.pid or load.pid
        processes.await_calm(pid)
        ready_kb, before_us, ticks = processes.resident_kb(pid), processes.cpu_us(pid), processes.kernel_ticks(pid)
        publisher = running.enter_context(processes.child(publish_command(serving.inlet, case, board, limit_s)))
        answer, used_us, peak_kb = _watch(load, pid, limit_s)
        kernel, total = (after - before for after, before in zip(processes.kernel_ticks(pid), ticks, strict=True))
        late_ms = _lateness_ms(publisher)
    # A load that is measured itself is gone by now, and has told what it used.
    figures = _figures(answer, case, answer["cpu_us"] if serving.own_load else used_us - before_us)
    figures |= {
        "connect_us": ready.get("cpu_us", 0) / case.clients,
        "resident_per_client_kb": (ready_kb - empty_kb) / case.clients,
        "growth_kb": peak_kb - ready_kb,
        "kernel_percent": 100 * kernel / total if total > 0 else None,
        "peak_kb": peak_kb,
        "publisher_late_ms": late_ms,
    }
    return figures


def load_command(serving: Serving, case: Case, board: Path, limit_s: float) -> Sequence[str | Path]:
    program: Sequence[str | Path] = serving.own_load or (compiled("load"), *serving.options)
    counts = {"clients": case.clients, "events": case.count, "warm": case.warm, "step": case.step}
    numbers = [text for name, value in counts.items() for text in (f"--{name}", str(value))]
    stuck = ["--wake", f"{min(WAKE_S, 0.7 * case.seconds)}"] if case.has_stuck else []
    return [*program, *numbers, "--size", str(case.event_bytes), "--limit", f"{limit_s}", "--board", board, *stuck]


def publish_command(inlet: Inlet, case: Case, board: Path, limit_s: float) -> Sequence[str | Path]:
    if inlet.dialect == "postgres":
        module = "tests.bench.fanout.programs.publish_postgres"
        target: list[str | Path] = [sys.executable, "-m", module, "--dsn", inlet.dsn, "--channel", CHANNEL]
    else:
        target = [compiled("publish"), "--port", str(inlet.port), "--dialect", inlet.dialect]
    pace = ["--window", str(case.window)] if case.is_saturated else ["--every", f"{case.every_s:.9f}"]
    if case.is_end_to_end:
        target.append("--write")
    counts = ["--events", str(case.count), "--burst", str(case.burst), "--size", str(case.event_bytes)]
    return [*target, *counts, *pace, "--limit", f"{limit_s}", "--board", board]


def _watch(load: processes.Child, pid: int, limit_s: float) -> tuple[Figures, float, float]:
    """The load's answer, the server's CPU time at that moment, and the most memory it had until then."""
    peak_kb = 0.0
    deadline_s = time.monotonic() + limit_s + GRACE_S
    while load.poll() is None and time.monotonic() < deadline_s:
        peak_kb = max(peak_kb, processes.resident_kb(pid))
        try:
            load.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            pass  # it goes on
    used_us = processes.cpu_us(pid)
    return json.loads(load.line()), used_us, peak_kb


def _lateness_ms(publisher: processes.Child) -> float | None:
    """How late an event left at most; None when the load had enough before the publisher had told it all."""
    try:
        return float(json.loads(publisher.line(PUBLISHER_GRACE_S))["late_us"]) / 1_000
    except processes.Failed:
        return None  # what is missing is in the load's counts


def _figures(answer: Figures, case: Case, used_us: float) -> Figures:
    deliveries = max(1, answer["deliveries"])
    span_s = max(1, answer["last_ns"] - answer["first_ns"]) / 1e9
    own = "latency_us", "mark_age_ms", "mark_interval_ms"
    kept = {name: value for name, value in answer.items() if name not in (*own, "first_ns", "last_ns", "cpu_us")}
    figures = kept | {
        "cpu_us": used_us / deliveries,
        "load_cpu_us": answer["cpu_us"] / deliveries,
        "deliveries_per_s": answer["deliveries"] / span_s,
        "expected": case.clients * case.count,
    }
    for share in ("p50", "p99", "max"):
        figures[f"{share}_ms"] = answer["latency_us"][share] / 1_000
    for name in ("mark_age", "mark_interval"):
        times = answer.get(f"{name}_ms", {"count": 0})
        if times["count"]:
            figures |= {f"{name}_{share}_ms": times[share] for share in ("p50", "p99", "max")}
    return figures
