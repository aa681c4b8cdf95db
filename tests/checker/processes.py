"""The processes that a run starts: readers, writers, and the original's relay. Ours comes from tests/relay_process.

A child holds one end of a pipe and ends with it; see tests/checker/child. What it prints on its error stream is kept in
a file of the run's folder.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tests.checker.plan import Task, to_argument
from tests.relay_process import RelayProcess, free_port

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 30.0
STOP_WITHIN_S = 30.0
SHOWN_CHARACTERS = 2_000


class ChildFailed(Exception):
    """A process of the run did not start, or did not end in order; the text has the end of what it printed."""


class Child:
    """A reader or a writer."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, errors: Path) -> None:
        self.name = name
        self._process = process
        self._errors = errors

    @classmethod
    async def start(cls, python: Path | str, module: str, task: Task) -> Self:
        """Start `python -m module` with its task."""
        errors = Path(task.directory) / f"{task.name}.errors"
        with errors.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                python,
                *("-m", module, to_argument(task)),
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C reaches the run alone, which stops in its own order
            )
        return cls(task.name, process, errors)

    async def ready(self) -> None:
        """Return when it says so."""
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), READY_WITHIN_S)
        except TimeoutError:
            line = b""
        if line != b"ready\n":
            raise ChildFailed(f"{self.name} did not get ready: {self._said()}")

    def signal(self, number: signal.Signals) -> None:
        """Harmless when it has ended."""
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self) -> None:
        """End it in order. Raises ChildFailed when it fails in doing so, or had failed before."""
        assert self._process.stdin is not None
        self.signal(signal.SIGCONT)
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_WITHIN_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            raise ChildFailed(f"{self.name} did not stop within {STOP_WITHIN_S} s: {self._said()}") from None
        if self._process.returncode != 0:
            raise ChildFailed(f"{self.name} ended with {self._process.returncode}: {self._said()}")

    async def kill(self) -> None:
        """Whatever it is doing. Harmless when it has ended."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def _said(self) -> str:
        return self._errors.read_text(errors="replace")[-SHOWN_CHARACTERS:].strip() or "it said nothing"


class OriginalRelay(RelayProcess):
    """The relay of the original library: its application under uvicorn, by its own interpreter."""

    def __init__(self, python: Path, dsn: str) -> None:
        super().__init__(dsn, port=free_port())
        self._python = python
        address = urlsplit(dsn)
        self._environment |= {
            "PGHOST": address.hostname or "",
            "PGPORT": str(address.port),
            "PGUSER": address.username or "",
            "PGPASSWORD": address.password or "",
            "PGDATABASE": address.path.removeprefix("/"),
        }

    def start(self) -> None:
        application = "pgcachewatch.pg_event_distributor:main"
        options = ("--factory", "--host", "127.0.0.1", "--port", str(self.port), "--log-level", "warning")
        self._process = subprocess.Popen(
            [self._python, "-m", "uvicorn", application, *options],
            cwd=os.sep,  # not the checkout, whose folders could be taken for packages
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
        )

    def is_ready(self) -> bool:
        return self.get("/up")[0] == 200
