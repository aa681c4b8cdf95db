"""The publisher for relays: native/publish.c's events as notifications, with its options.

At a rate, an event is a transaction of its own; of a burst, and of what the window allows, up to a thousand are one.
An event's stamp is taken as its COMMIT is sent, and written on the board: a payload can not hold it, being part of
what is committed. With `--write`, as from end to end, the transaction writes a row too, and commits as the server is
set to: one that only notifies has nothing to make durable, and would be faster than any in life.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

import asyncpg

from tests.bench.fanout.programs.board import Board

BEFORE = '{"operation":"update","table":"bench","sent_at":"2030-01-01T00:00:00Z","key":["id"],"keys":["'
AFTER = '"]}'
EVENTS_PER_COMMIT = 1_000
POLL_S = 0.001


def event(seq: int, at_ns: int, size: int) -> str:
    """As native/publish.c writes it.

    >>> len(event(7, 1, 184)), event(7, 1, 184)[95:126]
    (184, '"~000000007-0000000000000000001')
    """
    return f"{BEFORE}~{seq:09}-{at_ns:019}-".ljust(size - len(AFTER), "x") + AFTER


async def commit(connection: asyncpg.Connection, wish: argparse.Namespace, board: Board, first: int, last: int) -> None:
    """Events `first` to `last` in one transaction."""
    now_ns = time.monotonic_ns()
    texts = [event(seq, now_ns, wish.size) for seq in range(first, last)]
    transaction = connection.transaction()
    await transaction.start()
    if wish.write:
        await connection.execute("UPDATE fanout_bench SET last = $1", last)
    await connection.execute("SELECT pg_notify($1, text) FROM unnest($2::text[]) text", wish.channel, texts)
    if board.has_stamps:
        now_ns = time.monotonic_ns()
        for seq in range(first, last):
            board.stamp(seq, now_ns)
    await transaction.commit()
    board.sent = last


async def publish(wish: argparse.Namespace, board: Board) -> float:
    """Returns how late an event left at most, in seconds."""
    connection = await asyncpg.connect(wish.dsn)
    if wish.write:
        await connection.execute("SET synchronous_commit = on")
        await connection.execute("DROP TABLE IF EXISTS fanout_bench; CREATE TABLE fanout_bench (last int)")
        await connection.execute("INSERT INTO fanout_bench VALUES (0)")
    begun_s, sent, turn, late_s = time.monotonic(), 0, 0, 0.0
    while sent < wish.events:
        until = wish.events
        if wish.every:
            due_s = begun_s + turn * wish.every
            await asyncio.sleep(due_s - time.monotonic())
            late_s = max(late_s, time.monotonic() - due_s)
            until = min(until, sent + wish.burst)
            turn += 1
        while sent < until:
            most = min(until, board.received + wish.window) if wish.window else until
            if most == sent:
                await asyncio.sleep(POLL_S)
                continue
            last = min(most, sent + EVENTS_PER_COMMIT)
            await commit(connection, wish, board, sent, last)
            sent = last
    await connection.close()
    return late_s


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("dsn", "channel"):
        parser.add_argument(f"--{name}", required=True)
    for name, default in (("events", 1), ("burst", 1), ("window", 0), ("size", 184)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--every", type=float, default=0.0)
    parser.add_argument("--limit", type=float, default=600.0)
    parser.add_argument("--board", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    wish = parser.parse_args()
    begun_s = time.monotonic()
    with Board(wish.board) as board:
        late_s = asyncio.run(asyncio.wait_for(publish(wish, board), wish.limit))
    seconds, cpu_us = time.monotonic() - begun_s, time.process_time() * 1e6
    sys.stdout.write(
        json.dumps({"events": wish.events, "seconds": seconds, "late_us": late_s * 1e6, "cpu_us": cpu_us}) + "\n"
    )


if __name__ == "__main__":
    main()
