"""What `python -m tests.bench.fanout` does: the whole benchmark, parts of it, the gate, or the soak."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence

from tests.bench.fanout import gate, install, report
from tests.bench.fanout.breakdown import run_profile
from tests.bench.fanout.campaign import Results, installed, run_case
from tests.bench.fanout.cases import CASES, Case
from tests.bench.fanout.places import NoCompiler, compiled
from tests.bench.fanout.servers import END_TO_END, PEERS, Peer
from tests.bench.fanout.servers.relays import stop_postgres

ALL_PEERS = PEERS | END_TO_END
QUICK_SECONDS = 2.0
USUAL_SECONDS = 10.0


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    wish = _parser().parse_args(arguments)
    if install.is_wanted():
        for problem in install.install():
            sys.stderr.write(f"not installed: {problem}\n")
    if wish.install:
        return 0
    try:
        for program in ("load", "publish", "floor"):
            compiled(program)
        return _run(wish)
    except NoCompiler as reason:
        sys.stderr.write(f"{reason}\n")
        return 2
    finally:
        stop_postgres()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fanout", description=__doc__)
    parser.add_argument("--cases", type=_names_of(CASES), default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument(
        "--peers", type=_names_of(ALL_PEERS), default=list(ALL_PEERS), help=f"of {', '.join(ALL_PEERS)}"
    )
    parser.add_argument("--seconds", type=float, default=USUAL_SECONDS, help="how long events come; scales the others")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round: to see that all of it runs")
    parser.add_argument("--gate", action="store_true", help="ours against the C send() loop; fails above the limit")
    parser.add_argument("--profile", action="store_true", help="of ours in each of --cases, in place of figures")
    parser.add_argument("--soak", type=int, metavar="DELIVERIES", help="of the first of --peers, or of ours")
    parser.add_argument("--install", action="store_true", help=f"with {install.VARIABLE}=1: install peers, and end")
    return parser


def _names_of(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    """A reader of names with commas between them, each of them known."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
        return names

    return read


def _run(wish: argparse.Namespace) -> int:
    if wish.gate:
        return gate.run_gate()
    if wish.soak:
        name = "ours" if len(wish.peers) == len(ALL_PEERS) else wish.peers[0]
        return gate.run_soak(wish.soak, ALL_PEERS[name])
    if wish.profile:
        for name in wish.cases:
            if not (CASES[name].is_idle or CASES[name].is_end_to_end):
                sys.stdout.write(run_profile(PEERS["ours"], CASES[name].scaled(wish.seconds / USUAL_SECONDS)))
        return 0
    results = Results()
    wanted = installed({name: ALL_PEERS[name] for name in wish.peers}, results)
    share = (QUICK_SECONDS if wish.quick else wish.seconds) / USUAL_SECONDS
    for name in wish.cases:
        case = _shortened(CASES[name], share)
        here = END_TO_END if case.is_end_to_end else PEERS
        peers: dict[str, Peer] = {name: peer for name, peer in wanted.items() if name in here}
        run_case(case, peers, 1 if wish.quick else wish.rounds, results)
        report.write(results)  # after each case: a run that is cut short leaves what it has
    plotted = report.plot(results)
    sys.stdout.write(report.table(results) + f"{plotted}\n")
    return 1 if results.failures else 0


def _shortened(case: Case, share: float) -> Case:
    if case.is_idle:
        return dataclasses.replace(case, clients=case.clients if share >= 1 else int(case.clients * share))
    return case.scaled(share)
