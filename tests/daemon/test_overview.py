"""The document of /v1/status has the fields of its table and no others, and no key of a row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pgcachewatch_daemon import overview
from pgcachewatch_daemon.io.postgres import Held
from pgcachewatch_daemon.overview import FIELDS, KEPT_S, Kept, render_table
from pgcachewatch_daemon.relay import Relay
from pgcachewatch_daemon.sql.assessment import Assessment
from pgcachewatch_daemon.sql.drift import Finding
from tests.daemon.sql.catalogues import installed, table
from tests.postgres import Database
from tests.raw_client import Client, get, kill_listener, notify, options, payload, running
from tests.waiting import eventually

FINDING = Finding("trigger_missing", "users", "no trigger")


def fields(value: object, place: str = "") -> Iterator[str]:
    """Paths of all that is in a document; what is under `histograms` has names of its own."""
    match value:
        case dict():
            for name, inner in value.items():
                step = "{}" if place == "histograms" else f".{name}" if place else name
                yield from fields(inner, place + step)
        case list() if value and isinstance(value[0], dict):
            yield from fields(value[0], f"{place}[]")
        case _:
            yield place


async def test_a_document_has_each_field_of_the_table_and_no_other(database: Database) -> None:
    async with running(options(database.dsn)) as relay, Client(relay) as reader:
        await reader.hello()
        await notify(database, payload("users", "a secret key"))
        await reader.until("ev")
        relay._source.stats.journal.held = (Held("mails", 7.0),)
        relay._inspection.tell(Assessment(installed([table(1, "users")]), findings=(FINDING,)), 0.0)
        answer = await get(relay, "/v1/status")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert "secret" not in answer.text
        found = set(fields(answer.json()))
        assert answer.json()["consumers"]["listed"] == [{"name": "mails", "clients": 0, "pending": None, "lag_s": 7.0}]
        assert found - {"drift.listed"} == {name for name, _ in FIELDS}


async def test_a_loss_of_postgresql_is_told_with_its_reason(database: Database) -> None:
    async with running(options(database.dsn)) as relay:
        before = (await get(relay, "/v1/status")).json()
        assert (before["ready"], before["health"]["state"]) == (True, "flowing")
        assert re.fullmatch(r"\d+\.\d+", before["postgres"]["version"])
        await kill_listener(database)

        async def was_lost() -> bool:
            document = (await get(relay, "/v1/status")).json()
            return bool(document["postgres"]["losses"] == 1 and document["counts"]["epochs"] >= 2)

        await eventually(was_lost)


async def test_a_relay_without_postgresql_says_what_to_do() -> None:
    async with Relay(options("postgresql://nobody:hidden@127.0.0.1:1/none")) as relay:

        async def has_tried() -> bool:
            document = (await get(relay, "/v1/status")).json()
            assert "hidden" not in str(document)
            return "check host and port" in document["health"]["advice"]

        await eventually(has_tried)


def test_an_answer_is_kept_for_a_moment() -> None:
    clock = [10.0]
    kept = Kept(lambda: clock[0])
    assert [kept.text] == [None]
    kept.keep(b"{}")
    clock[0] += KEPT_S / 2
    assert [kept.text] == [b"{}"]
    clock[0] += KEPT_S
    assert [kept.text] == [None]


def test_the_document_for_people_is_generated_from_the_table() -> None:
    place = Path(overview.__file__).with_name("STATUS.md")
    assert place.read_text() == render_table(), "python -m pgcachewatch_daemon.overview > STATUS.md"
