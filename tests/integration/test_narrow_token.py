"""Two tenants, one relay: whatever the one says, it learns nothing of the other.

Each message that a client can send is tried; one that is new fails the test until somebody has thought about it. What
is looked for are names and keys that the narrow client can not have guessed: its own guesses come back in refusals.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from pgcachewatch.protocol import messages
from pgcachewatch_daemon.relay import Relay
from tests.integration.tokens import bearer, guarded
from tests.postgres import Database
from tests.raw_client import CHANNEL, Client, get, kill_listener, notify, payload, running
from tests.row_triggers import RowTriggers
from tests.waiting import eventually

NARROW, WIDE = "token-of-tenant-a", "token-of-tenant-b"
TENANT_A = {"tables": ["public.a_*"], "consumers": ["a-*"]}
BARRIER = "ab" * 16
# Each is a guess away from what the narrow client asks for; of b_jobs, which it has guessed, there are the keys.
SECRETS = ("b_payroll", "b_part", "key-of-b", "salary", "ch_of_b", "payroll-of-b", "b_schema")
SCHEMA = """
    CREATE TABLE a_orders (id text PRIMARY KEY);
    CREATE TABLE a_jobs (id text PRIMARY KEY);
    CREATE TABLE b_payroll (id text PRIMARY KEY, salary int);
    CREATE TABLE b_jobs (id text PRIMARY KEY);
    CREATE TABLE b_parted (id text PRIMARY KEY, salary int) PARTITION BY RANGE (id);
    CREATE TABLE a_piece PARTITION OF b_parted DEFAULT;
    CREATE SCHEMA b_schema;
    CREATE TABLE b_schema.a_orders (id text PRIMARY KEY)
