"""The regression gate and the soak: two questions with an answer of yes or no.

The gate compares CPU time a delivery of our fan-out with that of the C send() loop in the same run, so that it says
the same on any machine, and its limit is generous: it is to find a regression, not to praise.
"""

from __future__ import annotations

import dataclasses
import sys

from tests.bench.fanout.campaign import NEVER, Results, installed, run_case
from tests.bench.fanout.cases import CASES, Case
from tests.bench.fanout.servers import PEERS, Missing, Peer
from tests.bench.fanout.trial import run_trial

GATE_LIMIT = 2.0
GATE_ROUNDS = 2
GATE_SECONDS = 5.0
SOAK_CLIENTS = 1_000
SOAK_PART = 10_000_000  # deliveries of one trial


def run_gate() -> int:
    """Exit code: 1 when a delivery costs more than GATE_LIMIT times the floor's."""
    results = Results()
    peers = installed({name: PEERS[name] for name in ("floor", "ours")}, results)
    if results.skipped:
        sys.stderr.write(f"the gate can not be measured: {results.skipped}\n")
        return 2
    case = dataclasses.replace(CASES["c1000-30"], seconds=GATE_SECONDS)
    run_case(case, peers, GATE_ROUNDS, results)
    found = results.summary(case.name)
    if results.failures or len(found) != len(peers):
        return 2
    ratio = found["ours"]["cpu_us"] / found["floor"]["cpu_us"]
    faults = {name: found["ours"][name] for name in NEVER if found["ours"][name]}
    is_passed = ratio <= GATE_LIMIT and not faults
    sys.stdout.write(
        f"{'passed' if is_passed else 'FAILED'}: {found['ours']['cpu_us']:.2f} us a delivery, {ratio:.2f} times the "
        f"C send() loop's {found['floor']['cpu_us']:.2f}; the limit is {GATE_LIMIT:g}. Faults: {faults or 'none'}\n"
    )
    return 0 if is_passed else 1


def run_soak(deliveries: int, peer: Peer) -> int:
    """Exit code: 1 when one event was lost, came twice, or out of order."""
    try:
        peer.check()
    except Missing as reason:
        sys.stderr.write(f"{peer.name} is missing: {reason}\n")
        return 2
    done = 0
    faults = dict.fromkeys(NEVER, 0)
    while done < deliveries:
        events = -(-min(SOAK_PART, deliveries - done) // SOAK_CLIENTS)
        figures = run_trial(peer, Case("soak", clients=SOAK_CLIENTS, events=events))
        done += figures["deliveries"]
        for name in NEVER:
            faults[name] += figures[name]
        sys.stderr.write(f"{done:,} deliveries, {figures['cpu_us']:.3f} us each, {faults}\n")
        if any(faults.values()):
            break
    told = ", ".join(f"{name} {count}" for name, count in faults.items())
    sys.stdout.write(f"{peer.name}: {done:,} deliveries to {SOAK_CLIENTS:,} clients: {told}\n")
    return 1 if any(faults.values()) else 0
