"""The state tables, and the theory behind them. Nothing here has behaviour; the sessions obey these tables.

A connection has two ends, and each end has a session. A session is the protocol state of one connection: it dies with
it. What outlives connections (the cursor, the trust in the cache) is handed from one session to the next.

    relay end     AWAIT_HELLO --hello--> OPEN --violation, bye or close--> CLOSED
    client end    AWAIT_WELCOME --welcome--> OPEN --violation, bye or close--> CLOSED

Both ends are strict about order and lenient about vocabulary: a known message in the wrong state is a violation
(W-ORDER-1), because it means that one side lost its place; a message nobody knows is answered with `err` by the relay
and skipped by the client (W-FORWARD-2), because it only means that one side is newer.

Trust is the client's own state: may what the cache holds be served? It is not the state of a connection. A connection
can be open and prove nothing (the relay lost PostgreSQL), or be closed while the last proof still holds (a blip shorter
than the lease).

    COLD     nothing was proven yet: calls go to the source
    LIVE     a proof is younger than the staleness bound, and the link stands
    SUSPECT  the link or the source is in doubt. What was proven before stays proven, so hits go on until the lease
             ends, and no longer; then calls go to the source

Only a proof makes LIVE: a `mark` with `as_of`, on an open connection whose chain is intact. A doubt never makes
anything better, and a flush does not change the state: an empty cache serves nothing.
"""

from __future__ import annotations

import enum

from pgcachewatch.protocol import messages


class RelayState(enum.Enum):
    """Where the relay's end of a connection stands."""

    AWAIT_HELLO = "await_hello"
    OPEN = "open"
    CLOSED = "closed"


class ClientState(enum.Enum):
    """Where the client's end of a connection stands."""

    AWAIT_WELCOME = "await_welcome"
    OPEN = "open"
    CLOSED = "closed"


class Trust(enum.Enum):
    """May the cache be served? See the theory above."""

    COLD = "cold"
    LIVE = "live"
    SUSPECT = "suspect"


class TrustInput(enum.Enum):
    """What can happen to trust."""

    PROVEN = "proven"  # a mark with as_of arrived on an intact chain
    DOUBTED = "doubted"  # link lost, `stale`, or silence past the lease


# A type that is missing from a state's row is a violation in that state.
RELAY_ACCEPTS: dict[RelayState, dict[type[messages.Message], RelayState]] = {
    RelayState.AWAIT_HELLO: {messages.Hello: RelayState.OPEN},
    RelayState.OPEN: {
        messages.Sub: RelayState.OPEN,
        messages.Unsub: RelayState.OPEN,
        messages.Barrier: RelayState.OPEN,
        messages.Ping: RelayState.OPEN,
        messages.Auth: RelayState.OPEN,
        messages.Ack: RelayState.OPEN,
        messages.Consume: RelayState.OPEN,
        messages.Done: RelayState.OPEN,
        messages.Failed: RelayState.OPEN,
    },
    RelayState.CLOSED: {},
}

CLIENT_ACCEPTS: dict[ClientState, dict[type[messages.Message], ClientState]] = {
    ClientState.AWAIT_WELCOME: {
        messages.Welcome: ClientState.OPEN,
        # A relay may refuse or leave before it welcomed.
        messages.Err: ClientState.AWAIT_WELCOME,
        messages.Bye: ClientState.AWAIT_WELCOME,
    },
    ClientState.OPEN: {
        messages.Subok: ClientState.OPEN,
        messages.Ev: ClientState.OPEN,
        messages.Mark: ClientState.OPEN,
        messages.Stale: ClientState.OPEN,
        messages.Reset: ClientState.OPEN,
        messages.Barrierok: ClientState.OPEN,
        messages.Job: ClientState.OPEN,
        messages.Taken: ClientState.OPEN,
        messages.Pong: ClientState.OPEN,
        messages.Authok: ClientState.OPEN,
        messages.Err: ClientState.OPEN,
        messages.Bye: ClientState.OPEN,
    },
    ClientState.CLOSED: {},
}

TRUST: dict[tuple[Trust, TrustInput], Trust] = {
    (Trust.COLD, TrustInput.PROVEN): Trust.LIVE,
    (Trust.COLD, TrustInput.DOUBTED): Trust.COLD,
    (Trust.LIVE, TrustInput.PROVEN): Trust.LIVE,
    (Trust.LIVE, TrustInput.DOUBTED): Trust.SUSPECT,
    (Trust.SUSPECT, TrustInput.PROVEN): Trust.LIVE,
    (Trust.SUSPECT, TrustInput.DOUBTED): Trust.SUSPECT,
}


class CloseClass(enum.Enum):
    """What a client does after a close, by the hundreds of the code (W-CLOSE-1)."""

    RESUME_NOW = 40
    BACK_OFF = 41
    NEW_TOKEN = 42
    STOP = 43


def close_class(code: int) -> CloseClass:
    """Class of a close code; a code nobody defined, or one of WebSocket's own, means back off and try again.

    >>> close_class(4104)
    <CloseClass.BACK_OFF: 41>
    >>> close_class(1006)
    <CloseClass.BACK_OFF: 41>
    """
    hundreds = code // 100
    return CloseClass(hundreds) if hundreds in (40, 41, 42, 43) else CloseClass.BACK_OFF