"""

Said = dict[str, Any]  # JSON


def hello(*subs: Said, **fields: Any) -> Said:
    return {"t": "hello", "v": 1, "token": NARROW, "subs": list(subs), **fields}


def sub(identity: int, **fields: Any) -> Said:
    return {"t": "sub", "id": identity, **fields}


def join(consumer: str) -> Said:
    return {"t": "consume", "id": 5, "consumer": consumer, "wants": [JOBS]}


# What is too wide, near a name that exists, or of somebody else.
WISHES: list[Said] = [
    {},
    {"mode": "stream"},
    {"channel": "ch_of_"},
    {"schema": "public"},
    {"schema": "b_schem", "mode": "stream"},
    {"table": "b_payrol", "columns": ["id"]},
    {"table": "b_payrol", "mode": "stream"},
    {"table": "b_jobs", "mode": "stream"},
    {"table": "b_jobs", "columns": ["id"]},
    {"table": "b_payrol", "keys": ["key-of-"], "schema": "public"},
    {"table": "a_orders", "mode": "stream"},
    {"table": "a_orders", "schema": "b_schem", "columns": ["id"]},
    {"table": "a_*", "schema": "public", "mode": "stream"},
    {"table": "a_payroll", "schema": "public", "columns": ["id"]},
    {"table": "a_payroll", "schema": "public"},
    {"table": "a_piece", "schema": "public", "columns": ["id"]},
    {"table": "a_piece", "schema": "public", "mode": "stream"},
    {"table": "a_orders", "schema": "public", "columns": ["salar"]},
    {"table": "a_orders", "schema": "public", "mode": "stream"},
    {"table": "a_orders", "schema": "public", "stamps": True},
    {"channel": "pgcachewatch_token", "mode": "stream"},
    {"channel": "pgcachewatch_token", "table": "a_orders", "schema": "public", "mode": "stream"},
]
JOBS = {"table": "a_jobs", "schema": "public"}
WANTS = [[{"table": "b_jobs"}], [{}], [JOBS, {"table": "b_jobs"}], [{"table": "a_jobs"}], [JOBS]]
OPENING = ({"table": "a_orders", "schema": "public"}, {"table": "a_jobs", "schema": "public", "mode": "stream"})

# By type, what is said on an open connection. `at` is a position from before tenant B wrote anything.
ATTEMPTS: dict[str, Callable[[Said], list[Said]]] = {
    "hello": lambda at: [hello(sub(1, **wish), resume=at) for wish in WISHES],
    "sub": lambda at: [sub(100 + number, **wish) for number, wish in enumerate(WISHES)],
    "unsub": lambda at: [{"t": "unsub", "id": identity} for identity in (0, 1, 7)],
    "barrier": lambda at: [{"t": "barrier", "id": 200}, {"t": "barrier", "id": 201, "token": BARRIER}],
    "ping": lambda at: [{"t": "ping", "id": 300}],
    "auth": lambda at: [{"t": "auth", "token": NARROW}],
    "ack": lambda at: [{"t": "ack", "s": seq} for seq in (0, 10**9)],
    "consume": lambda at: [
        {"t": "consume", "id": 400 + number, "consumer": name, "wants": wants, "prefetch": 100, "held": "1:1"}
        for number, (name, wants) in enumerate((name, wants) for name in ("a-jobs", "payroll-of-") for wants in WANTS)
    ],
    "done": lambda at: [{"t": "done", "sid": sid, "ids": ["1:1", "999:1"]} for sid in range(1, 40)],
    "failed": lambda at: [{"t": "failed", "sid": sid, "ids": ["1:1"], "reason": "x"} for sid in range(1, 40)],
}


class Eavesdropper:
    """All that the narrow client is ever sent."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.heard: list[str] = []

    async def converse(self, *said: Said, meanwhile: Callable[[], Any] | None = None) -> list[str]:
        """Say these, and listen until the relay has answered a barrier behind them, or has closed."""
        subprotocols = [Subprotocol("pgcachewatch.v1")]
        heard: list[str] = []
        async with connect(self.relay.url + "/v1/ws", subprotocols=subprotocols, proxy=None) as socket:
            try:
                for each in said:
                    await socket.send(json.dumps(each))
                if meanwhile is not None:
                    await meanwhile()
                await socket.send('{"t":"barrier","id":999}')
                while not (heard and '"barrierok","id":999' in heard[-1]):
                    heard.append(str(await socket.recv()))
            except ConnectionClosed as closed:
                heard.append(str(closed))
        self.heard += heard
        return heard


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database)
    await rig.writer.execute(SCHEMA)
    await rig.install("a_orders", "b_schema.a_orders", channel=CHANNEL)
    await rig.install("b_payroll", "b_parted", channel=CHANNEL, columns=("salary",))
    await rig.install("a_jobs", "b_jobs", channel=CHANNEL, mode="journal")
    return rig


@pytest.fixture
async def relay(rows: RowTriggers, tmp_path: Path) -> AsyncIterator[Relay]:
    async with running(guarded(rows.database, tmp_path / "t", {NARROW: TENANT_A, WIDE: {}})) as relay:
        yield relay


async def take_part(client: Client, consumer: str, table: str) -> None:
    """Once the relay has looked at the tables."""
    answer: Said = {}
    while answer.get("t") != "subok":
        await client.say(t="consume", id=3, consumer=consumer, wants=[{"table": table}])
        while (answer := await client.next()).get("id") != 3:
            pass


async def write_as_b(rows: RowTriggers, number: int) -> None:
    key = f"key-of-b-{number}"
    async with rows.writer.transaction():
        await rows.writer.execute("SELECT pg_notify('pgcachewatch_token', $1)", BARRIER)
        for table in ("b_payroll", "b_parted", "b_jobs", "b_schema.a_orders"):
            await rows.writer.execute(f"INSERT INTO {table} (id) VALUES ($1)", key)
    await notify(rows.database, payload("a_orders", key).replace('"schema": "public", ', ""))  # of any schema
    await notify(rows.database, f"not readable: b_payroll {key}")
    await notify(rows.database, f"not readable: b_payroll {key}", channel="ch_of_b")


