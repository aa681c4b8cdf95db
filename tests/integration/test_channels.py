"""Channels come and go by the thousand: nobody is refused, and whoever resumes is told what is missing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pgcachewatch_daemon.core.reach import Reach
from pgcachewatch_daemon.relay import Relay
from tests.integration.workforce import WORKERS, metric
from tests.integration.workforce import running as running_workers
from tests.postgres import Database
from tests.raw_client import SOURCE, Addressed, Client, Message, notify, options, payload, running
from tests.waiting import eventually

LIMIT = 100
BATCH = 20  # of one client at a time
STEADY = {"t": "sub", "id": 1, "channel": "steady"}


async def come_and_go(passing: Client, names: range) -> None:
    """Subscribe to a channel of each of these names, then to none of them."""
    await passing.socket.send(
        json.dumps([{"t": "sub", "id": number, "channel": f"passing_{number}"} for number in names])
    )
    left = set(names)
    while left:
        left.remove((await passing.until("subok"))["id"])
    await passing.socket.send(json.dumps([{"t": "unsub", "id": number} for number in names]))
    passing.seen.clear()


class Steady:
    """A client of one channel that is away again and again, and meanwhile its channel says something."""

    def __init__(self, relay: Addressed, database: Database) -> None:
        self._relay = relay
        self._database = database
        self._left: Message | None = None
        self._missed: set[str] = set()
        self.resumed = self.flushed = self._events = 0

    async def come_back(self) -> None:
        """Asserts that it is told all that it missed, or to flush."""
        async with Client(self._relay) as client:
            client.cursor = self._left["s"] if self._left else 0
            welcome = await client.hello(STEADY, resume=self._left)
            await client.say(t="barrier", id=0)  # what was committed before is told before the answer
            await client.until("barrierok")
            if welcome["resumed"]:
                told = {item[2] for each in client.seen if each["t"] == "ev" for item in each["i"]}
                assert self._missed <= told, "events were missed"
                self.resumed += 1
            else:
                self.flushed += 1
            self._missed.clear()
            self._left = {"e": client.epoch, "s": client.cursor}

    async def miss(self) -> None:
        """Its channel says something while it is away."""
        self._events += 1
        self._missed.add(str(self._events))
        await notify(self._database, payload("users", str(self._events)), "steady")


async def churn(relay: Addressed, database: Database, *, names: int, away: range) -> Steady:
    """`names` channels come and go; the steady client comes back each time after one more batch, as `away` says."""
    steady = Steady(relay, database)
    await steady.come_back()
    lasting, done = list(away), 0
    async with Client(relay) as passing:
        await passing.hello({"t": "sub", "id": names})
        await passing.until("subok")
        while done < names:
            await steady.miss()
            for _ in range(lasting[0]):
                await come_and_go(passing, range(done, min(done + BATCH, names)))
                done = min(done + BATCH, names)
            lasting.append(lasting.pop(0))
            await steady.miss()
            await steady.come_back()
    return steady


@pytest.mark.rule("W-RESUME-3")
async def test_ten_thousand_names_come_and_go_under_a_limit_of_a_hundred(database: Database) -> None:
    source = replace(SOURCE, channels_limit=LIMIT)
    async with running(options(database.dsn, source=source)) as relay:
        steady = await churn(relay, database, names=10_000, away=range(0, 30, 2))
        assert steady.resumed > 3
        assert steady.flushed > 3
        assert relay._source.stats.channels <= LIMIT
        assert relay._source.stats.channels_given_up["displaced"] > 10_000 - 2 * LIMIT
        assert relay._reception.limit_refusals["channels"] == 0
        assert len(relay._reception._reach) <= LIMIT


@pytest.mark.rule("W-RESUME-3")
async def test_with_workers_too(database: Database) -> None:
    source = replace(SOURCE, channels_limit=LIMIT)
    async with running_workers(options(database.dsn, source=source, workers=WORKERS)) as relay:
        steady = await churn(relay, database, names=400, away=range(0, 15, 3))
        assert steady.resumed > 0
        assert steady.flushed > 1, "the first time counts as one"
        assert await metric(relay, "pgcachewatch_source_channels") <= LIMIT


async def test_a_hole_that_is_not_told_would_be_seen(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reach, "is_whole", lambda *_, **__: True)
    source = replace(SOURCE, channels_limit=LIMIT)
    async with running(options(database.dsn, source=source)) as relay:
        with pytest.raises(AssertionError, match="events were missed"):
            await churn(relay, database, names=200, away=range(9, 10))


async def test_a_channel_that_the_history_has_outlived_is_given_up_by_itself(database: Database) -> None:
    history = replace(Relay(options("unused")).options.history, events=3)
    async with running(options(database.dsn, history=history)) as relay:
        async with Client(relay) as client:
            await client.hello(STEADY)
        await eventually(lambda: relay._source.stats.channels_unused == 1)
        for number in range(5):
            await notify(database, payload("users", str(number)))
        await eventually(lambda: relay._source.stats.channels_given_up["unused"] == 1)
        assert not relay._source.is_listening("steady")
        seq = relay._hub.position.seq
        await notify(database, payload("users", "unheard"), "steady")
        await notify(database, payload("users", "heard"))
        await eventually(lambda: relay._hub.position.seq > seq)
        assert relay._hub.position.seq == seq + 1
