"""Autobahn's fuzzing client, which knows RFC 6455 case by case, and two echo servers for it: ours and the library's.

The suite runs on Python 2.7 only. Its packages are installed once, at one version, below `.venv/autobahn`; a lock file
keeps two workers from doing it at once. `autobahn_command()` says how to start it, or raises AutobahnUnavailable with
the reason, so that what needs it can skip by name.

Both servers run on uvloop, as the relay does, and answer the same client in one run: what differs is theirs.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import shutil
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from pgcachewatch_daemon.io.websocket import Connection, HttpRequest, SocketLimits, WebSocketServer
from pgcachewatch_daemon.io.websocket.frames import binary_frame, deflated_frame, text_frame

ROOT = Path(__file__).resolve().parent.parent.parent
HOME = ROOT / ".venv" / "autobahn"
PACKAGE = "autobahntestsuite==25.10.1"
INSTALL_TIMEOUT_S = 300
MESSAGE_BYTES = 32_000_000  # the largest case sends 16 MiB
# The folder holds a package that is found by a .pth file only, which the interpreter reads where it is told to.
START = "import site; site.addsitedir({home!r}); from autobahntestsuite.wstest import run; run()"
OURS, LIBRARY = "ours", "library"


class AutobahnUnavailable(Exception):
    """The suite can not be had here; the text says why."""


def autobahn_command() -> list[str]:
    """How to start the suite's `wstest`."""
    python = _python_2()
    HOME.parent.mkdir(parents=True, exist_ok=True)
    with (HOME.parent / "autobahn.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        done = HOME / PACKAGE
        if not done.exists():
            shutil.rmtree(HOME, ignore_errors=True)
            _install(python)
            done.touch()
    return [python, "-W", "ignore", "-c", START.format(home=str(HOME))]


def _python_2() -> str:
    """An interpreter that answers: what PATH names may be the shim of a version that is not chosen."""
    versions = sorted((Path.home() / ".pyenv" / "versions").glob("2.7.*/bin/python2.7"))
    for candidate in [shutil.which("python2.7"), *map(str, versions)]:
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return candidate
    raise AutobahnUnavailable("Autobahn's test suite needs Python 2.7, which is not on this machine")


def _install(python: str) -> None:
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(HOME), PACKAGE]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise AutobahnUnavailable(f"installing {PACKAGE} took over {INSTALL_TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise AutobahnUnavailable(f"{PACKAGE} can not be installed: {reason}") from error


class Echo:
    """An Application that says what it hears, in the frame's own kind."""

    def __init__(self) -> None:
        self._unsent: dict[Connection, list[bytes]] = {}

    def requested(self, connection: Connection, request: HttpRequest) -> None:
        if connection.check_upgrade(None, windows=range(9, 16)):
            self._unsent[connection] = []
            connection.upgrade()

    def received(self, connection: Connection, frame: str | bytes) -> None:
        if connection.is_deflated:
            data = deflated_frame(frame, window_bits=connection.window_bits)
        else:
            data = text_frame(frame) if isinstance(frame, str) else binary_frame(frame)
        self._unsent[connection].append(data)
        self.drained(connection)

    def drained(self, connection: Connection) -> None:
        unsent = self._unsent[connection]
        while unsent and connection.is_live and not connection.is_full:
            connection.send(unsent.pop(0))

    def filled(self, connection: Connection) -> None:
        pass

    def expired(self, connection: Connection) -> None:
        pass

    def gone(self, connection: Connection) -> None:
        self._unsent.pop(connection, None)


async def _echo(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass  # many a case ends so


def verdicts(
    command: Sequence[str], folder: Path, *, cases: Collection[str], but: Collection[str] = (), timeout_s: float
) -> dict[str, dict[str, str]]:
    """By server and case, what the suite says of it: OK, NON-STRICT, INFORMATIONAL, FAILED and so on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_fuzz(command, folder, cases=cases, but=but, timeout_s=timeout_s))
    index = json.loads((folder / "reports" / "index.json").read_text())
    # The suite judges the closing handshake apart from the rest.
    return {
        agent: {case: max(each["behavior"], each["behaviorClose"], key=badness) for case, each in found.items()}
        for agent, found in index.items()
    }


BEST_FIRST = (
    "OK",
    "INFORMATIONAL",
    "NON-STRICT",
    "UNIMPLEMENTED",
    "WRONG CODE",
    "UNCLEAN",
    "FAILED BY CLIENT",
    "FAILED",
)


def badness(verdict: str) -> int:
    """The larger the worse; what nobody has heard of is the worst."""
    return BEST_FIRST.index(verdict) if verdict in BEST_FIRST else len(BEST_FIRST)


async def _fuzz(
    command: Sequence[str], folder: Path, *, cases: Collection[str], but: Collection[str], timeout_s: float
) -> None:
    loop = asyncio.get_running_loop()
    ours = WebSocketServer(Echo(), SocketLimits(frame_bytes=MESSAGE_BYTES), clock=loop.time)
    await ours.start("127.0.0.1", 0)
    silent = logging.Logger("websockets", logging.CRITICAL + 1)
    try:
        async with serve(_echo, "127.0.0.1", 0, max_size=MESSAGE_BYTES, logger=silent) as library:
            ports = {OURS: ours.port, LIBRARY: next(iter(library.sockets)).getsockname()[1]}
            specification = folder / "fuzzingclient.json"
            specification.write_text(
                json.dumps(
                    {
                        "outdir": str(folder / "reports"),
                        "servers": [{"agent": agent, "url": f"ws://127.0.0.1:{port}"} for agent, port in ports.items()],
                        "cases": list(cases),
                        "exclude-cases": list(but),
                    }
                )
            )
            await _run([*command, "--mode", "fuzzingclient", "--spec", str(specification)], timeout_s=timeout_s)
    finally:
        await ours.close()


async def _run(command: Sequence[str], *, timeout_s: float) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout_s)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode(errors="replace")[-2_000:]
