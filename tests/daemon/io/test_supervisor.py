"""What the service manager is told, received by a socket as systemd's."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgcachewatch_daemon.io.supervisor import Supervisor
from tests.relay_process import RelayProcess
from tests.waiting import LIMIT_S

PID = 4711
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no systemd, and no unix socket")


class Manager:
    """Receives in order. `address` is what NOTIFY_SOCKET says."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(LIMIT_S)

    def next(self) -> str:
        return self._socket.recv(100).decode()

    def is_silent(self) -> bool:
        self._socket.setblocking(False)
        try:
            self._socket.recv(100)
        except BlockingIOError:
            return True
        finally:
            self._socket.settimeout(LIMIT_S)
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("only Linux has sockets without a file")
    manager = Manager(str(tmp_path / "notify") if request.param == "file" else f"@pgcw-test-{os.getpid()}")
    yield manager
    manager.close()


async def test_start_and_end_are_told(manager: Manager) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": manager.address}, pid=PID)

    supervisor.ready()
    supervisor.stopping()
    supervisor.close()

    assert [manager.next(), manager.next()] == ["READY=1", "STOPPING=1"]
    assert manager.is_silent()


async def test_signs_of_life_come_until_the_end(manager: Manager) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000"}, pid=PID)

    supervisor.ready()
    received = [await asyncio.to_thread(manager.next) for _ in range(4)]
    supervisor.close()

    assert received == ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]


async def test_watchdog_of_another_process_is_left_to_it(manager: Manager) -> None:
    told = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000", "WATCHDOG_PID": str(PID + 1)}
    supervisor = Supervisor(told, pid=PID)

    supervisor.ready()

    assert manager.next() == "READY=1"
    assert manager.is_silent()


async def test_nobody_is_told_when_nobody_asked() -> None:
    supervisor = Supervisor({"WATCHDOG_USEC": "3000"}, pid=PID)

    supervisor.ready()
    supervisor.stopping()
    supervisor.close()


async def test_manager_that_is_gone_harms_nothing(tmp_path: Path) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": str(tmp_path / "nobody")}, pid=PID)

    supervisor.ready()


def test_relay_is_started_for_its_manager_once_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Manager(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    relay = RelayProcess(NO_DATABASE)
    relay.start()
    try:
        assert manager.next() == "READY=1"
        assert relay.get("/livez")[0] == 200
        assert manager.next() == "WATCHDOG=1"

        relay.signal(signal.SIGTERM)

        assert relay.wait() == 0
        while (told := manager.next()) == "WATCHDOG=1":
            pass
        assert told == "STOPPING=1"
    finally:
        relay.__exit__(None, None, None)
        manager.close()
