"""A server's whole life: started, used, crashed, restarted, stopped, and nothing left of it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pgcachewatch.errors import ConfigurationError, ConnectionFailed
from pgcachewatch_daemon.embedded import EmbeddedPostgres, PostgresBinaries, require_binaries
from pgcachewatch_daemon.embedded.leftovers import children_of, running_server
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def binaries() -> PostgresBinaries:
    return require_binaries()


async def query(server: EmbeddedPostgres, statement: str, **options: Any) -> object:  # Any: asyncpg.connect's own
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(server.dsn, **options)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def own_folder(server: EmbeddedPostgres) -> Path:
    return server.data_directory.parent


@pytest.mark.every_server
async def test_started_server_answers_on_loopback_with_its_version(
    private_server: EmbeddedPostgres, postgres_binaries: PostgresBinaries
) -> None:
    version = await query(private_server, "show server_version")

    assert str(version).startswith(postgres_binaries.version)
    assert await query(private_server, "show listen_addresses") == "127.0.0.1"


async def test_unix_socket_takes_connections_too(private_server: EmbeddedPostgres) -> None:
    socket_address = {"host": str(private_server.socket_directory), "port": private_server.port}

    assert await query(private_server, "select inet_server_addr() is null", **socket_address)


async def test_wrong_password_is_refused_on_loopback_and_on_the_socket(private_server: EmbeddedPostgres) -> None:
    for host in ("127.0.0.1", str(private_server.socket_directory)):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await query(private_server, "select 1", host=host, port=private_server.port, password="another")


def test_data_directory_lets_nobody_else_in(private_server: EmbeddedPostgres) -> None:
    assert stat.S_IMODE(private_server.data_directory.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to switch")
def test_root_runs_the_server_as_an_account_without_rights(private_server: EmbeddedPostgres) -> None:
    status = Path(f"/proc/{private_server.pid}/status").read_text()

    assert private_server.data_directory.stat().st_uid != 0
    assert f"Uid:\t{private_server.data_directory.stat().st_uid}\t" in status


def test_stop_leaves_no_process_and_no_file(binaries: PostgresBinaries) -> None:
    server = EmbeddedPostgres(binaries)
    server.start()
    folder, family = own_folder(server), [server.pid, *children_of(server.pid)]

    server.stop()

    assert not folder.exists()
    assert not server.is_running()
    wait_until(lambda: not any(is_alive(pid) for pid in family))


def test_stop_can_be_called_twice_and_before_start(binaries: PostgresBinaries) -> None:
    server = EmbeddedPostgres(binaries)
    server.stop()
    server.start()
    server.stop()
    server.stop()

    assert not server.is_running()


def test_second_start_of_a_running_server_is_refused(private_server: EmbeddedPostgres) -> None:
    with pytest.raises(ConfigurationError, match="runs already"):
        private_server.start()

    assert private_server.is_running()


async def test_crash_takes_the_whole_family_and_keeps_what_was_committed(private_server: EmbeddedPostgres) -> None:
    await query(private_server, "create table kept (id int)")
    family = [private_server.pid, *children_of(private_server.pid)]
    port, dsn = private_server.port, private_server.dsn

    private_server.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in family))
    assert not private_server.is_running()
    private_server.start()

    assert (private_server.port, private_server.dsn) == (port, dsn)
    assert await query(private_server, "select count(*) from kept") == 0
    assert private_server.pid not in family


async def test_start_succeeds_when_the_dead_postmasters_pid_belongs_to_another_program(
    private_server: EmbeddedPostgres,
) -> None:
    private_server.kill()
    pid_file = private_server.data_directory / "postmaster.pid"
    lines = pid_file.read_text().split("\n")
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))

    private_server.start()

    assert await query(private_server, "select 1") == 1


async def test_restart_keeps_data_port_and_password(private_server: EmbeddedPostgres) -> None:
    await query(private_server, "create table kept (id int)")
    dsn, pid = private_server.dsn, private_server.pid

    private_server.restart()

    assert private_server.dsn == dsn
    assert private_server.pid != pid
    assert await query(private_server, "select count(*) from kept") == 0


async def test_stop_does_not_wait_for_open_connections(binaries: PostgresBinaries) -> None:
    with EmbeddedPostgres(binaries) as server:
        connection = await asyncpg.connect(server.dsn)
        folder = own_folder(server)
    connection.terminate()

    assert not folder.exists()


async def test_settings_reach_the_server(binaries: PostgresBinaries) -> None:
    with EmbeddedPostgres(binaries, settings={"max_connections": "17"}) as server:
        assert await query(server, "show max_connections") == "17"


def test_impossible_setting_is_reported_with_the_log_and_leaves_nothing(binaries: PostgresBinaries) -> None:
    server = EmbeddedPostgres(binaries, settings={"max_connections": "many"})

    with pytest.raises(ConnectionFailed, match="max_connections") as caught:
        server.start()

    assert "PGCACHEWATCH_DSN" in str(caught.value)
    assert not server.is_running()


def test_wanted_port_that_is_taken_is_an_error_and_no_other_port_is_used(binaries: PostgresBinaries) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(ConnectionFailed, match=str(port)):
            EmbeddedPostgres(binaries, port=port).start()


async def test_given_data_directory_is_found_again_by_a_later_server(
    binaries: PostgresBinaries, reachable_folder: Path
) -> None:
    with EmbeddedPostgres(binaries, data_directory=reachable_folder / "data") as first:
        await query(first, "create table kept (id int)")

    with EmbeddedPostgres(binaries, data_directory=reachable_folder / "data") as second:
        assert await query(second, "select count(*) from kept") == 0


def test_data_directory_in_use_is_refused_and_its_server_left_alone(
    binaries: PostgresBinaries, reachable_folder: Path
) -> None:
    with EmbeddedPostgres(binaries, data_directory=reachable_folder / "data") as first:
        with pytest.raises(ConfigurationError, match=str(first.pid)):
            EmbeddedPostgres(binaries, data_directory=reachable_folder / "data").start()

        assert running_server(first.data_directory) == first.pid


def test_data_directory_of_another_version_is_refused(binaries: PostgresBinaries, reachable_folder: Path) -> None:
    data_directory = reachable_folder / "data"
    data_directory.mkdir()
    (data_directory / "PG_VERSION").write_text("9\n")

    with pytest.raises(ConfigurationError, match="made by PostgreSQL 9"):
        EmbeddedPostgres(binaries, data_directory=data_directory).start()


OWNER = """
import sys
from pgcachewatch_daemon.embedded import EmbeddedPostgres, require_binaries
server = EmbeddedPostgres(require_binaries())
server.start()
print(server.pid, server.data_directory.parent, flush=True)
sys.stdin.read()
"""
FORGETFUL = OWNER.replace("sys.stdin.read()", "")
FROM_A_THREAD = OWNER.replace(
    "server.start()",
    "import threading; thread = threading.Thread(target=server.start); thread.start(); thread.join()",
).replace("sys.stdin.read()", "sys.stdin.readline(); print(server.is_running(), flush=True); server.stop()")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_owner_that_dies_of_a_signal_leaves_no_server_and_no_file(number: signal.Signals) -> None:
    with owner_process(OWNER) as owner:
        pid, folder = announced(owner)
        owner.send_signal(number)

    wait_until(lambda: not is_alive(pid) and not folder.exists())


def test_owner_that_forgets_to_stop_leaves_no_server_and_no_file() -> None:
    with owner_process(FORGETFUL) as owner:
        pid, folder = announced(owner)

    wait_until(lambda: not is_alive(pid) and not folder.exists())


def test_server_outlives_the_thread_that_started_it() -> None:
    with owner_process(FROM_A_THREAD) as owner:
        announced(owner)
        owner.stdin.write("\n")  # type: ignore[union-attr]  # a pipe, by owner_process
        owner.stdin.flush()  # type: ignore[union-attr]  # as above

        assert owner.stdout.readline() == "True\n"  # type: ignore[union-attr]  # as above


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the kernel's parent death signal")
def test_server_stops_when_owner_and_guard_are_killed_together_and_the_next_start_sweeps(
    binaries: PostgresBinaries,
) -> None:
    with owner_process(OWNER) as owner:
        pid, folder = announced(owner)
        guard = children_of(owner.pid)
        for each in (*guard, owner.pid):
            os.kill(each, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))

    with EmbeddedPostgres(binaries):
        assert not folder.exists()


def owner_process(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def announced(owner: subprocess.Popen[str]) -> tuple[int, Path]:
    assert owner.stdout is not None
    pid, folder = owner.stdout.readline().split()
    return int(pid), Path(folder)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