async def test_a_narrow_token_learns_nothing_of_another_tenant(relay: Relay, rows: RowTriggers) -> None:
    assert set(ATTEMPTS) == {kind.model_fields["t"].default for kind in get_args(messages.ClientMessage)}
    spy = Eavesdropper(relay)
    async with Client(relay) as tenant:
        await tenant.say(t="hello", v=1, token=WIDE, name="payroll-of-b", subs=[sub(1, channel="ch_of_b"), sub(2)])
        welcome = await tenant.until("welcome")
        await take_part(tenant, "payroll-of-b", "b_jobs")
        for number, (kind, attempts) in enumerate(ATTEMPTS.items()):
            said = attempts({"e": welcome["e"], "s": welcome["s"]})
            opening = hello(*(sub(number, **wish) for number, wish in enumerate(OPENING)))

            async def meanwhile(number: int = number) -> None:
                await write_as_b(rows, number)

            if kind == "hello":
                await write_as_b(rows, 1_000)
                for each in said:
                    await spy.converse(each)
            else:
                await spy.converse(opening, *said, meanwhile=meanwhile)
        await tenant.until("job")  # what is secret was told to whoever may know it
    assert [secret for secret in SECRETS if any(secret in heard for heard in spy.heard)] == []
    assert len(spy.heard) > 100


async def test_a_guess_is_answered_alike_whether_it_is_right_or_wrong(relay: Relay) -> None:
    spy = Eavesdropper(relay)
    for right, wrong in (
        (sub(5, table="b_payroll", columns=["id"]), sub(5, table="b_nothing", columns=["id"])),
        (sub(5, table="a_orders", schema="b_schema"), sub(5, table="a_orders", schema="b_nothing")),
        (sub(5, channel="ch_of_b"), sub(5, channel="ch_nothing")),
        (join("payroll-of-b"), join("nothing-of-b")),
    ):
        answers = []
        for guess in (right, wrong):
            heard = await spy.converse(hello(), guess)
            answers += [answer for answer in map(json.loads, heard) if answer.get("id") == 5]
        assert [(answer["t"], answer.get("code")) for answer in answers] == [("err", "forbidden")] * 2


async def test_a_lost_database_tells_the_narrow_client_that_and_no_more(relay: Relay, rows: RowTriggers) -> None:
    spy = Eavesdropper(relay)

    async def lose() -> None:
        await write_as_b(rows, 1)
        losses = relay._source.stats.losses
        before = losses.total()
        await kill_listener(rows.database)
        await eventually(lambda: losses.total() > before)  # it may be back before anybody looks
        await relay.ready()

    opening = hello(*(sub(number, **wish) for number, wish in enumerate(OPENING)))
    heard = await spy.converse(opening, meanwhile=lose)
    assert any('"stale"' in each for each in heard)
    assert [secret for secret in SECRETS if any(secret in each for each in spy.heard)] == []


async def test_the_other_paths_tell_a_narrow_token_nothing(relay: Relay, rows: RowTriggers) -> None:
    async with Client(relay) as tenant:
        await tenant.say(t="hello", v=1, token=WIDE, name="payroll-of-b", subs=[sub(1, channel="ch_of_b"), sub(2)])
        await tenant.until("subok", id=2)
        await write_as_b(rows, 1)
        await tenant.until("ev")
        said = ""
        for path in ("/metrics", "/readyz", "/livez", "/up", "/", "/v1/status"):
            answer = await get(relay, path)
            said += answer.text + str(answer.headers)
        for path in (f"/pgpubsub/{CHANNEL}", "/pgpubsub/ch_of_b", "/pgpubsub/ch_of_nobody"):
            with pytest.raises(Exception, match="403"):
                await connect(relay.url + path, additional_headers=bearer(NARROW), proxy=None)
    assert [secret for secret in SECRETS if secret in said] == []
