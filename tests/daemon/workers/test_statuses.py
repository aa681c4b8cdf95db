"""However many ask for the state of the relay, its workers are looked at once."""

from __future__ import annotations

import asyncio
import json
from typing import cast

from pgcachewatch.models import Position
from pgcachewatch_daemon.io.postgres import SourceStats
from pgcachewatch_daemon.overview import View
from pgcachewatch_daemon.sights import Sights
from pgcachewatch_daemon.workers.scrape import Scrapes
from pgcachewatch_daemon.workers.statuses import Statuses
from pgcachewatch_daemon.workers.sums import nothing
from tests.daemon.test_health import found
from tests.waiting import eventually


class Looked:
    """Scrapes whose looks end when the test says so."""

    def __init__(self) -> None:
        self.looks = 0
        self.may_end = asyncio.Event()

    async def look(self) -> Sights:
        self.looks += 1
        await self.may_end.wait()
        return Sights()


def view(sights: Sights) -> View:
    return View("here", 1.0, Position("a" * 16, 1), found(), SourceStats(), nothing(), sights, (), ())


async def test_who_asks_meanwhile_or_a_moment_later_gets_the_same_answer() -> None:
    looked = Looked()
    statuses = Statuses(cast(Scrapes, looked), view)
    answers: list[bytes] = []
    statuses.ask(answers.append)
    statuses.ask(answers.append)
    await asyncio.sleep(0)
    looked.may_end.set()
    await eventually(lambda: len(answers) == 2)
    statuses.ask(answers.append)
    await eventually(lambda: len(answers) == 3)
    assert (looked.looks, len(set(answers))) == (1, 1)
    assert json.loads(answers[0])["node"] == "here"
    await statuses.close()


async def test_whoever_waits_at_the_end_is_answered_no_more() -> None:
    statuses = Statuses(cast(Scrapes, Looked()), view)
    answers: list[bytes] = []
    statuses.ask(answers.append)
    await statuses.close()
    assert answers == []
