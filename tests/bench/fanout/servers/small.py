"""The peers that are small programs of this bench: the C floor, and one server for each way to send from a library.

Each prints its port and that of its inlet, which takes a line for each event, and greets a client that it will send
to with the text `ready`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path

from tests.bench.fanout import processes
from tests.bench.fanout.cases import Case
from tests.bench.fanout.places import NODE_PACKAGES, PYTHON_PACKAGES, NoCompiler, compiled
from tests.bench.fanout.servers.peer import Inlet, Missing, Peer, Serving

PROGRAMS = Path(__file__).resolve().parent.parent / "programs"
MODULES = "tests.bench.fanout.programs"


@contextmanager
def _running(command: Sequence[str | Path], **more: str) -> Iterator[Serving]:
    with processes.child(command, env=processes.environment(**more)) as process:
        port, inlet = process.line().split()
        yield Serving(process.pid, Inlet("lines", int(inlet)), ("--port", port, "--wait"))


def _python(module: str, **more: str) -> Callable[[Case], AbstractContextManager[Serving]]:
    return lambda case: _running([sys.executable, "-m", f"{MODULES}.{module}"], **more)


def _never_stuck(case: Case) -> bool:
    return not case.has_stuck


def _floor(batch: int = 0) -> Peer:
    """`batch` events in one send(); 0: what one read brings. It has no answer to a client that does not read."""

    def check() -> None:
        try:
            compiled("floor")
        except NoCompiler as reason:
            raise Missing(str(reason)) from reason

    return Peer(
        f"floor-{batch}" if batch else "floor",
        open=lambda case: _running([compiled("floor"), "--batch", str(batch)]),
        check=check,
        version=lambda: "C send() loop",
        is_for=(lambda case: case.is_saturated and not case.is_stream) if batch else _never_stuck,
    )


def _check_picows() -> None:
    if not (PYTHON_PACKAGES / "picows").is_dir():
        raise Missing("picows is not installed: make bench-peers, or pip install it into the cache")


def _picows_version() -> str:
    found = next(iter(metadata.distributions(name="picows", path=[str(PYTHON_PACKAGES)])))
    return f"picows {found.version}"


def _check_ws() -> None:
    if shutil.which("node") is None:
        raise Missing("node is not installed: apt-get install nodejs")
    if not (NODE_PACKAGES / "node_modules" / "ws").is_dir():
        raise Missing("ws is not installed: make bench-peers, or npm install it into the cache")


def _ws_version() -> str:
    described = json.loads((NODE_PACKAGES / "node_modules" / "ws" / "package.json").read_text())
    node = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True, timeout=10)
    return f"ws {described['version']}, node {node.stdout.strip()}"


FLOORS = tuple(_floor(batch) for batch in (0, 10, 100, 1_000))
BROADCAST = Peer(
    "broadcast",
    open=_python("broadcast"),
    version=lambda: f"websockets {metadata.version('websockets')}, uvloop {metadata.version('uvloop')}",
    share=0.1,
)
PICOWS = Peer(
    "picows", open=_python("picows_send", PYTHONPATH=str(PYTHON_PACKAGES)), check=_check_picows, version=_picows_version
)
WS = Peer(
    "ws",
    open=lambda case: _running(
        ["node", str(PROGRAMS / "ws_send.js")], NODE_PATH=str(NODE_PACKAGES / "node_modules"), NODE_ENV="production"
    ),
    check=_check_ws,
    version=_ws_version,
    share=0.1,
)
