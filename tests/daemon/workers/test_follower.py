"""A worker's relay does with the primary's messages what a relay of one process does with notifications."""

from __future__ import annotations

import asyncio
import datetime
import json
import pickle
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from pgcachewatch.models import Gap, Scope
from pgcachewatch_daemon.core.tokens import Memory
from pgcachewatch_daemon.workers import awaited
from pgcachewatch_daemon.workers.follower import FollowerRelay
from pgcachewatch_daemon.workers.framing import LinkBroken
from pgcachewatch_daemon.workers.messages import (
    AS_READ,
    TABLE_WIDE,
    Ask,
    AskMetrics,
    AskStatus,
    Begin,
    Change,
    Changes,
    ClosePlain,
    Counted,
    Drain,
    Ensure,
    Exposed,
    Hasten,
    HastenLook,
    Here,
    Listening,
    Looked,
    LoopedBack,
    Message,
    Release,
    SourceLost,
    SourceUp,
    State,
    StatusShown,
    TokenNotified,
    TokensSettled,
    Verdict,
)
from tests.daemon.sql.catalogues import installed, table
from tests.raw_client import CHANNEL, Client, get, options, payload
from tests.waiting import eventually

EPOCH, NEXT = "a" * 16, "b" * 16
AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
TOKEN = "0" * 32
CATALOGUE = pickle.dumps(installed([table(1, "users")]))


def change(seq: int, *keys: str, verdict: Verdict = AS_READ, text: str | None = None, channel: str = CHANNEL) -> Change:
    return (seq, time.monotonic(), AT, channel, payload("users", *keys) if text is None else text, verdict)


def here(*, is_up: bool = True, catalogue: bytes = b"", channels: dict[str, int] | None = None) -> Here:
    since_s = time.monotonic()
    memory = Memory(float("-inf") if is_up else None, {}, {})
    listened = {CHANNEL: 0, **(channels or {})} if is_up else {}
    as_of_ms = since_s * 1_000 if is_up else None
    return Here(is_up, since_s, "start", listened, as_of_ms, 3.5, memory, catalogue, since_s)


