"""What a visitor remembers, and that it is made when it is needed."""

from __future__ import annotations

import asyncio
from typing import cast

from pgcachewatch_daemon.io.websocket import Connection
from pgcachewatch_daemon.visitor import HELLO, Visitor


def visitor() -> Visitor:
    return Visitor(cast(Connection, object()), None)


def test_an_idle_visitor_has_no_tables_of_its_own() -> None:
    idle = visitor()
    assert (idle.types, idle.pending, idle.backlog) == (None, None, ())
    assert (idle.types_of(1), idle.waited_for(1)) == (None, None)
    idle.forget_types(1)
    assert idle.types is None


def test_types_are_remembered_by_sid_until_they_are_forgotten() -> None:
    told = visitor()
    told.told_types(1, ("int4",))
    told.told_types(2, ("text",))
    told.forget_types(1)
    assert (told.types_of(1), told.types_of(2)) == (None, ("text",))


async def test_what_was_waited_for_is_handed_out_once() -> None:
    waiting = visitor()
    task = asyncio.create_task(asyncio.sleep(0))
    waiting.waits_for(HELLO.sid, task)
    assert waiting.waited_for(HELLO.sid) is task
    assert waiting.waited_for(HELLO.sid) is None
    await task
