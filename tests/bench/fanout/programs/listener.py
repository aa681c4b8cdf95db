"""Clients that LISTEN themselves, each with a connection of its own: what a relay is in the place of.

Takes the load's options, as far as they concern it, and prints what the load prints.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

import asyncpg
import uvloop

from tests.bench.fanout.programs.board import Board


class Tally:
    """What all clients received. They are in order by what a connection is, so one number each is enough."""

    def __init__(self, wish: argparse.Namespace, board: Board) -> None:
        self._wish = wish
        self._board = board
        self._expected = [0] * wish.clients
        self._missing = wish.clients * wish.events
        self.latencies_ns: list[int] = []
        self.deliveries = self.lost = self.duplicated = self.first_ns = self.last_ns = 0
        self.done = asyncio.Event()

    def received(self, client: int, payload: str) -> None:
        now_ns = time.monotonic_ns()
        seq = int(payload.partition("~")[2].partition("-")[0])
        self.first_ns = self.first_ns or now_ns
        self.last_ns = now_ns
        self.deliveries += 1
        expected = self._expected[client]
        self.lost += max(0, seq - expected)
        self.duplicated += seq < expected
        self._missing -= max(0, seq + 1 - expected)
        self._expected[client] = max(expected, seq + 1)
        if seq >= self._wish.warm:
            self.latencies_ns.append(now_ns - self._board.stamp_of(seq))
        if self._missing == 0:
            self.done.set()

    def printed(self, connecting_us: float) -> str:
        self.lost += self._missing
        ordered = sorted(self.latencies_ns) or [0]
        of_count = {"p50": ordered[len(ordered) // 2], "p99": ordered[len(ordered) * 99 // 100], "max": ordered[-1]}
        nothing = dict.fromkeys(("closed", "reordered", "conflated", "wide", "malformed", "chain_breaks"), 0)
        return json.dumps(
            nothing
            | {"clients": len(self._expected), "deliveries": self.deliveries, "lost": self.lost}
            | {"duplicated": self.duplicated, "first_ns": self.first_ns, "last_ns": self.last_ns, "complaint": ""}
            | {"latency_us": {"count": len(ordered)} | {name: value / 1e3 for name, value in of_count.items()}}
            | {"cpu_us": time.process_time() * 1e6 - connecting_us}
        )


async def listen(wish: argparse.Namespace) -> None:
    connections = []
    with Board(wish.board) as board:
        tally = Tally(wish, board)
        for client in range(wish.clients):
            connection = await asyncpg.connect(wish.dsn)
            await connection.add_listener(wish.channel, lambda *told, client=client: tally.received(client, told[3]))
            connections.append(connection)
        connecting_us = time.process_time() * 1e6
        sys.stdout.write(json.dumps({"ready": wish.clients}) + "\n")
        sys.stdout.flush()
        try:
            async with asyncio.timeout(wish.limit):
                await tally.done.wait()
        except TimeoutError:
            pass  # what is missing then is printed as lost
        sys.stdout.write(tally.printed(connecting_us) + "\n")
        sys.stdout.flush()
        for connection in connections:
            connection.terminate()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--channel", required=True)
    for name in ("clients", "events", "warm"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--board", type=Path, required=True)
    wish, _ = parser.parse_known_args()
    uvloop.run(listen(wish))


if __name__ == "__main__":
    main()
