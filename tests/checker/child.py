"""A process of the checker, seen from inside: says "ready" when it is, and ends when its standard input does.

Standard input is a pipe whose other end the run holds. However the run ends, killed included, the pipe ends with it,
so no process outlives its run.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading

STOP_POLL_S = 0.02
END_WITHIN_S = 10.0


def say_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def stop_event() -> threading.Event:
    """Is set when the run wants this process to end. Call once."""
    stop = threading.Event()

    def wait() -> None:
        # Not sys.stdin: a thread that waits in there takes the interpreter down with it at exit.
        while os.read(sys.stdin.fileno(), 1):
            pass
        stop.set()

    threading.Thread(target=wait, name="stop", daemon=True).start()
    return stop


async def run_until_stopped(*tasks: asyncio.Task[None]) -> int:
    """Wait for the run's word, cancel `tasks`, and return how many did not end by that. A task's error is raised."""
    stop = stop_event()
    while not stop.is_set():
        await asyncio.sleep(STOP_POLL_S)
        for task in tasks:
            if task.done():
                task.result()
    for task in tasks:
        task.cancel()
    _, hung = await asyncio.wait(tasks, timeout=END_WITHIN_S)
    return len(hung)
