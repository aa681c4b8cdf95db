"""Rows from the statement that changed them to the client that named their columns, and what is told when they can not
be: triggers, relay and wire together, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from websockets.asyncio.client import connect

from pgcachewatch_daemon.io.catalogue import CatalogueOptions
from pgcachewatch_daemon.relay import Relay
from tests.postgres import Database
from tests.raw_client import CHANNEL, Client, Message, get, kill_listener, notify, options, running
from tests.row_triggers import RowTriggers
from tests.waiting import eventually

OFTEN = CatalogueOptions(interval_s=0.02)
SELDOM = CatalogueOptions(interval_s=3_600.0)


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database)
    await rig.writer.execute(
        "CREATE TABLE users (id int PRIMARY KEY, tenant_id int, v int);"
        "INSERT INTO users SELECT i, i % 2, 0 FROM generate_series(1, 10) i;"
        "CREATE TABLE pairs (a int, b text, v int, PRIMARY KEY (a, b)); INSERT INTO pairs VALUES (1, 'ü\"', 0)"
    )
    await rig.install("users", "pairs", columns=("tenant_id",), max_keys=5, channel=CHANNEL)
    return rig


@asynccontextmanager
async def looking(database: Database, catalogue: CatalogueOptions = SELDOM) -> AsyncIterator[Relay]:
    """A relay that has looked at the catalogue."""
    async with running(options(database.dsn, catalogue=catalogue)) as relay:
        await eventually(lambda: relay._watcher.stats.looks["ok"] > 0)
        yield relay


def sub(table: str, *columns: str, id: int = 1, **more: Any) -> Message:
    return {"t": "sub", "id": id, "table": table, "columns": list(columns), **more}


async def items(client: Client, sid: int = 1) -> list[tuple[str, str | None]]:
    event = await client.until("ev")
    return sorted(((op, key) for each, op, key in event["i"] if each == sid), key=str)


# --- keys


@pytest.mark.rule("W-ROW-1")
@pytest.mark.rule("W-ROW-2")
async def test_an_update_of_one_row_reaches_whoever_named_its_key_as_that_key(rows: RowTriggers) -> None:
    async with looking(rows.database) as relay, Client(relay) as client:
        await client.hello(sub("users", "id"))
        assert (await client.until("subok"))["types"] == ["int4"]
        await rows.writer.execute("UPDATE users SET v = 1 WHERE id = 5")
        assert ("u", "5") in await items(client)
        await rows.writer.execute("UPDATE users SET id = 50 WHERE id = 5")
        assert {("u", "5"), ("u", "50")} <= set(await items(client))


@pytest.mark.rule("W-ROW-1")
@pytest.mark.parametrize("statement", ["UPDATE users SET v = 1", "TRUNCATE users"])
async def test_what_may_be_any_row_is_told_as_the_whole_subscription(rows: RowTriggers, statement: str) -> None:
    async with looking(rows.database) as relay, Client(relay) as client:
        await client.hello(sub("users", "id"), sub("users", "tenant_id", id=2), sub("users", id=3))
        await rows.writer.execute(statement)
        event = await client.until("ev")
        assert sorted((sid, key) for sid, _, key in event["i"]) == [(1, None), (2, None), (3, None)]


@pytest.mark.rule("W-ROW-1")
@pytest.mark.rule("W-ROW-2")
async def test_a_key_of_several_columns_is_told_in_the_order_of_each_subscription(rows: RowTriggers) -> None:
    async with looking(rows.database) as relay, Client(relay) as client:
        await client.hello(sub("pairs", "a", "b"), sub("pairs", "b", "a", id=2))
        types = [(await client.until("subok", id=identity))["types"] for identity in (1, 2)]
        assert types == [["int4", "text"], ["text", "int4"]]
        await rows.writer.execute("UPDATE pairs SET v = 1")
        event = await client.until("ev")
        assert sorted((sid, json.loads(key)) for sid, _, key in event["i"]) == [(1, ["1", 'ü"']), (2, ['ü"', "1"])]


@pytest.mark.rule("W-ROW-1")
async def test_a_carried_column_is_told_with_its_old_and_its_new_value(rows: RowTriggers) -> None:
    async with looking(rows.database) as relay, Client(relay) as client:
        await client.hello(sub("users", "tenant_id"))
        await rows.writer.execute("UPDATE users SET tenant_id = 7 WHERE id = 1")
        assert await items(client) == [("u", "1"), ("u", "7")]
        await rows.writer.execute("UPDATE users SET tenant_id = NULL WHERE id = 1")
        assert await items(client) == [("u", None)]


@pytest.mark.rule("W-ROW-1")
@pytest.mark.rule("W-RESUME-1")
async def test_whoever_comes_back_is_replayed_the_keys_in_its_own_order(rows: RowTriggers) -> None:
    wishes = sub("pairs", "b", "a"), sub("users", "tenant_id", id=2)
    async with looking(rows.database) as relay:
        async with Client(relay) as client:
            await client.hello(*wishes)
            await client.until("mark")
            position: Message = {"e": client.epoch, "s": client.cursor}
        await rows.writer.execute("UPDATE pairs SET v = 2; UPDATE users SET v = 2 WHERE id = 3")
        await eventually(lambda: relay._hub.position.seq >= position["s"] + 2)
        async with Client(relay) as again:
            again.cursor = position["s"]
            assert (await again.hello(*wishes, resume=position))["resumed"] is True
            event = await again.until("ev")
            assert sorted(event["i"]) == [[1, "*", '["ü\\"","1"]'], [2, "*", "1"]]


# --- refusals


@pytest.mark.rule("W-ROW-3")
async def test_wishes_that_tell_no_rows_apart_are_refused_in_their_place_and_the_others_live(rows: RowTriggers) -> None:
    async with looking(rows.database) as relay:
        async with Client(relay) as client:
            wishes = sub("user", "id", id=1), sub("users", "idd", id=2)
            await client.hello(*wishes)
            for identity in (1, 2):
                assert (await client.until("err", id=identity))["code"] == "not_ready", "they may be a moment old"
            await eventually(lambda: relay._watcher.stats.looks["ok"] == 2)
        async with Client(relay) as client:
            await client.hello(*wishes, sub("users", "id", id=3), {"t": "sub", "id": 4, "table": "user"})
            answers = [await client.next() for _ in range(4)]
            assert [(each["t"], each["id"]) for each in answers] == [("err", 1), ("err", 2), ("subok", 3), ("subok", 4)]
            assert [each["code"] for each in answers[:2]] == ["unknown_table", "unknown_column"]
            assert "did you mean public.users?" in answers[0]["message"]
            assert "did you mean id?" in answers[1]["message"]
            assert "pgcachewatch install public.users --columns tenant_id,idd --commit" in answers[1]["message"]
            assert "did you mean public.users?" in answers[3]["notice"]
            await rows.writer.execute("UPDATE users SET v = 1 WHERE id = 5")
            event = await client.until("ev")
            assert {sid for sid, _, _ in event["i"]} == {answers[2]["sid"]}


@pytest.mark.rule("W-ROW-3")
async def test_a_table_made_after_the_last_look_is_found_by_asking_again(rows: RowTriggers) -> None:
    async with looking(rows.database) as relay, Client(relay) as client:
        await client.hello()
        await rows.writer.execute("CREATE TABLE fresh (id uuid PRIMARY KEY)")
        await client.say(**sub("fresh", "id", id=7))
        refusal = await client.until("err", id=7)
        assert (refusal["code"], refusal["retry"], refusal["after_ms"]) == ("not_ready", True, 200)
        await eventually(lambda: relay._watcher.stats.looks["ok"] == 2)
        await client.say(**sub("fresh", "id", id=7))
        subok = await client.until("subok", id=7)
        assert subok["types"] == ["uuid"]
        assert "pgcachewatch install public.fresh --commit" in subok["notice"]


@pytest.mark.rule("W-ROW-3")
async def test_without_a_catalogue_events_flow_and_columns_are_not_ready(
    rows: RowTriggers, unused_tcp_port: int
) -> None:
    nowhere = CatalogueOptions(dsn=f"postgresql://u@127.0.0.1:{unused_tcp_port}/d")
    async with running(options(rows.database.dsn, catalogue=nowhere)) as relay, Client(relay) as client:
        await client.hello(sub("users", "id"), {"t": "sub", "id": 2, "table": "users"})
        assert (await client.until("err", id=1))["code"] == "not_ready"
        await rows.writer.execute("UPDATE users SET v = 1 WHERE id = 5")
        assert ("u", "5") in await items(client, sid=2)
        assert (await get(relay, "/readyz")).status_code == 200
        await eventually(lambda: relay._watcher.stats.looks["failed"] > 0)


@pytest.mark.rule("W-ROW-4")
async def test_a_client_is_sent_away_to_ask_anew_when_the_type_of_its_column_changes(rows: RowTriggers) -> None:
    async with looking(rows.database, OFTEN) as relay:
        async with Client(relay) as client, Client(relay) as other:
            await client.hello(sub("users", "id"))
            await other.hello(sub("pairs", "a", "b"))
            await rows.writer.execute("ALTER TABLE users ALTER id TYPE text")
            assert (await client.until("bye"))["code"] == 4000
            assert await client.close_code() == 4000
            await other.say(t="ping", id=1)
            await other.until("pong", id=1)
        async with Client(relay) as client:
            await client.hello(sub("users", "id"))
            assert (await client.until("subok"))["types"] == ["text"]


# --- drift


async def metric(relay: Relay, name: str) -> float:
    text = (await get(relay, "/metrics")).text
    line = next(line for line in text.splitlines() if line.startswith(f"pgcachewatch_{name} "))
    return float(line.rpartition(" ")[2])


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ("ALTER TABLE users DISABLE TRIGGER zz_pgcachewatch_update", "trigger_disabled"),
        ("DROP TRIGGER zz_pgcachewatch_update ON users", "trigger_missing"),
        ("DROP TABLE users; CREATE TABLE users (id int PRIMARY KEY, tenant_id int, v int)", "replaced"),
    ],
)
async def test_a_trigger_that_is_gone_makes_its_table_changed_at_each_look(
    rows: RowTriggers, damage: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with looking(rows.database, OFTEN) as relay, Client(relay) as client, Client(relay) as other:
        await client.hello(sub("users", "id"))
        await other.hello(sub("pairs", "a", "b"))
        await rows.writer.execute(damage)
        for _ in range(3):
            assert (await client.until("ev"))["i"] == [[1, "*", None]]
        assert await metric(relay, f'drift_findings{{kind="{kind}"}}') == 1.0
        assert await metric(relay, "drift_gaps_total") >= 3.0
        lines = [each for each in caplog.messages if f"drift kind={kind} table=public.users" in each]
        assert len(lines) == 1
        assert "pgcachewatch install --repair --commit" in lines[0]
        assert [each for each in other.seen if each["t"] == "ev"] == []


async def test_a_fault_that_is_mended_is_told_once_more_and_then_no_more(
    rows: RowTriggers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await rows.writer.execute("ALTER TABLE users DISABLE TRIGGER ALL")
    async with looking(rows.database, OFTEN) as relay:
        await rows.install("users")
        await eventually(lambda: any("drift mended" in each for each in caplog.messages))
        gaps = relay._inspection.stats.gaps
        looks = relay._watcher.stats.looks["ok"]
        await eventually(lambda: relay._watcher.stats.looks["ok"] > looks + 2)
        assert relay._inspection.stats.gaps == gaps
        assert await metric(relay, 'drift_findings{kind="trigger_disabled"}') == 0.0


async def test_an_installation_is_looked_at_when_it_commits(rows: RowTriggers) -> None:
    """What was cached before there were triggers may hold anything."""
    await rows.writer.execute("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)")
    async with looking(rows.database) as relay, Client(relay) as client:
        await client.hello(sub("late", "id"))
        await rows.install("late")
        assert (await client.until("ev"))["i"] == [[1, "*", None]]


async def test_a_load_with_triggers_off_between_two_looks_changes_its_table(rows: RowTriggers) -> None:
    async with looking(rows.database) as relay, Client(relay) as client:
        await client.hello(sub("users", "id"))
        await rows.writer.execute("ALTER TABLE users DISABLE TRIGGER ALL; UPDATE users SET v = 9")
        for name in ("insert", "update", "delete", "truncate"):
            await rows.writer.execute(f"ALTER TABLE users ENABLE ALWAYS TRIGGER zz_pgcachewatch_{name}")
        relay._watcher.hasten()
        assert (await client.until("ev"))["i"] == [[1, "*", None]]
        assert await metric(relay, 'drift_findings{kind="trigger_disabled"}') == 0.0


async def test_a_new_partition_and_one_that_leaves_change_the_table_they_are_read_by(rows: RowTriggers) -> None:
    await rows.writer.execute(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)"
    )
    await rows.install("p", channel=CHANNEL)
    async with looking(rows.database, OFTEN) as relay, Client(relay) as client:
        await client.hello(sub("p", "id"))
        await client.until("mark")
        await rows.writer.execute("ALTER TABLE p DETACH PARTITION p1")
        assert (await client.until("ev"))["i"] == [[1, "*", None]]
        await rows.writer.execute("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (9) TO (19)")
        for _ in range(3):
            assert (await client.until("ev"))["i"] == [[1, "*", None]]
        assert await metric(relay, 'drift_findings{kind="not_covered"}') == 1.0


async def test_a_refreshed_materialized_view_is_changed(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE MATERIALIZED VIEW m AS SELECT * FROM users")
    async with looking(rows.database, OFTEN) as relay, Client(relay) as client:
        await client.hello({"t": "sub", "id": 1, "table": "m"})
        assert "materialized view" in (await client.until("subok"))["notice"]
        await rows.writer.execute("REFRESH MATERIALIZED VIEW m")
        assert (await client.until("ev"))["i"] == [[1, "*", None]]


async def test_a_published_client_reads_drift_as_an_update_of_the_table(rows: RowTriggers) -> None:
    async with (
        looking(rows.database, OFTEN) as relay,
        connect(relay.url + f"/pgpubsub/{CHANNEL}", proxy=None) as plain,
    ):
        await rows.writer.execute("ALTER TABLE users DISABLE TRIGGER ALL")
        event = json.loads(await plain.recv())
        assert (event["operation"], event["table"], event["schema"]) == ("update", "users", "public")


# --- tokens


async def commit(connection: asyncpg.Connection, token: str, statement: str) -> None:
    async with connection.transaction():
        await connection.execute("SELECT pg_notify('pgcachewatch_token', $1)", token)
        await connection.execute(statement)


@pytest.mark.rule("W-BARRIER-2")
async def test_a_token_passes_behind_the_rows_of_its_transaction_and_is_lost_with_the_source(rows: RowTriggers) -> None:
    async with looking(rows.database) as relay, Client(relay) as client:
        await client.hello(sub("users", "id"))
        await client.until("mark")
        for number in range(1, 11):
            await commit(rows.writer, f"{number:032x}", f"UPDATE users SET v = {number} WHERE id = {number}")
            await client.say(t="barrier", id=number, token=f"{number:032x}")
            await client.until("barrierok", id=number)
            last = [each for each in client.seen if each["t"] == "ev"][-1]
            assert [1, "u", str(number)] in last["i"]
        await client.say(t="barrier", id=99, token=f"{99:032x}")
        await client.say(t="barrier", id=98)
        await client.until("barrierok", id=98)
        await kill_listener(rows.database)
        assert (await client.until("err", id=99))["code"] == "token_lost"


@pytest.mark.rule("W-BARRIER-2")
async def test_a_token_may_be_asked_for_before_its_transaction_commits(rows: RowTriggers) -> None:
    token = "a" * 32
    async with looking(rows.database) as relay, Client(relay) as client:
        await client.hello(sub("users", "id"))
        transaction = rows.writer.transaction()
        await transaction.start()
        await rows.writer.execute("UPDATE users SET v = 1 WHERE id = 5")
        await rows.writer.execute("SELECT pg_notify('pgcachewatch_token', $1)", token)
        await client.say(t="barrier", id=1, token=token)
        await client.say(t="barrier", id=2)
        await client.until("barrierok", id=2)
        assert not [each for each in client.seen if each.get("id") == 1 and each["t"] == "barrierok"]
        await transaction.commit()
        await client.until("barrierok", id=1)
        assert [each["i"] for each in client.seen if each["t"] == "ev"][-1][0] == [1, "u", "5"]


@pytest.mark.rule("W-BARRIER-2")
async def test_no_token_of_many_writers_passes_before_the_rows_of_its_transaction(rows: RowTriggers) -> None:
    """Asked for before they commit, so that each is answered as soon as it can be."""
    writers, each = 4, 25
    await rows.writer.execute(
        f"INSERT INTO users SELECT i, 0, 0 FROM generate_series(1000, {1000 + writers * each - 1}) i"
    )

    async def write(connection: asyncpg.Connection, first: int) -> None:
        for row in range(first, first + each):
            await commit(connection, f"{row:032x}", f"UPDATE users SET v = 1 WHERE id = {row}")

    async with looking(rows.database) as relay, Client(relay) as client:
        await client.hello(sub("users", "id"))
        wanted = range(1000, 1000 + writers * each)
        for row in wanted:
            await client.say(t="barrier", id=row, token=f"{row:032x}")
        await client.say(t="ping", id=1)
        await client.until("pong", id=1)
        connections = [await rows.database.connect() for _ in range(writers)]
        await asyncio.gather(*(write(one, 1000 + each * place) for place, one in enumerate(connections)))
        keys: set[str | None] = set()
        passed = 0
        while passed < len(wanted):
            message = await client.next()
            if message["t"] == "ev":
                keys |= {key for _, _, key in message["i"]}
            elif message["t"] == "barrierok":
                assert str(message["id"]) in keys
                passed += 1


async def test_what_is_no_token_harms_nobody(rows: RowTriggers) -> None:
    async with looking(rows.database) as relay, Client(relay) as client:
        await client.hello()
        await notify(rows.database, "no token", "pgcachewatch_token")
        await client.say(t="barrier", id=1)
        await client.until("barrierok", id=1)
        assert relay._tokens.stats.ignored == 1
