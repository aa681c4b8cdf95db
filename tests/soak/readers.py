"""A process of well-behaved readers: `python -m tests.soak.readers TASK`, with `size` of each mode.

Streams hear each event of a tape, plain ones its payloads, invalidating ones at least that it changed, and slow ones,
who subscribe to the whole channel, sleep so often that the relay conflates for them.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Awaitable
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.checker.plan import from_argument
from tests.soak.crowd import LOST, Report, take_part
from tests.soak.plan import TAPES, CrowdTask, Mode, tape_channel, tape_table
from tests.soak.tape import TapeReader
from tests.soak.wire import OPEN_WITHIN_S, PAUSE_S, PING_EVERY_S, Wire

MODES: tuple[Mode, ...] = ("stream", "plain", "invalidate", "slow")
COMPLETE = ("stream", "plain")  # hear each number
PUNCTUAL = ("stream", "invalidate")  # know where they stand, and soon
SLOW_SLEEPS_S = 15.0  # above what the relay takes for a stalled write


class Reader:
    """One client, and what it heard of its tape."""

    def __init__(self, task: CrowdTask, mode: Mode, number: int) -> None:
        self.mode = mode
        self.number = number % TAPES
        self.tape = TapeReader()
        self.plain_closes: Counter[int] = Counter()
        self._url = task.url
        self._chance = random.Random(f"{task.seed} {mode} {number}")
        self.wire = Wire(
            task.url,
            {
                "t": "sub",
                "id": 1,
                "channel": tape_channel(self.number),
                "mode": "stream" if mode == "stream" else "invalidate",
            }
            | ({} if mode == "slow" else {"table": tape_table(self.number)}),
            hear=self._hear_event if mode == "stream" else self._hear_change,
            lose=self.tape.be_told_of_a_gap,
            chance=self._chance,
            sleeps_s=SLOW_SLEEPS_S if mode == "slow" else 0.0,
        )

    async def read(self) -> None:
        """For ever."""
        if self.mode == "plain":
            await self._read_plainly()
        else:
            await self.wire.listen()

    def _hear_event(self, item: list[Any]) -> None:
        _, operation, _, *detail = item
        keys = detail[0].get("keys") if detail and operation != "*" else None
        if keys is None:
            self.tape.be_told_of_a_gap()
        else:
            self.tape.hear(int(keys[0]))

    def _hear_change(self, item: list[Any]) -> None:
        self.tape.heard += 1  # conflated ones say less than numbers, and in any order

    async def _read_plainly(self) -> None:
        url = f"{self._url}/pgpubsub/{tape_channel(self.number)}"
        while True:
            try:
                async with connect(
                    url, proxy=None, open_timeout=OPEN_WITHIN_S, close_timeout=1.0, ping_interval=PING_EVERY_S
                ) as socket:
                    async for payload in socket:
                        self._hear_payload(json.loads(payload))
                    self.plain_closes[1000] += 1
            except ConnectionClosed as closed:
                self.plain_closes[closed.rcvd.code if closed.rcvd is not None else 1006] += 1
            except LOST:
                self.plain_closes[0] += 1
            self.tape.be_told_of_a_gap()  # the plain path knows no resume
            await asyncio.sleep(self._chance.uniform(*PAUSE_S))

    def _hear_payload(self, payload: dict[str, Any]) -> None:
        if payload.get("table") == tape_table(self.number):
            self.tape.hear(int(payload["keys"][0]))


def report_of(readers: list[Reader]) -> Report:
    """What the judge wants to know."""
    return {
        "readers": [
            {"mode": each.mode, "tape": each.number, "heard": each.tape} for each in readers if each.mode in COMPLETE
        ],
        "is_there": all(each.wire.epoch for each in readers if each.mode != "plain"),
        "positions": [(each.wire.epoch, each.wire.cursor) for each in readers if each.mode in PUNCTUAL],
        "heard": sum(each.tape.heard for each in readers),
        "connections": sum(each.wire.connections for each in readers),
        "resumed": sum(each.wire.resumed for each in readers),
        "closes": _sum(each.wire.closes for each in readers),
        "plain_closes": _sum(each.plain_closes for each in readers),
        "breaks": [text for each in readers for text in each.wire.breaks],
    }


def _sum(counters: Any) -> Counter[int]:  # Any: an iterable of them
    total: Counter[int] = Counter()
    for each in counters:
        total += each
    return total


async def main(task: CrowdTask) -> None:
    """Read until the soak says stop."""
    readers = [Reader(task, mode, number) for mode in MODES for number in range(task.size)]
    work: list[Awaitable[None]] = [reader.read() for reader in readers]
    await take_part(task.directory, task.name, work, lambda: report_of(readers))


if __name__ == "__main__":
    asyncio.run(main(from_argument(CrowdTask, sys.argv[1])))
