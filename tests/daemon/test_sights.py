"""People see who is connected and which tables changed, in bounded lists, the troubled and the latest first."""

from __future__ import annotations

import datetime

from websockets.asyncio.client import connect

from pgcachewatch.models import EVERYTHING, Event, Gap, Scope
from pgcachewatch_daemon import sights
from pgcachewatch_daemon.core.history import History, HistoryLimits
from pgcachewatch_daemon.io.postgres import Held
from pgcachewatch_daemon.posts import Standing
from pgcachewatch_daemon.relay import Relay
from pgcachewatch_daemon.sights import ClientSight, Sights, lag_s, see_consumers, see_tables, together
from tests.postgres import Database
from tests.raw_client import Client, notify, options, payload, running
from tests.waiting import eventually

AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def event(table: str, operation: str = "update", schema: str | None = "public") -> Event:
    what = {"channel": "c", "table": table, "operation": operation, "sent_at": AT, "schema": schema}
    return Event.model_validate(what)


def history(*changes: Event | Gap, limits: HistoryLimits | None = None) -> History:
    """One change a second, the first at 1."""
    kept = History(limits or HistoryLimits())
    for seq, change in enumerate(changes, start=1):
        kept.append(seq, change, payload_bytes=10, now_s=float(seq))
    return kept


def client(number: int, state: sights.ClientState = "live", connected_s: float = 1.0) -> ClientSight:
    return ClientSight(str(number), "", "", "", "v1", 1, 0, connected_s, state, 0, 0)


def test_a_table_is_shown_by_its_last_change() -> None:
    kept = history(event("users", "insert"), event("orders"), event("users", "delete"))
    (users, orders), total = see_tables(kept, now_s=5.0)
    assert (users.table, users.operation, users.age_s, users.changes) == ("users", "delete", 2.0, 2)
    assert (orders.table, orders.changes, total) == ("orders", 1, 2)


def test_what_happened_lately_is_counted_apart() -> None:
    ((users,), _) = see_tables(history(event("users"), event("users"), event("users")), now_s=12.5)
    assert (users.changes, users.recent) == (3, 1)


def test_tables_of_one_name_in_two_schemas_are_two() -> None:
    found, _ = see_tables(history(event("t", schema="a"), event("t", schema="b"), event("t", schema=None)), now_s=4.0)
    assert [each.schema for each in found] == [None, "b", "a"]


def test_a_gap_is_of_its_table_and_one_of_everything_is_of_none() -> None:
    kept = history(event("users"), Gap(Scope("c", "users", "public"), "table_wide"), Gap(EVERYTHING, "forced"))
    (users,), total = see_tables(kept, now_s=4.0)
    assert (users.operation, users.changes, total) == ("gap", 2, 1)


def test_no_more_tables_are_listed_than_their_bound_and_the_others_are_counted() -> None:
    found, total = see_tables(history(*(event(f"t{number}") for number in range(sights.TABLES + 5))), now_s=500.0)
    assert (len(found), total) == (sights.TABLES, sights.TABLES + 5)
    assert found[0].table == f"t{sights.TABLES + 4}"


def test_no_more_changes_are_looked_at_than_their_bound() -> None:
    limits = HistoryLimits(events=50_000, bytes=10**9, age_s=10**9)
    changes = [event("old"), *[event("users")] * sights.CHANGES]
    (users,), total = see_tables(history(*changes, limits=limits), now_s=0.0)
    assert (users.table, users.changes, total) == ("users", sights.CHANGES, 1)


def test_clients_of_all_workers_are_one_list_with_the_slow_ones_first() -> None:
    one = Sights(tuple(client(number) for number in range(sights.CLIENTS)))
    other = Sights((client(900, "slow"), client(901, "conflating", connected_s=9.0)), tables_total=0)
    listed = together([one, other]).clients
    assert len(listed) == sights.CLIENTS
    assert [each.id for each in listed[:2]] == ["901", "900"]


def test_consumers_whose_clients_are_away_are_seen_by_what_is_stored_and_the_most_behind_comes_first() -> None:
    here = [Standing("mails", 2, 5, 3.0), Standing("search", 1, 0, 0.0)]
    seen = see_consumers(here, [Held("away", 900.0), Held("mails", 60.0), Held("idle", 0.0)])
    assert [each.name for each in seen] == ["away", "mails", "idle", "search"]
    assert (seen[0].clients, seen[0].pending) == (0, None)
    assert (seen[1].lag_s, lag_s(seen), lag_s(())) == (3.0, 900.0, 0.0)


def only(relay: Relay) -> ClientSight:
    (seen,) = relay.sights().clients
    return seen


async def test_a_client_is_seen_as_it_is(database: Database) -> None:
    async with running(options(database.dsn)) as relay, Client(relay) as reader:
        await eventually(lambda: [each.state for each in relay.sights().clients] == ["joining"])
        await reader.say(
            t="hello", v=1, name="shop", subs=[{"t": "sub", "id": 1}, {"t": "sub", "id": 2, "mode": "stream"}]
        )
        await reader.until("welcome")
        seen = only(relay)
        assert (seen.name, seen.path, seen.state) == ("shop", "v1", "live")
        assert (seen.invalidate, seen.stream, seen.pending_bytes, seen.behind) == (1, 1, 0, 0)
        assert seen.peer.startswith("127.0.0.1")
        assert seen.connected_s >= 0.0


async def test_a_client_of_the_plain_path_is_one_stream(database: Database) -> None:
    async with running(options(database.dsn)) as relay, connect(f"{relay.url}/pgpubsub/ch", proxy=None):
        await eventually(lambda: [each.stream for each in relay.sights().clients] == [1])
        assert (only(relay).path, only(relay).behind) == ("plain", None)


async def test_a_client_that_does_not_read_is_seen_to_be_behind(database: Database) -> None:
    async with running(options(database.dsn)) as relay, Client(relay, max_queue=1) as reader:
        await reader.hello({"t": "sub", "id": 1})
        reader.socket.transport.pause_reading()
        wide = payload("users", *(f"{number:0500d}" for number in range(14)))
        connection = await database.connect()

        async def is_conflating() -> bool:
            statement = "SELECT pg_notify('ch_pgcachewatch_table_change', $1) FROM generate_series(1, 100)"
            await connection.execute(statement, wide)
            return only(relay).state == "conflating"

        await eventually(is_conflating)
        seen = only(relay)
        assert seen.pending_bytes > 0
        assert seen.behind is not None
        assert seen.behind > 0
        await connection.close()
        reader.socket.transport.abort()


async def test_a_change_of_a_moment_ago_is_seen_with_its_table(database: Database) -> None:
    async with running(options(database.dsn)) as relay, Client(relay) as reader:
        await reader.hello()
        await notify(database, payload("users", "5", operation="insert"))
        await reader.until("ev")
        assert [(each.schema, each.table, each.operation) for each in relay.sights().tables] == [
            ("public", "users", "insert")
        ]
