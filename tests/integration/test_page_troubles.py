"""What the page at / shows of hostile texts, other channels, a relay that changed meanwhile, and a tab that slept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.browser import Browser
from tests.postgres import Database
from tests.raw_client import CHANNEL, payload
from tests.relay_process import RelayProcess

ROWS = "[...document.querySelectorAll('#rows tr')]"
LIVE = "document.querySelector('#tail-state').textContent === 'live'"
TITLE = "document.querySelector('#title').textContent"
TURNED = "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with Browser.start() as started:
        yield started
        assert started.complaints == []


@pytest.fixture
async def connection(database: Database) -> asyncpg.Connection:
    return await database.connect()


async def tell(connection: asyncpg.Connection, text: str, channel: str = CHANNEL) -> None:
    await connection.execute("SELECT pg_notify($1, $2)", channel, text)


async def test_texts_that_deceive_are_seen_as_they_are_and_another_channel_can_be_followed(
    database: Database, connection: asyncpg.Connection, browser: Browser
) -> None:
    with RelayProcess(database.dsn) as relay:
        await browser.open(relay.http)
        await browser.until(LIVE)
        long = "k" * 1_000
        await tell(connection, payload(TURNED, TURNED, long))
        await browser.until(f"{ROWS}.length === 1")
        place, keys = await browser.see(f"[2, 3].map(cell => {ROWS}[0].cells[cell].textContent)")
        assert place == "\\u{202e}gnp.exe"
        assert keys.startswith("\\u{202e}gnp.exe")
        assert keys.endswith("k…"), "that it was cut is seen"
        assert await browser.see(f"{ROWS}[0].cells[3].lastChild.title") == long
        await browser.until("document.querySelector('#tables').textContent.includes('202e')")
        assert await browser.see(f"{ROWS}[0].cells[4].textContent") == "\N{EN DASH}", (
            "the database's clock is years ahead here"
        )

        await _follow(browser, "of_the_shop")
        await browser.until(f"{LIVE} && {ROWS}.length === 0")
        await tell(connection, payload("hidden"))
        await tell(connection, payload("shown"), "of_the_shop")
        await browser.until(f"{ROWS}.length === 1")
        assert await browser.see(f"{ROWS}[0].cells[2].textContent") == "shown"

        await _follow(browser, "é" * 40)  # 80 bytes: PostgreSQL has no such channel
        await browser.until("document.querySelector('#limited').textContent.includes('1 to 63 bytes')")
        assert await browser.see("document.querySelector('#ask').hidden"), "no token would help"
        await _follow(browser, "")
        await browser.until(f"{LIVE} && document.querySelector('#limited').hidden")


async def _follow(browser: Browser, channel: str) -> None:
    await browser.type("#filter-channel", channel)
    await browser.press("Enter", 13)


async def _answer(browser: Browser, status: int, change: str) -> None:
    """From now on the page reads this: `change` is a function of the document in JavaScript."""
    script = """
        window.fetched ??= window.fetch;
        window.fetch = async (...asked) => {
            const answer = await window.fetched(...asked);
            return new Response((CHANGE)(await answer.text()), {status: STATUS});
        };"""
    await browser.see(f"{{{script.replace('CHANGE', change).replace('STATUS', str(status))}}}")


async def test_a_person_is_told_what_is_wrong_with_the_way_to_the_relay_and_with_the_page_itself(
    database: Database, connection: asyncpg.Connection, browser: Browser
) -> None:
    with RelayProcess(database.dsn) as relay:
        await browser.open(relay.http)
        await browser.until(f"{LIVE} && {TITLE} === 'Events are flowing'")

        await _answer(browser, 502, "() => 'nobody behind this proxy'")
        await browser.until(f'{TITLE} === "The relay\'s address answers with 502"')
        assert "nobody behind this proxy" in await browser.text("#advice")

        await _answer(browser, 200, '() => \'{"version": "99"}\'')
        await browser.until(f"{TITLE} === 'This page can not read what the relay says'")
        assert "load it anew" in await browser.text("#advice")

        late = {"name": "mails", "clients": 0, "pending": None, "lag_s": 900}
        consumers = json.dumps({"total": 1, "listed": [late]})
        newer = "text => JSON.stringify({...JSON.parse(text), version: '99', consumers: CONSUMERS})"
        await _answer(browser, 200, newer.replace("CONSUMERS", consumers))
        await browser.until("document.querySelector('#limited').textContent.includes('of version 99 now')")
        await browser.until(f"{TITLE} === 'Events are flowing'")
        assert "15 min" in await browser.text("#consumers")
        await _answer(browser, 200, "text => text")
        await browser.until("document.querySelector('#consumers-card').hidden")
        await browser.until("document.querySelector('#limited').hidden")


async def test_a_tab_that_slept_leaves_a_hole_as_long_as_its_sleep_and_has_the_right_time(
    database: Database, connection: asyncpg.Connection, browser: Browser
) -> None:
    drawn = "document.querySelectorAll('.chart')[2].querySelector('path.line').getAttribute('d')"
    with RelayProcess(database.dsn) as relay:
        await browser.open(relay.http)
        await browser.until(f"{LIVE} && ({drawn} || '').includes('L')")
        # While a machine sleeps performance.now() stands still, and Date.now() does not.
        await browser.see("{ const now = Date.now.bind(Date); Date.now = () => now() + 100_000; }")
        # Its chart has a value a second: two runs of them with a hundred between.
        starts = f"[...{drawn}.matchAll(/M([0-9.]+) /g)].map(found => Number(found[1]))"
        await browser.until(f"{starts}.length > 1 && {starts}.at(-1) - {starts}[0] > 150")
        await tell(connection, payload())
        await browser.until(f"{ROWS}.length === 1")
        late = f"""(() => {{
            const seconds = (hours, minutes, rest) => (hours * 60 + minutes) * 60 + rest;
            const now = new Date(Date.now());
            const told = seconds(...{ROWS}[0].cells[0].textContent.split(':').map(Number));
            return (seconds(now.getHours(), now.getMinutes(), now.getSeconds()) - told + 86401) % 86400;
        }})()"""
        assert await browser.see(late) < 60, "seconds"
