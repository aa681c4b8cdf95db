"""Attacks on the port: the relay stays ready, a neighbour hears each event, and nothing is left behind.

Small here; with PGCW_ATTACKS=1 by thousands of sockets from processes of their own, and with figures printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.certificates import DAY, Authority
from tests.conformance import attacks
from tests.conformance.attacks import Attack
from tests.conformance.neighbour import Neighbour
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.waiting import eventually

SIZE = 20
LOOKS = 3
FULL = os.environ.get("PGCW_ATTACKS") == "1"
FULL_S = float(os.environ.get("PGCW_ATTACKS_S", "10"))
PROCESSES = 4
FULL_SIZES = {"half_open": 10_000, "tls_stalls": 1_000, "tls_greetings": 1_000, "slowloris": 2_000, "no_hello": 2_000}
FULL_SIZE = 200
STATUS_LINE = re.compile(rb"^HTTP/1.1 \d{3} ", re.MULTILINE)
GROWTH_BYTES = 48 * 1024 * 1024
TLS_GROWTH_BYTES = 96 * 1024 * 1024  # OpenSSL: up to 70 kB for each of the 1,000 unfinished handshakes there may be


def name_of(attack: Attack) -> str:
    return attack.__name__


def figure(relay: RelayProcess, name: str) -> float:
    return sum(
        float(line.rpartition(" ")[2]) for line in relay.get("/metrics")[1].splitlines() if line.startswith(name)
    )


@pytest.fixture(scope="module")
def relay(watched: Database) -> Iterator[RelayProcess]:
    with RelayProcess(watched.dsn, heartbeat_s="0.05", compression="shared", handshakes_limit="500") as relay:
        yield relay
        assert "Traceback" not in relay.log()


@pytest.fixture(scope="module")
def secured(watched: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    folder: Path = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    certificate, key = authority.issue("relay", ends_in=100 * DAY)
    relay = RelayProcess(watched.dsn, heartbeat_s="0.05", tls_certificate_file=str(certificate), tls_key_file=str(key))
    relay.trust = authority.client()
    with relay:
        yield relay
        assert "Traceback" not in relay.log()


@asynccontextmanager
async def in_processes(attack: Attack, relay: RelayProcess) -> AsyncIterator[None]:
    """The attack in full, from processes that are ended with it."""
    size = FULL_SIZES.get(attack.__name__, FULL_SIZE) // PROCESSES
    command = ["-m", "tests.conformance.attacks", attack.__name__, str(relay.port), str(size), str(FULL_S + 5)]
    processes = [await asyncio.create_subprocess_exec(sys.executable, *command) for _ in range(PROCESSES)]
    try:
        await asyncio.sleep(2)  # until they have begun in earnest
        yield
    finally:
        for each in processes:
            with contextlib.suppress(ProcessLookupError):  # its time was over
                each.kill()
        for each in processes:
            await each.wait()


def beside(relay: RelayProcess, watched: Database) -> Neighbour:
    return Neighbour(relay, watched, compression=None, **({"ssl": relay.trust} if relay.trust else {}))


async def is_harmless(attack: Attack, relay: RelayProcess, watched: Database) -> None:
    async with beside(relay, watched) as neighbour:
        await neighbour.settle()
        async with attacks.under(attack, relay.port, SIZE):
            for _ in range(LOOKS):
                assert (await asyncio.to_thread(relay.get, "/readyz"))[0] == 200
                await neighbour.still_hears()
        await eventually(lambda: asyncio.to_thread(are_gone, relay))
        await neighbour.still_hears()


def are_gone(relay: RelayProcess) -> bool:
    """None is left but the neighbour."""
    return figure(relay, "pgcachewatch_clients{") == 1


@pytest.mark.parametrize("attack", [*attacks.BEFORE, *attacks.AFTER], ids=name_of)
async def test_an_attack_harms_nobody(attack: Attack, relay: RelayProcess, watched: Database) -> None:
    await is_harmless(attack, relay, watched)


@pytest.mark.parametrize("attack", attacks.TLS, ids=name_of)
async def test_an_attack_on_tls_harms_nobody(attack: Attack, secured: RelayProcess, watched: Database) -> None:
    await is_harmless(attack, secured, watched)


async def test_a_barrier_flood_is_told_to_wait_and_its_neighbour_is_answered(
    relay: RelayProcess, watched: Database
) -> None:
    async with beside(relay, watched) as neighbour, beside(relay, watched) as flooding:
        await neighbour.settle()
        await flooding.settle()
        for identity in range(1_500):
            await flooding.say(t="barrier", id=identity)
        refused = await flooding.until("err", code="too_many_barriers", retry=True)
        assert refused["after_ms"] > 0
        await neighbour.say(t="barrier", id=1)
        await neighbour.until("barrierok", id=1)
        await flooding.say(t="ping", id=1)
        await flooding.until("pong", id=1)


@pytest.mark.parametrize(
    "second",
    [
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["pipelined", "behind a chunk"],
)
@pytest.mark.parametrize(
    "first",
    [
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 44\r\nContent-Length: 0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n",
        b"GET /livez HTTP/1.1\nHost: x\n\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\tfolded: y\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
    ],
    ids=["plain", "two lengths", "lengths that differ", "a space", "bare line feeds", "folded", "post"],
)
async def test_of_two_requests_on_one_connection_the_second_is_never_answered(
    relay: RelayProcess, first: bytes, second: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    writer.write(first + second)
    said = await reader.read()
    writer.close()
    assert len(STATUS_LINE.findall(said)) == 1
    assert b"pgcachewatch_" not in said


@pytest.mark.slow
@pytest.mark.skipif(not FULL, reason="attacks in full take minutes: PGCW_ATTACKS=1")
@pytest.mark.parametrize("attack", attacks.ATTACKS.values(), ids=name_of)
async def test_an_attack_in_full_harms_nobody(
    attack: Attack, relay: RelayProcess, secured: RelayProcess, watched: Database
) -> None:
    relay = secured if attack in attacks.TLS and attack is not attacks.half_open else relay
    rss = [figure(relay, "process_resident_memory_bytes")]
    heard_s: list[float] = []
    ready_s: list[float] = []
    for _ in range(2):
        async with beside(relay, watched) as neighbour:
            await neighbour.settle()
            async with in_processes(attack, relay):
                until_s = time.monotonic() + FULL_S
                while time.monotonic() < until_s:
                    heard_s.append(await timed(neighbour.still_hears()))
                    ready_s.append(await timed(_ready(relay)))
            await eventually(lambda: asyncio.to_thread(are_gone, relay))
        rss.append(figure(relay, "process_resident_memory_bytes"))
    sys.stdout.write(
        f"\n{attack.__name__:16} looks={len(heard_s)} "
        f"event_ms p50={1e3 * statistics.median(heard_s):.1f} max={1e3 * max(heard_s):.0f} "
        f"readyz_ms p50={1e3 * statistics.median(ready_s):.1f} max={1e3 * max(ready_s):.0f} "
        f"rss_mib={' '.join(f'{each / 2**20:.0f}' for each in rss)} fds={figure(relay, 'process_open_fds'):.0f}\n"
    )
    assert rss[2] - rss[1] < GROWTH_BYTES / 4, "a second wave like the first one takes nothing more"
    assert rss[1] - rss[0] < (TLS_GROWTH_BYTES if attack in attacks.TLS else GROWTH_BYTES)


async def _ready(relay: RelayProcess) -> None:
    """However long it takes: how long is printed, and depends on what else the machine does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port, ssl=relay.trust)
    writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.transport.abort()


async def timed(waited: Awaitable[None]) -> float:
    began_s = time.monotonic()
    await waited
    return time.monotonic() - began_s
