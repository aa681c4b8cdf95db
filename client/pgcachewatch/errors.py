"""The one exception tree of the package.

    PGCacheWatchError
    ├── ConfigurationError      a setting, argument or declaration that can not work
    ├── ConnectionFailed        the relay or the database can not be reached
    │   └── Refused             the relay answered, and said no (carries code and what to do)
    ├── ProtocolError           the peer broke a rule of PROTOCOL.md (carries the rule's id)
    │   └── LimitExceeded       a limit of PROTOCOL.md was passed (carries limit and value)
    ├── EventsLost              continuity broke: events between two positions are unknown
    ├── NotFresh                freshness can not be proven and the caller asked to be told
    ├── BarrierTimeout          the barrier did not complete in time (says what is missing)
    └── Closed                  the client, cache or listener was closed and is used again

A message has three parts: what happened, the value in question, what to do about it.
Errors carry their data as attributes, so that code need not read the text.
"""

from __future__ import annotations


class PGCacheWatchError(Exception):
    """Root of the tree: `except PGCacheWatchError` catches whatever this package raises on purpose."""


class ConfigurationError(PGCacheWatchError, ValueError):
    """A setting, argument or declaration can not work; nothing was started."""


class ConnectionFailed(PGCacheWatchError, ConnectionError):
    """The relay or the database can not be reached now; a later attempt may succeed."""


class Refused(ConnectionFailed):
    """The relay answered and refused.

    `code` is a close code of PROTOCOL.md (4000-4399) or an HTTP status (400-599); `may_retry` says
    whether the same request can succeed later without a change on this side.
    """

    def __init__(self, message: str, *, code: int, may_retry: bool) -> None:
        super().__init__(message)
        self.code = code
        self.may_retry = may_retry


class ProtocolError(PGCacheWatchError):
    """The peer broke a rule of PROTOCOL.md.

    `rule` is the id of the rule, as "W-HELLO-1"; `close_code` is the code to close the connection with.
    """

    def __init__(self, message: str, *, rule: str, close_code: int = 4300) -> None:
        super().__init__(message)
        self.rule = rule
        self.close_code = close_code


class LimitExceeded(ProtocolError):
    """A limit of PROTOCOL.md was passed: `limit` names it, `allowed` and `value` are in the limit's unit."""

    def __init__(self, message: str, *, rule: str, limit: str, allowed: int, value: int) -> None:
        super().__init__(message, rule=rule, close_code=4308)
        self.limit = limit
        self.allowed = allowed
        self.value = value


class EventsLost(PGCacheWatchError):
    """Continuity broke: an unknown number of events is missing here.

    `reason` is one of the words a Gap carries. Read again what those events would have told you.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotFresh(PGCacheWatchError):
    """Freshness can not be proven, and the cache was declared with on_disconnect="raise"."""


class BarrierTimeout(PGCacheWatchError, TimeoutError):
    """The barrier did not complete in time.

    `missing` names what it was waiting for: "connection", "welcome", "source" or "barrierok".
    """

    def __init__(self, message: str, *, missing: str) -> None:
        super().__init__(message)
        self.missing = missing


class Closed(PGCacheWatchError):
    """The object was closed; make a new one."""
