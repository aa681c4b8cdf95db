"""When to connect again, where, and when to give up.

Delays grow by doubling up to a cap and are drawn from the whole interval below that ("full jitter"), so that clients
which lost their relay together do not come back together. The first attempt after a connection that worked is nearly
immediate: a cut shorter than the lease must cost no query. The close code's class decides the rest (W-CLOSE-1):

    40xx  at once            41xx and unknown  back off       42xx  at once with a new token       43xx  stop

A client that has a source of tokens takes 4301, as HTTP 401 and 403, for a token that was not good: it backs off and
shows the next one. A key of the issuer that the relay has not heard of yet must not end the cache of a whole fleet.

Randomness comes in as `chance`, a number in [0, 1). Bounds: the cap, and RETRY_AFTER_LIMIT_S on what a relay or a proxy
may ask for, since a mistyped header must not silence a client for a day. Attempts are not counted out: a cache that
gave up would bypass for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgcachewatch.errors import ConfigurationError, ConnectionFailed, Refused
from pgcachewatch.protocol.transitions import CloseClass, close_class

RETRY_AFTER_LIMIT_S = 60.0
DOUBLINGS_LIMIT = 30  # 2**30 times any base is past any cap; keeps the power small
HTTP_UNAUTHORIZED = 401
HTTP_FORBIDDEN = 403
UNAUTHORIZED = 4301
AT_ONCE = (CloseClass.RESUME_NOW, CloseClass.NEW_TOKEN)


@dataclass(frozen=True, slots=True)
class Backoff:
    """The settings, in seconds. `first_s` bounds the first delay after a connection that worked.

    >>> Backoff().delay_s(failures=0, chance=0.5)
    0.025
    >>> Backoff(base_s=0.1, cap_s=5.0).delay_s(failures=3, chance=0.5)
    0.2
    """

    first_s: float = 0.05
    base_s: float = 0.1
    cap_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.first_s <= self.cap_s or not 0 < self.base_s <= self.cap_s:
            raise ConfigurationError(
                f"backoff needs 0 <= first_s <= cap_s and 0 < base_s <= cap_s, not {self}; try Backoff()"
            )

    def delay_s(self, *, failures: int, chance: float) -> float:
        """Delay before the attempt that follows `failures` failed ones in a row."""
        if failures == 0:
            return self.first_s * chance
        return min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, DOUBLINGS_LIMIT)) * chance


@dataclass(frozen=True, slots=True)
class Ended:
    """How a connection or an attempt ended.

    `code` is a close code, an HTTP status, or None when the network said nothing. `is_proven`: a proof had arrived, so
    the relay works. `after_s` and `jitter_s` are what the relay asked for, by `bye` or Retry-After.
    """

    error: ConnectionFailed
    code: int | None = None
    is_proven: bool = False
    is_leaving: bool = False
    after_s: float = 0.0
    jitter_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Retry:
    """Connect to relay number `relay` after `delay_s`."""

    delay_s: float
    relay: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Trying again can not help: `error` says why."""

    error: Refused


class Reconnect:
    """Decides what follows each end, over one or several relays.

    A connection that worked is tried again where it was, because only that relay can resume it. One that failed moves
    on to the next relay; a full round without success counts as one failure. A relay that refused for good is left out,
    and when all have, the answer is Stop.
    """

    def __init__(self, backoff: Backoff, *, relays: int, has_token_source: bool = False) -> None:
        self._backoff = backoff
        self._relays = relays
        self._has_token_source = has_token_source
        self._relay = 0
        self._failures = 0  # attempts in a row that proved nothing
        self._refused: set[int] = set()

    def after(self, ended: Ended, *, chance: float) -> Retry | Stop:
        """What to do now. Call it once for each end."""
        if ended.is_proven:
            self._failures = 0
            self._refused.clear()
        if self._is_final(ended.code):
            self._refused.add(self._relay)
            if len(self._refused) == self._relays:
                return Stop(_final(ended))
        was_useful = ended.is_proven and not ended.is_leaving and self._relay not in self._refused
        if not was_useful:
            self._relay = self._next_relay()
        delay_s = self._delay_s(ended, chance)
        if not ended.is_proven:
            self._failures += 1
        return Retry(delay_s, self._relay)

    def _delay_s(self, ended: Ended, chance: float) -> float:
        asked_s = min(ended.after_s, RETRY_AFTER_LIMIT_S)
        asked_s += min(ended.jitter_s, RETRY_AFTER_LIMIT_S) * chance
        rounds, position = divmod(self._failures, self._relays)
        if ended.is_proven:
            at_once = ended.code is None or close_class(ended.code) in AT_ONCE or ended.code < 4000
            return asked_s + self._backoff.delay_s(failures=0 if at_once else 1, chance=chance)
        if position != self._relays - 1:
            return self._backoff.delay_s(failures=0, chance=chance)  # another relay waits to be tried
        return asked_s + self._backoff.delay_s(failures=rounds + 1, chance=chance)

    def _is_final(self, code: int | None) -> bool:
        if code in (HTTP_UNAUTHORIZED, HTTP_FORBIDDEN, UNAUTHORIZED):
            return not self._has_token_source
        if code is None or code < 4000:
            return False
        match close_class(code):
            case CloseClass.STOP:
                return True
            case CloseClass.NEW_TOKEN:
                return not self._has_token_source
            case CloseClass.RESUME_NOW | CloseClass.BACK_OFF:
                return False

    def _next_relay(self) -> int:
        for step in range(1, self._relays + 1):
            candidate = (self._relay + step) % self._relays
            if candidate not in self._refused:
                return candidate
        return self._relay


def _final(ended: Ended) -> Refused:
    if isinstance(ended.error, Refused):
        return ended.error
    return Refused(str(ended.error), code=ended.code or 0, may_retry=False)
