"""What the relay keeps of each consumer that clients take part in here, beside its jobs.

A post is one consumer, a seat is one client's part in it. Bound: `ConsumerOptions.consumers`, and subscriptions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pgcachewatch.protocol import messages
from pgcachewatch_daemon.core.audience import Subscriber
from pgcachewatch_daemon.core.consumers import Consumer, ConsumerLimits
from pgcachewatch_daemon.core.pages import Filter, Place
from pgcachewatch_daemon.inspection import NotReady
from pgcachewatch_daemon.sql.columns import Refusal


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """`is_offered` False: this process is one of several. `dsn` None: what libpq's environment says."""

    limits: ConsumerLimits = field(default_factory=ConsumerLimits)
    consumers: int = 100
    is_offered: bool = True


@dataclass(frozen=True, slots=True)
class Desk:
    """What consumers need of clients and tables. `refuse` answers a request with an error; its id is free again.

    `why_not` says why a wish can not be served from the journal.
    """

    tell: Callable[[Subscriber, str], None]
    refuse: Callable[[Subscriber, messages.Err], None]
    why_not: Callable[[messages.Want], Refusal | NotReady | None]


@dataclass(frozen=True, slots=True)
class NotServed:
    """Why a client can not take part, and whether it can later on."""

    code: str
    text: str
    may_retry: bool = True


GOING_AWAY = NotServed("consumer_elsewhere", "the relay is going away")


@dataclass(frozen=True, slots=True)
class Standing:
    """How a consumer is doing, for people. `clients` take its jobs at this relay; `lag_s`: age of the oldest event that
    is not acknowledged; `pending`: how many jobs are not, None where that is not known here.
    """

    name: str
    clients: int
    pending: int | None
    lag_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Seat:
    """One client's part in one consumer."""

    subscriber: Subscriber
    sid: int
    consume: messages.Consume


@dataclass(slots=True, eq=False)
class Post:
    """One consumer here. `is_held`: over the session that there is now. `waiting` are not admitted yet."""

    name: str
    filter: Filter
    waiting: dict[Seat, None] = field(default_factory=dict)
    core: Consumer | None = None
    is_held: bool = False
    is_full: bool = False
    saved_version: int = 0
    saved_place: Place | None = None
    store_due_s: float = 0.0
    idle_due_s: float = 0.0
    look_due_s: float = 0.0

    @property
    def is_wanted(self) -> bool:
        return bool(self.waiting) or (self.core is not None and bool(self.core.takers))
