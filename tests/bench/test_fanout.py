"""The fan-out benchmark, a taste of it: that it runs, and that its load sees what it is there to see.

Asserts counts and never times. The figures are made by `make bench`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from tests.bench.fanout import targets
from tests.bench.fanout.campaign import NEVER, Results, combined
from tests.bench.fanout.cases import Case
from tests.bench.fanout.places import NoCompiler, compiled
from tests.bench.fanout.programs.publish_postgres import event
from tests.bench.fanout.report import table
from tests.bench.fanout.servers import PEERS
from tests.bench.fanout.trial import Figures, run_trial
from tests.waiting import LIMIT_S

TASTE = Case("taste", clients=5, events=300, window=60)
Script = Callable[[ServerConnection], Awaitable[None]]


@pytest.fixture(autouse=True, scope="module")
def programs() -> None:
    try:
        for name in ("load", "publish", "floor"):
            compiled(name)
    except NoCompiler as reason:
        pytest.skip(str(reason))


@pytest.mark.bench
@pytest.mark.parametrize("name", ["floor", "floor-10", "ours"])
def test_every_client_gets_every_event_once_and_in_order(name: str) -> None:
    figures = run_trial(PEERS[name], TASTE)

    assert figures["deliveries"] == TASTE.clients * TASTE.events
    assert {fault: figures[fault] for fault in NEVER if figures[fault]} == {}


def test_bursts_come_whole() -> None:
    figures = run_trial(PEERS["ours"], Case("taste", clients=3, every_s=0.05, burst=100, seconds=0.15))

    assert figures["deliveries"] == 3 * 300
    assert figures["lost"] == 0


# --- the load against a server that says what it should not


@asynccontextmanager
async def read(script: Script, *options: str, events: int) -> AsyncIterator[Callable[[], Awaitable[Figures]]]:
    """The load as the one client of a server that plays `script` and then closes; yields what waits for its counts."""
    async with serve(script, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        command = (str(compiled("load")), "--port", str(port), "--events", str(events), *options)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:

            async def counts() -> Figures:
                async with asyncio.timeout(LIMIT_S):
                    printed, _ = await process.communicate()
                found: Figures = json.loads(printed.splitlines()[-1])
                return found

            yield counts
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def counted(script: Script, *options: str, events: int) -> Figures:
    async with read(script, *options, events=events) as counts:
        return await counts()


def texts(*seqs: int) -> Script:
    async def script(client: ServerConnection) -> None:
        for seq in seqs:
            await client.send(event(seq, 1, 184))

    return script


@pytest.mark.parametrize(
    ("seqs", "found"),
    [
        ((0, 1, 2, 3), {}),
        ((0, 1, 3), {"lost": 1}),
        ((0, 1, 2), {"lost": 1}),
        ((0, 1, 1, 2, 3), {"duplicated": 1}),
        ((0, 2, 1, 3), {"reordered": 1}),
        ((), {"lost": 4}),
    ],
)
async def test_load_counts_what_is_lost_twice_or_out_of_order(seqs: tuple[int, ...], found: dict[str, int]) -> None:
    figures = await counted(texts(*seqs), events=4)

    assert figures["deliveries"] == len(seqs)
    assert {name: figures[name] for name in ("lost", "duplicated", "reordered", "malformed") if figures[name]} == found


async def test_load_reads_fragments_and_answers_pings() -> None:
    first = event(0, 1, 184)

    async def script(client: ServerConnection) -> None:
        await client.send([first[:50], first[50:100], first[100:]])
        pong = await client.ping()
        await pong
        await client.send(event(1, 1, 184))

    figures = await counted(script, events=2)

    assert (figures["deliveries"], figures["lost"], figures["pings"], figures["malformed"]) == (2, 0, 1, 0)


@pytest.mark.parametrize("size", [184, 65_535, 65_536, 300_000])
async def test_load_reads_every_length_of_frame(size: int) -> None:
    async def script(client: ServerConnection) -> None:
        for seq in range(3):
            await client.send(event(seq, 1, size))

    figures = await counted(script, "--size", str(size), events=3)

    assert (figures["deliveries"], figures["lost"], figures["malformed"]) == (3, 0, 0)


@pytest.mark.parametrize("text", ["", "ready!", event(0, 1, 185), event(0, 1, 184).replace("~", "-")])
async def test_load_complains_of_what_is_no_event(text: str) -> None:
    async def script(client: ServerConnection) -> None:
        await client.send(text)

    figures = await counted(script, events=1)

    assert (figures["malformed"], figures["lost"]) == (1, 1)


def messages(*frames: Any) -> Script:  # Any: JSON
    async def script(client: ServerConnection) -> None:
        await client.send(json.dumps({"t": "welcome", "s": 10}))
        await client.send(json.dumps({"id": 1, "t": "subok"}))
        for frame in frames:
            await client.send(json.dumps(frame))

    return script


def ev(p: int, s: int, *items: list[Any]) -> dict[str, Any]:  # Any: JSON
    return {"i": list(items), "t": "ev", "s": s, "p": p, "note": {"a": ['"}', [1]], "b": None}}


def key(seq: int) -> str:
    return f"~{seq:09}-{1:019}-"


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        ([ev(10, 11, [1, "u", key(0)]), ev(11, 12, [1, "u", key(1)])], {}),
        ([[ev(10, 11, [1, "u", key(0)]), {"t": "mark", "p": 11, "s": 11}, ev(11, 12, [1, "u", key(1)])]], {}),
        ([ev(10, 12, [1, "u", key(0)], [1, "u", key(1)])], {}),
        ([ev(10, 11, [1, "u", None, {"keys": [key(0)]}]), ev(11, 12, [1, "u", None, {"keys": [key(1)]}])], {}),
        ([ev(10, 11, [1, "u", key(0)]), ev(10, 12, [1, "u", key(1)])], {"chain_breaks": 1}),
        ([ev(10, 12, [1, "*", None])], {"conflated": 2}),
        ([ev(10, 12, [0, "*", None])], {"conflated": 2}),
        ([ev(10, 12, [1, "u", key(0)])], {"lost": 1}),
        ([{"t": "err", "code": "not_ready"}], {"malformed": 1, "lost": 2}),
        ([[{"t": "ev", "p": 10, "s": 9, "i": []}]], {"malformed": 1, "lost": 2}),
    ],
)
async def test_load_reads_the_protocol_and_its_chain(frames: list[Any], found: dict[str, int]) -> None:
    figures = await counted(messages(*frames), "--dialect", "ours", "--wait", events=2)

    names = ("lost", "duplicated", "reordered", "malformed", "chain_breaks", "conflated")
    assert {name: figures[name] for name in names if figures[name]} == found


# --- what is made of figures


def test_medians_are_taken_but_of_faults_the_worst() -> None:
    rounds = [{"cpu_us": cost, "lost": lost} for cost, lost in ((3.0, 0), (1.0, 2), (2.0, 0))]

    assert combined(rounds) == {"cpu_us": 2.0, "lost": 2}


def results(**cost_us: float) -> Results:
    found = Results(machine={"at": "then"})
    found.rounds["c100-10"] = {peer: [{"cpu_us": cost}] for peer, cost in cost_us.items()}
    return found


def test_table_sets_every_peer_beside_the_floor() -> None:
    lines = table(results(floor=2.0, ours=3.0)).splitlines()

    assert next(line for line in lines if "ours" in line).split() == ["ours", "1.50", "3.000"]


@pytest.mark.parametrize(("cost_us", "verdict"), [(2.6, "reached"), (2.8, "MISSED")])
def test_targets_are_told_from_what_was_measured(cost_us: float, verdict: str) -> None:
    (line,) = targets.lines(results(floor=2.0, ours=cost_us))

    assert line.endswith(verdict)


def test_every_target_names_a_case_and_peers_there_are() -> None:
    def names() -> Iterator[str]:
        for target in targets.TARGETS:
            yield from (name for name in (target.peer, target.other) if name)

    assert set(names()) - {"listener"} <= set(PEERS)
