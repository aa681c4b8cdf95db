"""What a peer is: something that can be started for a case, has an inlet for events, and serves them to the load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from tests.bench.fanout.cases import Case


class Missing(Exception):
    """The peer is not installed here; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Inlet:
    """Where the publisher writes, and how: native/publish.c knows all of these but PostgreSQL's."""

    dialect: Literal["lines", "nats", "mqtt", "http", "postgres"]
    port: int = 0
    dsn: str = ""


@dataclass(frozen=True, slots=True)
class Serving:
    """A running server. `options` are the load's: port, path, dialect, first message.

    `own_load` in place of them is a command that receives events by itself, and is then what is measured.
    """

    pid: int
    inlet: Inlet
    options: Sequence[str] = ()
    own_load: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """`check` raises Missing; `version` tells what is measured; `is_for` which cases make sense.

    `share` is the part of a saturated case's events that it is given, where all of them would take minutes.
    """

    name: str
    open: Callable[[Case], AbstractContextManager[Serving]]
    check: Callable[[], None] = lambda: None
    version: Callable[[], str] = lambda: ""
    is_for: Callable[[Case], bool] = lambda case: True
    share: float = 1.0
