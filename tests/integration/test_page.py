"""The page at / in a real Chromium, with a real relay, database and clients behind it.

What the browser complains of, a thing forbidden by the policy among it, fails each of these tests.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

import pgcachewatch
from pgcachewatch_daemon.embedded import EmbeddedPostgres
from tests.browser import Browser
from tests.integration.tokens import guarded
from tests.postgres import Database
from tests.raw_client import CHANNEL, payload, running
from tests.relay_process import RelayProcess
from tests.row_triggers import CHANNEL as ROWS_CHANNEL
from tests.row_triggers import RowTriggers

HOSTILE = "<img src=x onerror=document.title='bitten'>"
ROWS = "[...document.querySelectorAll('#rows tr')]"
PICTURES = os.environ.get("PGCW_PICTURES")  # a folder to keep them in


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with Browser.start() as started:
        yield started
        assert started.complaints == []


async def notify(dsn: str, *texts: str) -> None:
    connection = await asyncpg.connect(dsn)
    for text in texts:
        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, text)
    await connection.close()


def row_with(text: str) -> str:
    return f"{ROWS}.some(row => row.textContent.includes({text!r}))"


async def test_a_person_sees_events_tables_and_clients_move(
    database: Database, browser: Browser, tmp_path: Path
) -> None:
    rig = await RowTriggers.open(database)
    await rig.writer.execute("CREATE TABLE users (id int PRIMARY KEY); CREATE TABLE orders (id text PRIMARY KEY)")
    await rig.install("users", "orders")
    with RelayProcess(database.dsn, channel=ROWS_CHANNEL, node="relay-1") as relay:
        async with (
            pgcachewatch.connect(relay.url, name="shop", channels=[ROWS_CHANNEL]) as shop,
            pgcachewatch.connect(relay.url, name="billing"),
            shop.events("users"),
        ):
            await browser.open(relay.http)
            await browser.until("document.querySelector('#tail-state').textContent === 'live'")
            assert await browser.text("#title") == "Events are flowing"

            for number in range(20):
                await rig.writer.execute(f"INSERT INTO users VALUES ({number})")
            await rig.writer.execute("INSERT INTO orders VALUES ('first'), ('second')")
            await rig.writer.execute("DELETE FROM users WHERE id = 7")

            await browser.until(f"{ROWS}.length === 22")
            newest = await browser.see(f"{ROWS}[0].innerText")
            assert newest.split("\t")[1:4] == ["delete", "users", "7"]
            await browser.until("document.querySelector('#tables').innerText.includes('orders')")
            shown = await browser.text("#clients")
            assert all(name in shown for name in ("shop", "billing", "status page", "1 stream", "live"))

            moved = "document.querySelector('.chart path.line').getAttribute('d')"
            before = await browser.see(moved)
            await browser.until(f"{moved} !== {before!r} && {moved}.includes('L')")
            latency = "document.querySelectorAll('.chart .now')[1].textContent"
            await browser.until(f"/^[0-9.]+ m?s$/.test({latency})")

            await _filter(browser)
            await rig.writer.execute("INSERT INTO users SELECT generate_series(100, 140)")
            for scheme in ("light", "dark"):
                place = Path(PICTURES or tmp_path) / f"flowing-{scheme}.png"
                await browser.screenshot(place, scheme=scheme)
                assert place.read_bytes().startswith(b"\x89PNG")


async def _filter(browser: Browser) -> None:
    """By table, operation and key; paused and cleared; by keyboard."""
    await browser.type("#filter-table", "ORDER")
    assert await browser.see(f"{ROWS}.map(row => row.cells[2].textContent)") == ["orders"]
    await browser.type("#filter-table", "")
    await browser.see("document.activeElement.blur()")
    await browser.press("/", 191)
    assert await browser.see("document.activeElement.id") == "filter-text"
    await browser.type("#filter-text", "second")
    assert await browser.see(f"{ROWS}.length") == 1
    await browser.type("#filter-text", "")
    await browser.see(
        "(list => { list.value = 'delete'; list.dispatchEvent(new Event('input')); })"
        "(document.querySelector('#filter-operation'))"
    )
    assert await browser.see(f"{ROWS}.map(row => row.cells[1].textContent)") == ["delete"]
    await browser.see(
        "(list => { list.value = ''; list.dispatchEvent(new Event('input')); })"
        "(document.querySelector('#filter-operation'))"
    )
    await browser.click("#clear")
    assert await browser.see(f"{ROWS}.length") == 0


async def test_what_a_writer_or_a_client_calls_itself_stays_text(database: Database, browser: Browser) -> None:
    with RelayProcess(database.dsn, node=HOSTILE) as relay:
        async with pgcachewatch.connect(relay.url, name=HOSTILE):
            await browser.open(relay.http)
            await browser.until("document.querySelector('#tail-state').textContent === 'live'")
            await notify(database.dsn, payload(HOSTILE, HOSTILE), "not json " + HOSTILE)
            await browser.until(f"{ROWS}.length === 2")
            await browser.until("document.querySelector('#tables').innerText.includes('<img')")
            assert (await browser.see(f"{ROWS}[1].innerText")).split("\t")[2:4] == [HOSTILE, HOSTILE]
            assert HOSTILE in await browser.text("#clients")
            assert await browser.text("#node") == HOSTILE
            # The wordmark's picture is the only one.
            assert await browser.see("document.images.length") == 1
            assert "bitten" not in await browser.see("document.title")


async def test_a_tail_that_is_paused_shows_what_came_meanwhile_when_it_goes_on(
    database: Database, browser: Browser
) -> None:
    with RelayProcess(database.dsn) as relay:
        await browser.open(relay.http)
        await browser.until("document.querySelector('#tail-state').textContent === 'live'")
        await notify(database.dsn, payload("users", "1"))
        await browser.until(f"{ROWS}.length === 1")
        await browser.press("p", 80)
        await notify(database.dsn, *(payload("users", str(number)) for number in range(2, 602)))
        await browser.until("document.querySelector('#tail-state').textContent.includes('600 new events')")
        assert await browser.see(f"{ROWS}.length") == 1
        await browser.click("#pause")
        assert await browser.see(f"[{ROWS}.length, {ROWS}[0].cells[3].textContent]") == [500, "601"]


async def test_a_person_finds_a_failing_database_and_sees_it_recover(
    private_server: EmbeddedPostgres, browser: Browser, tmp_path: Path
) -> None:
    with RelayProcess(private_server.dsn, connect_timeout_s="1") as relay:
        await browser.open(relay.http)
        await browser.until("document.querySelector('#tail-state').textContent === 'live'")
        private_server.kill()
        await browser.until("document.querySelector('#title').textContent === 'PostgreSQL is lost'")
        await browser.until("document.querySelector('#advice').textContent.includes('check host and port')")
        assert "Clients stop trusting their caches" in await browser.text("#advice")
        assert "since" in await browser.text("#since")
        assert await browser.see("document.title.startsWith('✗ PostgreSQL is lost')")
        assert await browser.see("document.querySelector('#banner').dataset.state") == "bad"
        for scheme in ("light", "dark"):
            await browser.screenshot(Path(PICTURES or tmp_path) / f"lost-{scheme}.png", scheme=scheme)

        private_server.start()
        await browser.until("document.querySelector('#title').textContent === 'Events are flowing'")
        await browser.until(row_with("What happened meanwhile is not known"))
        await notify(private_server.dsn, payload("users", "after"))
        await browser.until(row_with("after"))

        relay.kill()
        await browser.until("document.querySelector('#title').textContent === 'The relay does not answer'")
        assert await browser.see("document.body.dataset.known") == "no"
        relay.start()
        relay.wait_ready()
        await browser.until("document.querySelector('#title').textContent === 'Events are flowing'")
        await browser.until("document.querySelector('#tail-state').textContent === 'live'")
        await notify(private_server.dsn, payload("users", "again"))
        await browser.until(row_with("again"))


TOKENS = {
    "token-of-all": {"modes": ["stream", "status"]},
    "token-of-a-reader": {"modes": ["stream"]},
    "token-of-the-shop": {"modes": ["stream"], "tables": ["orders"]},
    "token-of-an-operator": {"modes": ["status"]},
}


async def _use(browser: Browser, token: str) -> None:
    await browser.type("#token", token)
    await browser.press("Enter", 13)


async def _forget(browser: Browser) -> None:
    await browser.see("window.isOld = true")
    await browser.click("#forget")
    await browser.until("window.isOld === undefined && document.querySelector('#ask')?.hidden === false")


async def test_a_token_is_asked_for_and_what_it_does_not_allow_is_said(
    database: Database, browser: Browser, tmp_path: Path
) -> None:
    async with running(guarded(database, tmp_path / "tokens", TOKENS)) as relay:
        await browser.open(f"http://127.0.0.1:{relay.port}")
        await browser.until("!document.querySelector('#ask').hidden")
        await browser.until("document.querySelector('#title').textContent === 'Events are flowing'")  # by /readyz
        await browser.screenshot(Path(PICTURES or tmp_path) / "token.png", height=800)

        await _use(browser, "wrong")
        await browser.until("document.querySelector('#ask-problem').textContent.includes('was refused')")

        await _use(browser, "token-of-a-reader")
        await browser.until("document.querySelector('#tail-state').textContent === 'live'")
        await browser.until("document.querySelector('#limited').textContent.includes('mode status')")
        await notify(database.dsn, payload("users", "seen"))
        await browser.until(row_with("seen"))

        await _forget(browser)
        await _use(browser, "token-of-an-operator")
        await browser.until("document.querySelector('#limited').textContent.includes('No live tail')")
        await browser.until("document.querySelector('#node').textContent === 'test'")

        await _forget(browser)
        await _use(browser, "token-of-the-shop")
        await browser.until("document.querySelector('#limited').textContent.includes('limited to tables')")
        await browser.type("#filter-table", "orders")
        await browser.press("Enter", 13)
        await browser.until("document.querySelector('#tail-state').textContent.startsWith('live')")
        await notify(database.dsn, payload("users", "hidden"), payload("orders", "shown"))
        await browser.until(row_with("shown"))
        assert not await browser.see(row_with("hidden"))

        await _forget(browser)
        await _use(browser, "token-of-all")
        await browser.until("document.querySelector('#tail-state').textContent === 'live'")
        await browser.until("document.querySelector('#clients').innerText.includes('t0 · 127.0.0.1')")
        assert await browser.see("document.querySelector('#limited').hidden && document.querySelector('#ask').hidden")
        assert "token" not in await browser.see("location.href")
