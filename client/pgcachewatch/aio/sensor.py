"""Notices how and when a connection of asyncpg stops being of use to a listener.

asyncpg tells of a termination in a later step of the loop, does not say whose doing it was, and says nothing when a
reset takes the listeners away. But it drops its callbacks in the very step in which any of that happens. So a callback
is given to it that nobody else holds, and a weak reference tells of its end.

Whose doing it was shows in where that step runs: close() and terminate() are called by a task, while a lost connection
is found by the event loop itself, outside of any. An UNLISTEN or DISCARD ALL that is sent over the connection is seen
by its query logger. What stays unseen is a server that went silent.

Bound: three callbacks for each connection; they do not keep their owner alive.
"""

from __future__ import annotations

import asyncio
import re
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from asyncpg import Connection
    from asyncpg.pool import PoolConnectionProxy

# closed: by this program. lost: by anything else. deaf: it lives, and does not listen any more.
Ending = Literal["closed", "lost", "deaf"]

NAME_BYTES = 63

# Comments are looked past only where the query begins: behind each semicolon, one that does not end would be searched
# to its end again and again.
_BEGINNING = r"^(?:\s|--[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)*"
_DEAFENING = re.compile(rf"(?:{_BEGINNING}|;\s*)(?:discard\s+all\b|unlisten\b(?P<rest>[^;]*))", re.IGNORECASE)
_NAME = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>[^\W\d][\w$]*))\s*')


class Sensor:
    """Calls `ended` when something happens to `connection`; maybe more than once, and the first word counts."""

    def __init__(
        self, connection: Connection | PoolConnectionProxy, channel: str, ended: Callable[[Ending], None]
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._ended = ended
        self._dropped: list[weakref.ref[Any]] = []
        this = weakref.ref(self)
        connection.add_termination_listener(partial(_terminated, this))
        if hasattr(connection, "add_query_logger"):  # asyncpg 0.29 and later
            watcher = partial(_queried, this)
            connection.add_query_logger(watcher)
            self.feel(watcher)

    @property
    def is_open(self) -> bool:  # hot path
        """False once the connection is closed, lost or back in its pool."""
        try:
            return not self._connection.is_closed()
        except Exception:
            # asyncpg's InterfaceError, which is not imported here: the connection went back to its pool.
            return False

    def feel(self, callback: partial[Any]) -> None:
        """Notice when asyncpg lets go of `callback`, which nobody else may hold."""
        self._dropped.append(weakref.ref(callback, partial(_let_go, weakref.ref(self))))

    def judge(self) -> None:
        """Something happened: find out what."""
        if self.is_open:
            self._ended("deaf")
        else:
            self._ended("closed" if _is_own_doing() else "lost")

    def heard(self, query: str) -> None:
        """The connection ran `query`."""
        if _stops_listening(query, self._channel):
            self._ended("deaf")


def _terminated(sensor: weakref.ref[Sensor], connection: object) -> None:
    this = sensor()
    if this is not None and not this.is_open:
        this.judge()


def _queried(sensor: weakref.ref[Sensor], record: Any) -> None:  # Any: a LoggedQuery of asyncpg
    this = sensor()
    if this is not None and record.exception is None:
        this.heard(record.query)


def _let_go(sensor: weakref.ref[Sensor], callback: object) -> None:
    this = sensor()
    if this is not None:
        this.judge()


def _stops_listening(query: str, channel: str) -> bool:
    """False when each UNLISTEN in `query` names another channel, as asyncpg's does when another listener leaves."""
    return any(_concerns(found["rest"], channel) for found in _DEAFENING.finditer(query))


def _concerns(rest: str | None, channel: str) -> bool:
    name = None if rest is None else _NAME.fullmatch(rest)
    if name is None:
        return True  # DISCARD ALL, UNLISTEN *, or something with a comment in it
    if name["quoted"] is not None:
        return _kept(name["quoted"].replace('""', '"')) == _kept(channel)
    return _kept(name["plain"].lower()) == _kept(channel.lower())


def _kept(name: str) -> bytes:
    """What PostgreSQL keeps of a name."""
    return name.encode()[:NAME_BYTES]


def _is_own_doing() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return True  # no loop runs any more that could have found it
