"""The real relay as a process of its own, for tests that kill it, stop it or speak to it from outside.

`RelayProcess(dsn)` starts `python -m pgcachewatch serve` on a free port and is entered when `/readyz` says 200, that is
when a loopback has come back. It is killed at the end whatever happened. What it printed is in `log()`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from types import TracebackType
from typing import Self

READY_WITHIN_S = 60.0
ANSWER_WITHIN_S = 30.0
POLL_S = 0.02
LISTENING = re.compile(r"relay listening host=\S+ port=(\d+)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RelayProcess:
    """One relay. `settings` are environment variables without their prefix, in lower case.

    `trust` is set by who gives it TLS: what clients use. The first start chooses the port, unless one is given; every
    later start takes the same one.
    """

    def __init__(self, dsn: str, *, port: int = 0, **settings: str) -> None:
        self.port = port
        self.trust: ssl.SSLContext | None = None
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PGCACHEWATCH_")},
            "PGCACHEWATCH_DSN": dsn,
            "PGCACHEWATCH_LOG_FORMAT": "text",
            **{f"PGCACHEWATCH_{name.upper()}": value for name, value in settings.items()},
        }
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Known once the relay listens."""
        return f"{'wss' if self.trust else 'ws'}://127.0.0.1:{self.port}"

    @property
    def http(self) -> str:
        return f"{'https' if self.trust else 'http'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the relay was not started"
        return self._process.pid

    def start(self) -> None:
        command = [sys.executable, "-m", "pgcachewatch", "serve"]
        environment = {**self._environment, "PGCACHEWATCH_PORT": str(self.port)}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output
        )

    def wait_ready(self) -> None:
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not self.is_ready():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise AssertionError(f"the relay did not become ready:\n{self.log()}")
            time.sleep(POLL_S)

    def is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; status 0 when nobody answers."""
        if not self.port:
            listening = LISTENING.search(self.log())
            if listening is None:
                return 0, ""
            self.port = int(listening[1])
        try:
            with urllib.request.urlopen(self.http + path, timeout=ANSWER_WITHIN_S, context=self.trust) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()
        except OSError:
            return 0, ""

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout_s: float = READY_WITHIN_S) -> int:
        """Exit code."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def log(self) -> str:
        # Not seek and read: the relay writes where this file's position is.
        handle = self._output.fileno()
        return os.pread(handle, os.fstat(handle).st_size, 0).decode(errors="replace")

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._output.close()

    async def __aenter__(self) -> Self:
        """The same beside an event loop that the relay needs meanwhile, as that of a proxy before its server."""
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
