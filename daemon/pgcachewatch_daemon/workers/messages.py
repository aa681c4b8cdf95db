"""What the primary and a worker say to each other over their link, in order.

The order is the primary's own: a worker makes of each message the call that PostgresSource would have made of its
notification. Instants are CLOCK_MONOTONIC, which all processes of a machine share, so they may be compared anywhere.

Changes are by far the most of it and travel as plain tuples: one costs 1 us there and back, a dataclass eight times
that. The payload travels as it was notified and is read again by each worker, which costs less than a copy of what was
read; the verdict holds what the primary decided beside it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pgcachewatch.models import Gap
from pgcachewatch_daemon.core.history import JournalFloor
from pgcachewatch_daemon.core.tokens import Memory
from pgcachewatch_daemon.io.metrics import Reading
from pgcachewatch_daemon.io.postgres import LossReason
from pgcachewatch_daemon.relay import RelayOptions
from pgcachewatch_daemon.sights import Sights

AS_READ, TABLE_WIDE = False, True

# AS_READ: what the payload says. TABLE_WIDE: the same without its keys. A Gap: that, whatever the payload says.
Verdict: TypeAlias = bool | Gap
# seq, the primary's clock in seconds, time of receipt, channel, payload, verdict
Change: TypeAlias = tuple[int, float, datetime.datetime, str, str, Verdict]


@dataclass(frozen=True, slots=True)
class Changes:
    """Consecutive ones, without a hole."""

    changes: list[Change]


# --- the primary says


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker is to be. `sockets` are descriptors it has inherited; empty: bind host and port beside others."""

    number: int
    options: RelayOptions
    sockets: tuple[int, ...]
    log_level: int


@dataclass(frozen=True, slots=True)
class Begin:
    """The log before what is replayed now: a position, behind which each change follows.

    `journal_floor`: the replay is all of the database's journal from there on; None: it is not, or there is none.
    """

    epoch: str
    floor: int
    journal_floor: JournalFloor | None = None


@dataclass(frozen=True, slots=True)
class Here:
    """Everything but changes as it is now, behind the replay. A worker may let clients in.

    `channels` are those that a worker need not ask for, each with the position from which on its events are in the log.
    `as_of_ms` is the last loopback's. `catalogue` is pickled, empty when there was no look yet.
    """

    is_up: bool
    since_s: float
    loss: str
    channels: dict[str, int]
    as_of_ms: float | None
    proof_limit_s: float
    tokens: Memory
    catalogue: bytes
    began_s: float


@dataclass(frozen=True, slots=True)
class LoopedBack:
    """Each commit that returned before `as_of_ms` is in what was said before.

    `position` is how far the database's journal was read, empty without one.
    """

    as_of_ms: float
    snapshot: str | None
    proof_limit_s: float
    position: str = ""


@dataclass(frozen=True, slots=True)
class TokenNotified:
    token: str


@dataclass(frozen=True, slots=True)
class TokensSettled:
    pass


@dataclass(frozen=True, slots=True)
class SourceUp:
    """PostgreSQL is there; each of `channels` is listened to, and what was not heard of them is told as a gap.

    `new` is None when the epoch goes on, since nothing of the database's journal was missed.
    """

    new: Begin | None
    channels: tuple[str, ...]
    since_s: float


@dataclass(frozen=True, slots=True)
class SourceLost:
    reason: LossReason
    since_s: float


@dataclass(frozen=True, slots=True)
class Listening:
    """The answer to the Ensure of this number: LISTEN is proven, its events are in the log from `seq` on."""

    channel: str
    seq: int
    number: int


@dataclass(frozen=True, slots=True)
class ListenRefused:
    """`limit` 0: the channel can not be listened to by anybody; else there are that many already."""

    channel: str
    text: str
    limit: int
    number: int


@dataclass(frozen=True, slots=True)
class Looked:
    """A look at the catalogue, whose gaps were published. `catalogue` empty: nothing changed since the last one."""

    began_s: float
    catalogue: bytes
    retyped: frozenset[str]


@dataclass(frozen=True, slots=True)
class ClosePlain:
    """Published clients missed something."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Are you alive, and what have you counted? The answer is Counted with the same number, and what is wanted."""

    number: int
    wants_clients: bool = False
    wants_tables: bool = False


@dataclass(frozen=True, slots=True)
class Exposed:
    """The text of /metrics for whoever asked with AskMetrics."""

    text: bytes
    is_openmetrics: bool = False


@dataclass(frozen=True, slots=True)
class StatusShown:
    """The text of /v1/status for whoever asked with AskStatus."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Reload:
    """Settings were read anew: what a running worker can take over of them."""

    options: RelayOptions
    log_level: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Send everybody away, and end."""


# --- a worker says


@dataclass(frozen=True, slots=True)
class Hello:
    """It runs, and reads: tell it what to be."""


@dataclass(frozen=True, slots=True)
class Serving:
    """It accepts connections on `port`."""

    port: int


@dataclass(frozen=True, slots=True)
class Ensure:
    """Listen to this channel until Release; the answer is Listening or ListenRefused, with the number."""

    channel: str
    number: int


@dataclass(frozen=True, slots=True)
class Release:
    """None of its clients uses this channel any more. Before one does again, it asks."""

    channel: str


@dataclass(frozen=True, slots=True)
class Hasten:
    """Loop back, now or as soon as the last one lies `spacing_s` back."""

    spacing_s: float


@dataclass(frozen=True, slots=True)
class HastenLook:
    """Look at the catalogue: somebody names what is not known."""


@dataclass(frozen=True, slots=True)
class State:
    """`is_busy`: it has clients. `has_stamps`: one of them wants snapshots."""

    is_busy: bool
    has_stamps: bool


@dataclass(frozen=True, slots=True)
class AskMetrics:
    """Somebody asks for /metrics here."""

    is_openmetrics: bool = False


@dataclass(frozen=True, slots=True)
class AskStatus:
    """Somebody asks for /v1/status here."""


@dataclass(frozen=True, slots=True)
class Counted:
    """The answer to Ask."""

    number: int
    readings: Mapping[str, Reading]
    sights: Sights | None = None


FromPrimary: TypeAlias = (
    Changes
    | Start
    | Begin
    | Here
    | LoopedBack
    | TokenNotified
    | TokensSettled
    | SourceUp
    | SourceLost
    | Listening
    | ListenRefused
    | Looked
    | ClosePlain
    | Ask
    | Exposed
    | Reload
    | StatusShown
    | Drain
)
FromWorker: TypeAlias = (
    Hello | Serving | Ensure | Release | Hasten | HastenLook | State | AskMetrics | AskStatus | Counted
)
Message: TypeAlias = FromPrimary | FromWorker
