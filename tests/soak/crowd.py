"""A process of a soak, seen from inside: many tasks, a report each second, and an end with the run.

A task may fail only by a bug of its own or of what it tests; then the process fails, and the soak with it. What may
happen to a client of a relay under faults is in LOST.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from websockets.exceptions import WebSocketException

from tests.checker.child import run_until_stopped, say_ready
from tests.soak.plan import report_path

LOST = (OSError, EOFError, TimeoutError, WebSocketException)
REPORT_EVERY_S = 1.0

Report = dict[str, Any]  # JSON


async def take_part(directory: str, name: str, work: Iterable[Awaitable[None]], report: Callable[[], Report]) -> None:
    """Run until the soak says stop. Raises what a task raised."""

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(_finish(each))
            group.create_task(_report(directory, name, report))

    say_ready()
    if await run_until_stopped(asyncio.create_task(main())):
        raise SystemExit(f"{name} did not stop")
    write_report(directory, name, report())


async def _finish(work: Awaitable[None]) -> None:
    await work


async def _report(directory: str, name: str, report: Callable[[], Report]) -> None:
    while True:
        await asyncio.sleep(REPORT_EVERY_S)
        write_report(directory, name, report())


def write_report(directory: str, name: str, report: Report) -> None:
    """Whole or not at all: the run reads it at any time."""
    path = report_path(directory, name)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(report, default=_plain))
    os.replace(beside, path)  # noqa: PTH105  # says that it replaces


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{value!r} is not for a report")


def read_report(directory: Path, name: str) -> Report:
    """Empty before the first."""
    path = report_path(directory, name)
    return json.loads(path.read_text()) if path.exists() else {}