class Stage:
    """The relay, with the test as its primary."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.relay = FollowerRelay(replace(options("unused"), port=0), self.said.append)

    def loop_back(self, snapshot: str | None = None) -> None:
        self.relay.told(LoopedBack(time.monotonic() * 1_000, snapshot, 3.5))

    def heard(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.said if isinstance(message, kind)]


@asynccontextmanager
async def serving(*replayed: Change, floor: int = 0, state: Here | None = None) -> AsyncIterator[Stage]:
    stage = Stage()
    stage.relay.told(Begin(EPOCH, floor))
    if replayed:
        stage.relay.told(Changes(list(replayed)))
    stage.relay.told(state or here())
    await stage.relay.start()
    try:
        yield stage
    finally:
        await stage.relay.close()


async def test_changes_reach_clients_at_the_primary_s_positions() -> None:
    async with serving() as stage, Client(stage.relay) as client:
        await client.hello()
        stage.relay.told(Changes([change(1, "1"), change(2, "2", verdict=TABLE_WIDE), change(3, text="not json")]))
        heard = [await client.until("ev", s=seq) for seq in (1, 2, 3)]
        assert [each["i"][0][1:] for each in heard] == [["u", "1"], ["u", None], ["*", None]]
        assert client.epoch == EPOCH


async def test_what_the_primary_declared_changed_is_told_whatever_the_payload_says() -> None:
    gap = Gap(Scope(None, "users", "public"), "table_wide", "drift")
    async with serving() as stage, Client(stage.relay) as client:
        await client.hello({"t": "sub", "id": 1, "table": "users"}, {"t": "sub", "id": 2, "table": "orders"})
        stage.relay.told(Changes([change(1, "1", verdict=gap)]))
        assert (await client.until("ev"))["i"] == [[1, "*", None]]


async def test_a_change_that_does_not_follow_breaks_the_link() -> None:
    async with serving(change(1)) as stage:
        with pytest.raises(LinkBroken):
            stage.relay.told(Changes([change(3)]))


async def test_a_change_that_can_not_be_handled_is_a_gap_of_its_channel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("planted")

    async with serving() as stage, Client(stage.relay) as client:
        await client.hello()
        monkeypatch.setattr(stage.relay._intake, "read", broken)
        stage.relay.told(Changes([change(1, "1")]))
        heard = await client.until("ev", s=1)
        assert heard["i"] == [[1, "*", None]]
        monkeypatch.undo()
        stage.relay.told(Changes([change(2, "2")]))
        assert (await client.until("ev", s=2))["i"][0][2] == "2"
    assert "it became a gap" in caplog.text


@pytest.mark.parametrize(("seq", "is_resumed"), [(1, False), (2, True), (4, True), (9, False)])
async def test_a_replacement_resumes_what_its_replay_holds_and_no_more(seq: int, is_resumed: bool) -> None:
    async with serving(change(3, "3"), change(4, "4"), floor=2) as stage, Client(stage.relay) as client:
        client.cursor = seq
        welcome = await client.hello(resume={"e": EPOCH, "s": seq})
        assert (welcome["resumed"], welcome["s"]) == (is_resumed, 4)
        if seq == 2:
            assert {item[2] for item in (await client.until("ev"))["i"]} == {"3", "4"}


@pytest.mark.rule("W-RESUME-3")
@pytest.mark.parametrize(("seq", "is_resumed"), [(1, False), (3, False), (4, True)])
async def test_a_channel_that_was_begun_to_be_heard_later_is_resumed_from_there_only(
    seq: int, is_resumed: bool
) -> None:
    async with serving(*(change(each) for each in (1, 2, 3, 4))) as stage, Client(stage.relay) as client:
        client.cursor = seq
        await client.say(t="hello", v=1, subs=[{"t": "sub", "id": 1, "channel": "late"}], resume={"e": EPOCH, "s": seq})
        await eventually(lambda: stage.heard(Ensure) == [Ensure("late", 1)])
        stage.relay.told(Listening("late", 3, 1))
        assert (await client.until("welcome"))["resumed"] is is_resumed


async def test_a_channel_whose_last_client_has_left_is_released_and_asked_for_anew() -> None:
    async with serving(change(1)) as stage:
        for number in (1, 2):
            async with Client(stage.relay) as client:
                await client.say(t="hello", v=1, subs=[{"t": "sub", "id": 1, "channel": "passing"}])
                await eventually(lambda number=number: stage.heard(Ensure)[-1:] == [Ensure("passing", number)])  # type: ignore[misc]
                stage.relay.told(Listening("passing", number, number))
                await client.say(t="sub", id=2, channel="passing", table="users")
                await client.until("subok", id=2)
                assert len(stage.heard(Release)) == number - 1, "from one group to another nobody lets it go"
            await eventually(lambda number=number: stage.heard(Release) == [Release("passing")] * number)  # type: ignore[misc]


@pytest.mark.rule("W-MARK-1")
async def test_a_client_that_joins_a_replacement_has_the_last_proof_at_once() -> None:
    state = here()
    async with serving(state=state) as stage, Client(stage.relay) as client:
        await client.hello()
        assert (await client.until("mark"))["as_of"] == pytest.approx(state.as_of_ms)


@pytest.mark.rule("W-BARRIER-1")
async def test_a_barrier_passes_with_the_first_loopback_that_was_sent_after_it() -> None:
    async with serving() as stage, Client(stage.relay) as client:
        await client.hello()
        early_ms = time.monotonic() * 1_000
        await client.say(t="barrier", id=1)
        await eventually(lambda: any(each == Hasten(0.0) for each in stage.said))
        stage.relay.told(LoopedBack(early_ms, None, 3.5))
        stage.relay.told(Changes([change(1, "1")]))
        stage.loop_back()
        await client.until("barrierok", id=1)
        kinds = [each["t"] for each in client.seen]
        assert kinds.index("ev") < kinds.index("barrierok"), "the first loopback proved nothing of it"


@pytest.mark.rule("W-BARRIER-2")
async def test_a_token_passes_when_the_primary_says_that_it_has_settled() -> None:
    async with serving() as stage, Client(stage.relay) as client:
        await client.hello()
        await client.say(t="barrier", id=1, token=TOKEN)
        await client.say(t="ping", id=2)
        await client.until("pong")
        stage.relay.told(TokenNotified(TOKEN))
        stage.relay.told(Changes([change(1, "1")]))
        stage.relay.told(TokensSettled())
        await client.until("barrierok", id=1)
        assert client.cursor == 1


@pytest.mark.rule("W-STAMP-3")
async def test_the_primary_hears_whether_snapshots_are_wanted() -> None:
    async with serving() as stage, Client(stage.relay) as client:
        await client.hello({"t": "sub", "id": 1, "table": "users", "stamps": True})
        await eventually(lambda: stage.heard(State)[-1:] == [State(is_busy=True, has_stamps=True)])
        stage.loop_back("10:20:")
        while (await client.until("mark")).get("x") != "10:20:":
            pass
    assert stage.heard(State)[-1] == State(is_busy=False, has_stamps=False)


@pytest.mark.rule("W-STALE-1")
async def test_a_loss_and_a_new_epoch_are_told_and_barriers_wait_for_its_first_proof() -> None:
    async with serving() as stage, Client(stage.relay) as client:
        await client.hello({"t": "sub", "id": 1}, {"t": "sub", "id": 2, "channel": CHANNEL})
        stage.relay.told(SourceLost("connection_lost", time.monotonic()))
        assert (await client.until("stale"))["reason"] == "connection_lost"
        assert (await get(stage.relay, "/readyz")).status_code == 503
        await client.say(t="barrier", id=1)
        await client.say(t="ping", id=2)
        await client.until("pong")
        stage.relay.told(SourceUp(Begin(NEXT, 0), (CHANNEL,), time.monotonic()))
        stage.loop_back()
        assert (await client.until("reset"))["e"] == NEXT
        await client.until("barrierok", id=1)
        stage.relay.told(Changes([change(1, "1")]))
        assert (await client.until("ev"))["s"] == 1
        assert (await get(stage.relay, "/readyz")).status_code == 200


async def test_it_lets_nobody_in_while_the_source_is_lost_and_begins_when_it_is_there() -> None:
    async with serving(state=here(is_up=False)) as stage:
        assert (await get(stage.relay, "/pgpubsub/x")).status_code in (426, 503)
        assert (await get(stage.relay, "/readyz")).json()["checks"]["source"]["detail"] == "start"
        stage.relay.told(SourceUp(Begin(NEXT, 0), (CHANNEL,), time.monotonic()))
        stage.loop_back()
        async with Client(stage.relay) as client:
            await client.hello()
            assert client.epoch == NEXT


@pytest.mark.rule("W-PLAIN-3")
async def test_published_clients_are_closed_when_the_primary_says_so() -> None:
    from websockets.asyncio.client import connect

    async with serving() as stage, connect(f"{stage.relay.url}/pgpubsub/{CHANNEL}", proxy=None) as plain:
        stage.relay.told(Changes([change(1, "1")]))
        assert json.loads(await plain.recv())["keys"] == ["1"]
        stage.relay.told(ClosePlain("missed"))
        await plain.wait_closed()
        assert plain.protocol.close_code == 1012


@pytest.mark.rule("W-ROW-3")
async def test_columns_are_judged_by_the_look_that_was_told() -> None:
    async with serving() as stage, Client(stage.relay) as client:
        await client.hello({"t": "sub", "id": 1, "table": "users", "columns": ["id"]})
        assert (await client.until("err"))["code"] == "not_ready"
        assert stage.heard(HastenLook) == [HastenLook()]
        stage.relay.told(Looked(time.monotonic(), CATALOGUE, frozenset()))
        await client.say(t="sub", id=2, table="users", columns=["id"])
        assert (await client.until("subok", id=2))["types"] == ["int8"]
        stage.relay.told(Looked(time.monotonic(), b"", frozenset()))
        await client.say(t="sub", id=3, table="users", columns=["id"])
        await client.until("subok", id=3)


async def test_a_replacement_knows_the_last_look_from_the_start() -> None:
    async with serving(state=here(catalogue=CATALOGUE)) as stage, Client(stage.relay) as client:
        await client.hello({"t": "sub", "id": 1, "table": "users", "columns": ["id"]})
        assert (await client.until("subok"))["types"] == ["int8"]


async def test_metrics_are_asked_of_the_primary_once_for_all_who_ask() -> None:
    async with serving() as stage:
        answers = [asyncio.create_task(get(stage.relay, "/metrics")) for _ in range(3)]
        await eventually(lambda: len(stage.relay._metrics[False]._waiting) == 3)
        assert stage.heard(AskMetrics) == [AskMetrics()]
        stage.relay.told(Exposed(b"the sum"))
        assert [(answer.status_code, answer.text) for answer in await asyncio.gather(*answers)] == [
            (200, "the sum")
        ] * 3
        assert (await get(stage.relay, "/livez")).status_code == 200


async def test_who_asks_for_openmetrics_is_not_answered_with_the_text() -> None:
    async with serving() as stage:
        kinds = ("*/*", "application/openmetrics-text")
        answers = [asyncio.create_task(get(stage.relay, "/metrics", accept=kind)) for kind in kinds]
        await eventually(lambda: len(stage.heard(AskMetrics)) == 2)
        stage.relay.told(Exposed(b"openmetrics", is_openmetrics=True))
        stage.relay.told(Exposed(b"text"))
        assert [answer.text for answer in await asyncio.gather(*answers)] == ["text", "openmetrics"]


async def test_a_scraper_that_hangs_up_is_harmless() -> None:
    async with serving() as stage:
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.relay.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await eventually(lambda: len(stage.relay._metrics[False]._waiting) == 1)
        writer.transport.abort()
        await eventually(lambda: not stage.relay._server.connections)
        stage.relay.told(Exposed(b"the sum"))
        assert stage.relay._metrics[False]._waiting == []
        del reader


async def test_a_primary_that_does_not_answer_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaited, "WITHIN_S", 0.01)
    async with serving() as stage:
        assert (await get(stage.relay, "/metrics")).status_code == 503
        assert stage.relay._metrics[False]._waiting == []


async def test_the_state_for_people_is_asked_of_the_primary_too() -> None:
    async with serving() as stage:
        answer = asyncio.create_task(get(stage.relay, "/v1/status"))
        await eventually(lambda: stage.heard(AskStatus) == [AskStatus()])
        stage.relay.told(StatusShown(b"{}"))
        assert (await answer).json() == {}


async def test_it_tells_of_clients_and_tables_when_that_is_wanted() -> None:
    async with serving(change(1, "7")) as stage, Client(stage.relay) as client:
        await client.hello()
        stage.relay.told(Ask(1, wants_clients=True))
        stage.relay.told(Ask(2, wants_clients=True, wants_tables=True))
        alone, both = stage.heard(Counted)
        assert isinstance(alone, Counted)
        assert isinstance(both, Counted)
        assert alone.sights is not None
        assert both.sights is not None
        assert ([each.path for each in alone.sights.clients], alone.sights.tables) == (["v1"], ())
        assert [each.table for each in both.sights.tables] == ["users"]


async def test_it_tells_what_it_has_counted_of_clients() -> None:
    async with serving() as stage, Client(stage.relay) as client:
        await client.hello()
        stage.relay.told(Ask(5))
        counted = stage.heard(Counted)[-1]
        assert isinstance(counted, Counted)
        assert counted.number == 5
        assert counted.sights is None
        assert counted.readings["clients"] == {("v1",): 1, ("plain",): 0}
        assert "source_up" not in counted.readings


async def test_what_is_not_for_it_is_a_mistake() -> None:
    async with serving() as stage:
        with pytest.raises(TypeError, match="Drain"):
            stage.relay.told(Drain())
