"""The unit as it is, under a systemd that is process 1: what it promises, and what it shuts the relay out of.

Runs in the machine that `make lane-systemd` makes, and in its network. Each test begins with the unit stopped and
nothing set, and ends by looking for what the relay was denied.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

import pgcachewatch
from pgcachewatch.models import Event
from tests.certificates import Authority
from tests.lanes.systemd.machine import VARIABLE, Machine
from tests.raw_client import Client
from tests.tidy.tree import ROOT
from tests.waiting import eventually, wait_until

NAME = "pgcachewatch.service"
UNIT = ROOT / "deploy" / "systemd" / NAME
DROP_IN = f"/etc/systemd/system/{NAME}.d/test.conf"
SETTINGS = "/etc/pgcachewatch/pgcachewatch.toml"
ENVIRONMENT = "/etc/default/pgcachewatch"
PASSWORD = "correct horse battery staple"
DSN = f"postgresql://pgcachewatch_relay:{quote(PASSWORD)}@127.0.0.1/app"
AS_POSTGRES = ("runuser", "-u", "postgres", "--")
EXPOSURE_LIMIT = 1.5
EXPOSURE = re.compile(r"Overall exposure level for \S+: ([\d.]+)")
DENIED = re.compile(r"not permitted|ermission denied|Read-only file system|EPERM|EACCES|SIGSYS|Traceback")
WITH_TLS = """\
LoadCredential=tls.crt:/etc/pgcachewatch/tls.crt
LoadCredential=tls.key:/etc/pgcachewatch/tls.key
Environment=PGCACHEWATCH_TLS_CERTIFICATE_FILE=%d/tls.crt PGCACHEWATCH_TLS_KEY_FILE=%d/tls.key
"""
WORKERS = pytest.mark.parametrize("workers", [1, 2])


pytestmark = pytest.mark.slow

if VARIABLE not in os.environ:
    pytest.skip(
        "needs a machine of its own, with systemd as its first process: make lane-systemd", allow_module_level=True
    )


class Unit:
    """The relay as a service of the machine. It also is what tests of a relay's address ask for."""

    port = 8420
    url = "ws://127.0.0.1:8420"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._cursor = machine.run("journalctl", "--lines=0", "--show-cursor").rpartition("cursor: ")[2]

    def configure(self, *, workers: int = 1, service: str = "", settings: str = "") -> None:
        """Before it starts: `service` are more lines of that section, `settings` of the file."""
        self.machine.write(ENVIRONMENT, f"PGCACHEWATCH_WORKERS={workers}\n")
        self.machine.write(DROP_IN, f"[Service]\n{service}\n")
        self.machine.write(SETTINGS, settings)
        self.machine.run("systemctl", "daemon-reload")

    def start(self) -> None:
        self.machine.run("systemctl", "start", NAME)

    def stop(self) -> None:
        self.machine.run("systemctl", "stop", NAME)

    def is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; status 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as wrong:
            with wrong:
                return wrong.code, wrong.read().decode()
        except OSError:
            return 0, ""

    def shown(self, name: str) -> str:
        return self.machine.run("systemctl", "show", f"--property={name}", "--value", NAME)

    @property
    def main_pid(self) -> int:
        """As the machine counts."""
        return int(self.shown("MainPID"))

    def pids(self) -> set[str]:
        return set(self.machine.run("cat", f"/sys/fs/cgroup/system.slice/{NAME}/cgroup.procs").split())

    def signal(self, number: signal.Signals) -> None:
        self.machine.run("sh", "-c", f"kill -{number.value} {self.main_pid}")

    def has_restarted(self) -> bool:
        return self.shown("NRestarts") == "1" and self.is_ready()

    def journal(self) -> str:
        """What systemd and the relay said about it, since the test began."""
        return self.machine.run("journalctl", f"--unit={NAME}", f"--after-cursor={self._cursor}", "--no-pager")


@pytest.fixture(scope="module")
def machine() -> Machine:
    """With a database that has a watched table, and the unit installed as its head says."""
    machine = Machine(int(os.environ[VARIABLE]))
    sql(machine, f"CREATE ROLE pgcachewatch_relay LOGIN PASSWORD '{PASSWORD}'", database="postgres")
    sql(machine, "CREATE DATABASE app", database="postgres")
    sql(machine, "CREATE TABLE orders (id int PRIMARY KEY)")
    install = ("/opt/pgcachewatch/bin/pgcachewatch", "install", "orders", "--commit")
    machine.run(*AS_POSTGRES, *install, "--pg-dsn", "postgresql:///app?host=/run/postgresql")
    machine.write(f"/etc/systemd/system/{NAME}", UNIT.read_bytes())
    machine.write("/etc/pgcachewatch/dsn", DSN, mode="600")
    return machine


