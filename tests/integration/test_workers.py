"""The same promises at each worker of a relay, and one relay to be seen from outside."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from websockets.asyncio.client import connect

import pgcachewatch
from pgcachewatch.protocol.messages import TOKEN_CHANNEL
from pgcachewatch_daemon.workers import scrape
from pgcachewatch_daemon.workers.primary import PrimaryRelay
from tests.integration.users import Users
from tests.integration.workforce import (
    CLIENTS,
    WORKERS,
    client_of,
    clients_by_worker,
    everywhere,
    metric,
    running,
)
from tests.postgres import Database
from tests.raw_client import CHANNEL, SOURCE, get, kill_listener, notify, options, payload, refused
from tests.waiting import LIMIT_S, eventually

EVENTS = 25


@pytest.fixture
async def relay(database: Database) -> AsyncIterator[PrimaryRelay]:
    async with running(options(database.dsn, workers=WORKERS)) as relay:
        yield relay


# --- the same for everybody


async def test_clients_of_all_workers_hear_each_change_at_the_same_position(
    relay: PrimaryRelay, database: Database
) -> None:
    async with everywhere(relay) as clients:
        for number in range(EVENTS):
            await notify(database, payload("users", str(number)))
        heard = []
        for client in clients:
            await client.until("ev", s=EVENTS)
            heard.append([(each["s"], each["i"][0][2]) for each in client.seen if each["t"] == "ev"])
        assert all(each == [(number + 1, str(number)) for number in range(EVENTS)] for each in heard)
        assert len({client.epoch for client in clients}) == 1


@pytest.mark.rule("W-PLAIN-1")
async def test_published_clients_hear_each_payload_at_any_worker(relay: PrimaryRelay, database: Database) -> None:
    async with AsyncExitStack() as stack:
        plain = [
            await stack.enter_async_context(connect(f"{relay.url}/pgpubsub/{CHANNEL}", proxy=None))
            for _ in range(CLIENTS)
        ]
        for number in range(EVENTS):
            await notify(database, payload("users", str(number)))
        for each in plain:
            assert [await each.recv() for _ in range(EVENTS)] == [payload("users", str(n)) for n in range(EVENTS)]


async def test_a_notification_that_can_not_be_read_is_a_gap_at_each_worker(
    relay: PrimaryRelay, database: Database
) -> None:
    async with everywhere(relay) as clients:
        await notify(database, "not json")
        for client in clients:
            assert (await client.until("ev", s=1))["i"] == [[1, "*", None]]
    assert await metric(relay, "pgcachewatch_gaps_received_total") == 1


@pytest.mark.rule("W-SUB-5")
async def test_a_channel_nobody_used_is_live_once_it_is_acknowledged_at_any_worker(
    relay: PrimaryRelay, database: Database
) -> None:
    async with everywhere(relay) as clients:
        for number, client in enumerate(clients):
            await client.say(t="sub", id=2, channel=f"new_{number // 2}")
        for number, client in enumerate(clients):
            await client.until("subok", id=2)
            await notify(database, payload("users", str(number)), f"new_{number // 2}")
            while (await client.until("ev"))["i"][0][2] != str(number):
                pass  # what another client's turn notified on the channel they share


async def test_a_channel_that_can_not_be_is_refused_through_a_worker(relay: PrimaryRelay) -> None:
    assert await refused(f"{relay.url}/pgpubsub/{TOKEN_CHANNEL}") == 400


async def test_the_limit_of_channels_is_that_of_the_whole_relay(database: Database) -> None:
    limited = options(database.dsn, source=replace(SOURCE, dsn=database.dsn, channels_limit=3), workers=WORKERS)
    async with running(limited) as relay, everywhere(relay) as clients:
        for number in range(2):  # the default channel is the first
            await clients[number].say(t="sub", id=2, channel=f"new_{number}")
            await clients[number].until("subok", id=2)
        for client in clients:
            await client.say(t="sub", id=3, channel="one_too_many")
            assert (await client.until("err", id=3))["code"] == "too_many_channels"


@pytest.mark.rule("W-BARRIER-1")
async def test_after_a_barrier_a_client_of_any_worker_reads_its_writes(relay: PrimaryRelay, database: Database) -> None:
    users = Users(database.dsn)
    await users.create()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(pgcachewatch.connect(relay.url)) for _ in range(CLIENTS)]
        cached = [client.cache(users.version, tables=["users"]) for client in clients]
        for client in clients:
            await client.wait_live(LIMIT_S)
        for version in range(1, 6):
            await asyncio.gather(*(each(1) for each in cached))
            await users.change(1)
            await asyncio.gather(*(client.barrier(timeout=LIMIT_S) for client in clients))
            assert await asyncio.gather(*(each(1) for each in cached)) == [version] * CLIENTS


@pytest.mark.rule("W-BARRIER-2")
async def test_a_token_passes_behind_its_transaction_at_any_worker(relay: PrimaryRelay, database: Database) -> None:
    async with everywhere(relay) as clients:
        connection = await database.connect()
        for number, client in enumerate(clients):
            token = f"{number:032x}"
            await client.say(t="barrier", id=number, token=token)
            async with connection.transaction():
                await connection.execute("SELECT pg_notify($1, $2)", TOKEN_CHANNEL, token)
                await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload("users", token))
        for number, client in enumerate(clients):
            await client.until("barrierok", id=number)
            assert any(each["t"] == "ev" and each["i"][0][2] == f"{number:032x}" for each in client.seen)
    assert await metric(relay, "pgcachewatch_token_barriers_total") == len(clients)


@pytest.mark.rule("W-STAMP-3")
async def test_stamps_bring_snapshots_to_who_asks_at_any_worker(relay: PrimaryRelay) -> None:
    async with everywhere(relay) as clients:
        for client in clients:
            await client.say(t="sub", id=2, table="users", stamps=True)
        for client in clients:
            while not (await client.until("mark")).get("x"):
                pass
    await eventually(lambda: not relay._loopback.wants_snapshot)  # nobody is left who asks for them


async def _has_clients(relay: PrimaryRelay, number: int) -> bool:
    return sum(await clients_by_worker(relay)) == number


# --- the source


@pytest.mark.rule("W-STALE-1")
async def test_a_lost_source_is_stale_for_all_and_then_one_new_epoch(relay: PrimaryRelay, database: Database) -> None:
    async with everywhere(relay) as clients:
        before = clients[0].epoch
        await kill_listener(database)
        for client in clients:
            assert (await client.until("stale"))["reason"] == "connection_lost"
        epochs = {(await client.until("reset"))["e"] for client in clients}
        assert len(epochs) == 1
        assert before not in epochs
        await notify(database, payload("users", "after"))
        for client in clients:
            assert (await client.until("ev"))["i"][0][2] == "after"
    assert await metric(relay, "pgcachewatch_epoch_changes_total") == 2


async def test_channels_that_clients_need_outlast_a_lost_source_and_others_do_not(
    relay: PrimaryRelay, database: Database
) -> None:
    async with everywhere(relay) as clients:
        for number, client in enumerate(clients):
            await client.say(t="sub", id=2, channel=f"needed_{number}")
            await client.until("subok", id=2)
        async with client_of(relay) as passing:
            await passing.hello({"t": "sub", "id": 1, "channel": "not_needed"})
        await eventually(lambda: _has_clients(relay, len(clients)))
        assert "not_needed" in relay._channels.listened
        await kill_listener(database)
        for client in clients:
            await client.until("reset")
        for number, client in enumerate(clients):
            await notify(database, payload("users", str(number)), f"needed_{number}")
            assert (await client.until("ev"))["i"][0][2] == str(number)
        assert set(relay._channels.listened) == {CHANNEL, *(f"needed_{number}" for number in range(len(clients)))}


# --- what others see


async def test_metrics_at_any_worker_are_those_of_the_relay_and_never_go_back(
    relay: PrimaryRelay, database: Database
) -> None:
    async with everywhere(relay) as clients:
        await notify(database, payload())
        for client in clients:
            await client.until("ev")
        for _ in range(CLIENTS):  # at whichever worker it arrives
            assert await metric(relay, "pgcachewatch_clients") == len(clients)
            assert await metric(relay, "pgcachewatch_events_received_total") == 1
            assert await metric(relay, "pgcachewatch_history_events") == 1
            assert await metric(relay, "pgcachewatch_workers") == WORKERS
        frames = await metric(relay, "pgcachewatch_frames_sent_total")
        assert frames >= 4 * len(clients)
        killed = relay.workers[1]
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: relay.workers.get(1, killed) != killed)
        assert await metric(relay, "pgcachewatch_frames_sent_total") >= frames
        assert await metric(relay, "pgcachewatch_worker_restarts_total") == 1
        assert 0 < await metric(relay, "pgcachewatch_clients") < len(clients)


async def test_a_worker_that_does_not_answer_is_left_out_of_a_scrape_and_counted(
    relay: PrimaryRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with everywhere(relay) as clients:
        monkeypatch.setattr(scrape, "ANSWER_S", 2.0)
        stopped = relay.workers[1]
        os.kill(stopped, signal.SIGSTOP)
        text = (await relay._scrapes.ask()).decode()  # not over HTTP: the kernel may give that to the stopped one
        os.kill(stopped, signal.SIGCONT)
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        assert 0 < float(values['pgcachewatch_clients{path="v1"}']) < len(clients)
        assert float(values["pgcachewatch_worker_silences_total"]) == 1


async def test_health_at_any_worker_is_that_of_the_relay(database: Database) -> None:
    slow = replace(SOURCE, dsn=database.dsn, reconnect_min_s=3600.0, reconnect_max_s=3600.0)
    async with running(options(database.dsn, source=slow, workers=WORKERS)) as relay, everywhere(relay) as clients:
        for _ in range(CLIENTS):
            answer = await get(relay, "/readyz")
            assert (answer.status_code, answer.json()["ready"]) == (200, True)
            assert (await get(relay, "/up")).status_code == 200
        await kill_listener(database)
        for client in clients:
            await client.until("stale")
        for _ in range(CLIENTS):
            answer = await get(relay, "/readyz")
            assert (answer.status_code, answer.json()["checks"]["source"]["detail"]) == (503, "connection_lost")
            assert await refused(f"{relay.url}/pgpubsub/{CHANNEL}") == 503


async def test_people_see_the_clients_of_all_workers_and_their_tables_once(
    relay: PrimaryRelay, database: Database
) -> None:
    async with everywhere(relay) as clients:
        await notify(database, payload("users", "5"))
        for client in clients:
            await client.until("ev")
        answers = await asyncio.gather(*(get(relay, "/v1/status") for _ in range(5)))
        documents = [answer.json() for answer in answers]
        assert all(document["clients"]["total"] == len(clients) for document in documents)
        (one, *_) = documents
        assert len(one["clients"]["listed"]) == len(clients)
        assert [(each["table"], each["changes"]) for each in one["tables"]["listed"]] == [("users", 1)]
        assert (one["ready"], one["workers"]["alive"], one["counts"]["events"]) == (True, WORKERS, 1)
        assert one["postgres"]["version"]