@pytest.fixture
def unit(machine: Machine) -> Iterator[Unit]:
    unit = Unit(machine)
    unit.configure()
    yield unit
    unit.stop()
    machine.try_run("systemctl", "reset-failed", NAME)
    assert [line for line in unit.journal().splitlines() if DENIED.search(line)] == []


def sql(machine: Machine, statement: str, *, database: str = "app") -> None:
    machine.run(
        *AS_POSTGRES, "psql", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", database, given=statement.encode()
    )


async def hears_of_an_order(unit: Unit, order: int) -> None:
    """An event goes all the way, or the test ends by its time limit."""
    async with pgcachewatch.connect(unit.url) as client, asyncio.timeout(60):
        await client.wait_live()
        events = client.events("orders")
        async with events:
            await asyncio.to_thread(sql, unit.machine, f"INSERT INTO orders VALUES ({order})")
            async for event in events:
                if isinstance(event, Event) and event.keys == (str(order),):
                    break


@WORKERS
def test_start_returns_when_the_port_is_open(unit: Unit, workers: int) -> None:
    unit.configure(workers=workers)

    unit.start()

    assert unit.get("/livez")[0] == 200
    wait_until(unit.is_ready)
    assert len(unit.pids()) == (1 if workers == 1 else 1 + workers)


@WORKERS
async def test_event_goes_through(unit: Unit, workers: int) -> None:
    unit.configure(workers=workers)
    unit.start()

    await hears_of_an_order(unit, 10 + workers)


@WORKERS
async def test_no_system_call_is_asked_for_that_the_unit_forbids(unit: Unit, workers: int) -> None:
    """Here it would be the end, where the unit answers with an error that a program may hide."""
    unit.configure(workers=workers, service="SystemCallErrorNumber=kill")
    unit.start()

    await hears_of_an_order(unit, 20 + workers)
    unit.machine.run("systemctl", "reload", NAME)
    await eventually(lambda: "settings reloaded" in unit.journal())
    await asyncio.to_thread(unit.stop)

    assert "restarted" not in unit.journal()
    assert (unit.shown("Result"), unit.shown("NRestarts")) == ("success", "0")


@WORKERS
async def test_reload_takes_over_what_the_file_says_now(unit: Unit, workers: int) -> None:
    unit.configure(workers=workers)
    unit.start()
    wait_until(unit.is_ready)
    pids = unit.pids()
    async with Client(unit) as early:
        await early.hello()

        unit.machine.write(SETTINGS, 'log_level = "debug"\n')
        unit.machine.run("systemctl", "reload", NAME)

        await eventually(lambda: "settings reloaded" in unit.journal())
        async with Client(unit) as late:
            await late.hello()
        await eventually(lambda: '"level": "debug"' in unit.journal())
        await early.say(t="ping", id=1)
        await early.until("pong")
    assert unit.pids() == pids


@WORKERS
def test_killed_relay_is_started_again_and_leaves_nobody_behind(unit: Unit, workers: int) -> None:
    unit.configure(workers=workers)
    unit.start()
    wait_until(unit.is_ready)
    before = unit.pids()

    unit.signal(signal.SIGKILL)

    wait_until(unit.has_restarted)
    assert len(unit.pids()) == len(before)
    assert not unit.pids() & before


@WORKERS
def test_relay_that_hangs_is_ended_and_started_again(unit: Unit, workers: int) -> None:
    unit.configure(workers=workers, service="WatchdogSec=2s")
    unit.start()
    wait_until(unit.is_ready)

    unit.signal(signal.SIGSTOP)

    wait_until(unit.has_restarted)
    assert "Watchdog timeout" in unit.journal()
    assert "most recent call first" in unit.journal(), "it says where it hung"


def test_relay_that_turns_is_left_alone_by_the_watchdog(unit: Unit) -> None:
    """Signs of life are allowed by the unit: three times as long as it may be silent."""
    unit.configure(service="WatchdogSec=1s")
    unit.start()
    pid = unit.main_pid
    began_us = int(unit.shown("ExecMainStartTimestampMonotonic"))

    wait_until(lambda: int(unit.shown("WatchdogTimestampMonotonic")) > began_us + 3_000_000)

    assert (unit.main_pid, unit.shown("NRestarts")) == (pid, "0")


def test_setting_that_can_not_work_is_said_once_and_not_tried_again(unit: Unit) -> None:
    unit.configure(settings="port = 'many'\n")

    started = unit.machine.try_run("systemctl", "start", NAME)

    assert started.returncode != 0
    assert unit.shown("ExecMainStatus") == "2"
    assert (unit.shown("ActiveState"), unit.shown("NRestarts")) == ("failed", "0")
    said = [line for line in unit.journal().splitlines() if "pgcachewatch serve: " in line]
    assert len(said) == 1
    assert "port" in said[0]
    assert SETTINGS in said[0]


def test_nobody_else_can_read_the_password(unit: Unit) -> None:
    unit.start()
    wait_until(unit.is_ready)

    credential = f"/run/credentials/{NAME}/dsn"
    assert unit.machine.run("cat", credential) == DSN
    for account in ("nobody", "postgres"):
        denied = unit.machine.try_run("runuser", "-u", account, "--", "cat", credential)
        assert "Permission denied" in denied.stdout
    environment = unit.machine.run("cat", f"/proc/{unit.main_pid}/environ")
    assert quote(PASSWORD) not in environment + unit.machine.run("systemctl", "show", NAME) + unit.journal()


@WORKERS
async def test_stop_says_goodbye_and_ends_cleanly(unit: Unit, workers: int) -> None:
    unit.configure(workers=workers, settings="drain_jitter_s = 0\n")
    unit.start()
    await eventually(unit.is_ready)
    async with Client(unit) as client:
        await client.hello()
        stopping = asyncio.create_task(asyncio.to_thread(unit.stop))

        goodbye = await client.until("bye")

        assert await client.close_code() == goodbye["code"]
        await stopping
    assert (unit.shown("Result"), unit.shown("ExecMainStatus")) == ("success", "0")
    assert "relay cuts" not in unit.journal()
    assert "SIGKILL" not in unit.journal()


def test_database_may_go_and_come_back(unit: Unit) -> None:
    unit.start()
    wait_until(unit.is_ready)
    pid = unit.main_pid

    unit.machine.run("systemctl", "stop", "postgresql")
    try:
        wait_until(lambda: unit.get("/readyz")[0] == 503)
        assert unit.shown("ActiveState") == "active"
    finally:
        unit.machine.run("systemctl", "start", "postgresql")

    wait_until(unit.is_ready)
    assert unit.main_pid == pid


def test_what_shuts_it_in_is_in_force(unit: Unit) -> None:
    unit.start()
    pid = str(unit.main_pid)

    lines = unit.machine.run("cat", f"/proc/{pid}/status").splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert "0" not in status["Uid"]
    assert [status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")] == [["0" * 16]] * 4
    assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
    its_files = ("nsenter", f"--target={pid}", "--mount", "--")
    its_account = ("setpriv", f"--reuid={status['Uid'][0]}", f"--regid={status['Gid'][0]}", "--clear-groups", "--")
    assert "Read-only" in unit.machine.try_run(*its_files, "touch", "/etc/new", "/usr/new", "/var/new").stdout
    assert "denied" in unit.machine.try_run(*its_files, *its_account, "touch", "/etc/pgcachewatch/new").stdout
    assert unit.machine.run(*its_files, "ls", "-A", "/root", "/home", "/tmp").split() == ["/home:", "/root:", "/tmp:"]
    found = EXPOSURE.search(unit.machine.run("systemd-analyze", "security", "--no-pager", NAME))
    assert found
    assert float(found[1]) <= EXPOSURE_LIMIT


def test_key_of_a_certificate_is_handed_over_as_a_credential(unit: Unit, tmp_path: Path) -> None:
    """As the unit's head says: an account that is made at each start can own no file."""
    authority = Authority(tmp_path)
    for name, file in zip(("crt", "key"), authority.issue("relay"), strict=True):
        unit.machine.write(f"/etc/pgcachewatch/tls.{name}", file.read_bytes(), mode="600")
    unit.configure(service=WITH_TLS)

    unit.start()

    with urllib.request.urlopen(f"https://127.0.0.1:{unit.port}/livez", context=authority.client()) as answer:
        assert answer.status == 200
