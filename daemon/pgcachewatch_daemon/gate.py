"""The gate of the relay's port: who comes in with what grant, and who has to go when that ends.

What a request shows is judged here before anything is done for it: a token in its address, the page it comes from, its
`Authorization`. On `/v1/ws` a token may also come in the hello, and a new one at any time after. Grants that end are
looked for once a second by one timer, however many clients there are; nothing of this is on the path of an event.

Answers say what is wrong and what to do, and hold no part of what was shown. Bound: an instant for each visitor whose
grant ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import parse_qsl

from pgcachewatch_daemon.authentication import AccessOptions, Authentication
from pgcachewatch_daemon.core.access import Grant
from pgcachewatch_daemon.core.credentials import Denied, Reason
from pgcachewatch_daemon.core.origins import may_connect, may_read
from pgcachewatch_daemon.io import http
from pgcachewatch_daemon.io.http import Answer, Page
from pgcachewatch_daemon.io.websocket import Connection, HttpRequest
from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.visitor import Visitor

TICK_S = 1.0
RETRY_AFTER_S = 1.0
CHALLENGE = 'Bearer realm="pgcachewatch"'
QUERY_NAMES = ("token", "access_token")
STATUS: Mapping[Reason, int] = {
    "missing": 401,
    "unknown": 401,
    "expired": 401,
    "revoked": 401,
    "forbidden": 403,
    "busy": 503,
}
CLOSE_CODE: Mapping[Reason, int] = {
    "missing": 4301,
    "unknown": 4301,
    "expired": 4200,
    "revoked": 4201,
    "forbidden": 4303,
    "busy": 4105,
}
NARROWED = 4000
NAMED_TEXT = (
    "without tokens the relay tells its state only under its address or a name without a dot, since any other name "
    "may be a stranger's that was made to lead here: list http://NAME:PORT in allowed_origins, or use tokens"
)
NARROWED_TEXT = "the token allows less than before; subscribe anew"

logger = line_logger(__name__)


class Doors(Protocol):
    """Who is inside, and the way out."""

    visitors: set[Visitor]

    def exceeds(self, visitor: Visitor, grant: Grant) -> bool:
        """True when the visitor is told something that this grant does not allow."""

    def dismiss(self, visitor: Visitor, code: int, reason: str) -> None:
        """Say goodbye and close."""


class Gate:
    """`now_s` is a monotonic clock, `wall_s` the Unix time, in seconds."""

    def __init__(
        self,
        options: AccessOptions,
        *,
        doors: Callable[[], Doors],
        now_s: Callable[[], float],
        wall_s: Callable[[], float],
    ) -> None:
        self.authentication = Authentication(options, now_s=now_s, wall_s=wall_s, changed=self.judge_anew)
        self._doors = doors
        self._wall_s = wall_s
        self._ends: dict[Visitor, float] = {}
        self._next_end_s = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    # --- requests

    def refuse(self, request: HttpRequest) -> Answer | None:
        """The answer to a request that is refused whatever it asks for."""
        if _has_token(request.path):
            return http.text(
                400, "a token does not belong in an address, where logs keep it; send it in `Authorization: Bearer`"
            )
        headers, options = request.headers, self.authentication.options
        is_own = may_connect(
            headers.get("origin"),
            headers.get("host", ""),
            options.allowed_origins,
            is_authenticated=self.authentication.is_needed,
        )
        return None if is_own else http.text(403, "pages of this origin may not connect; see allowed_origins")

    def identify(self, request: HttpRequest, connection: Connection) -> Grant | Answer:
        """What whoever sends this request may see, or why nothing."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        shown = token.strip() if scheme.lower() == "bearer" else None
        checked = self._check(shown, connection)
        return checked if isinstance(checked, Grant) else answer(checked)

    def refuse_page(self, page: Page, request: HttpRequest, connection: Connection) -> Answer | None:
        """Why a page is not shown, or None. All but the relay's state hold no key of any row, and are open."""
        if page is not Page.STATUS:
            return None
        host, authentication = request.headers.get("host", ""), self.authentication
        if not authentication.is_needed and not may_read(host, authentication.options.allowed_origins):
            return http.text(403, NAMED_TEXT)
        known = self.identify(request, connection)
        if isinstance(known, Answer):
            return known
        return None if known.may_see_status else http.text(403, "the state of the relay needs a token with mode status")

    def has_credential(self, request: HttpRequest) -> bool:
        """True when the request itself says who sends it. Otherwise a hello may."""
        return request.headers.get("authorization", "").lower().startswith("bearer ")

    # --- visitors

    def admit(self, visitor: Visitor, token: str | None) -> Denied | None:
        """Give the visitor the grant of this token, or of its request when there is none. Says why not."""
        grant = visitor.grant
        if token is not None or grant is None:
            checked = self._check(token, visitor.connection)
            if isinstance(checked, Denied):
                return checked
            grant = checked
        self.watch(visitor, grant)
        return None

    def offer(self, visitor: Visitor, token: str) -> Denied | None:
        """A new token on an open connection. "busy" leaves all as it was; for another reason the visitor has to go."""
        checked = self._check(token, visitor.connection)
        if isinstance(checked, Denied):
            return checked
        if self._doors().exceeds(visitor, checked):
            return Denied("forbidden", "this token allows less than is subscribed; unsubscribe first, or connect anew")
        self.watch(visitor, checked)
        return None

    def watch(self, visitor: Visitor, grant: Grant) -> None:
        """The visitor has this grant from now on."""
        visitor.grant = grant
        if grant.expires_at is None:
            self._ends.pop(visitor, None)
        else:
            self._ends[visitor] = grant.expires_at
            self._next_end_s = min(self._next_end_s, grant.expires_at)

    def forget(self, visitor: Visitor) -> None:
        """The visitor is gone."""
        self._ends.pop(visitor, None)

    def left_ms(self, visitor: Visitor) -> float | None:
        """Until the visitor's grant ends; None when it does not."""
        end_s = self._ends.get(visitor)
        return None if end_s is None else max(0.0, (end_s - self._wall_s()) * 1_000)

    def _check(self, token: str | None, connection: Connection) -> Grant | Denied:
        return self.authentication.check(token, peer=connection.peer, certificate=connection.peer_certificate_name)

    # --- time and change

    def start(self) -> None:
        """Begin to look once a second. On the loop."""
        self._tick()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self.authentication.close()

    def prepare(self, options: AccessOptions, host: str) -> Callable[[], None]:
        """Read what other options name. Raises ConfigurationError; else returns what goes on with them."""
        options.check(host)
        return self.authentication.prepare(options)

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        self.authentication.tick()
        self.end_what_is_over()

    def end_what_is_over(self) -> None:
        """Dismiss those whose grant has ended."""
        now_s = self._wall_s()
        if now_s < self._next_end_s:
            return
        over = [visitor for visitor, end_s in self._ends.items() if end_s <= now_s]
        for visitor in over:
            self._dismiss(visitor, Denied("expired", "the token has expired; connect with a new one"))
        self._next_end_s = min(self._ends.values(), default=float("inf"))

    def judge_anew(self) -> None:
        """Credentials may allow something else: ask again for each visitor, and dismiss whom they no longer cover."""
        dismissed = 0
        for visitor in tuple(self._doors().visitors):
            if visitor.grant is None:
                continue
            now = self.authentication.again(visitor.grant)
            if isinstance(now, Denied):
                self._dismiss(visitor, now)
            elif self._doors().exceeds(visitor, now):
                self._doors().dismiss(visitor, NARROWED, NARROWED_TEXT)
            else:
                self.watch(visitor, now)
                continue
            dismissed += 1
        if dismissed:
            logger.warning("clients sent away, their tokens no longer cover them", clients=dismissed)

    def _dismiss(self, visitor: Visitor, why: Denied) -> None:
        self.forget(visitor)
        self._doors().dismiss(visitor, CLOSE_CODE[why.reason], why.text)


def answer(why: Denied) -> Answer:
    """The refusal in HTTP."""
    status = STATUS[why.reason]
    if status == 503:
        return http.refuse(503, why.text, RETRY_AFTER_S)
    if status == 403:
        return http.text(403, why.text)
    error = "" if why.reason == "missing" else ', error="invalid_token"'
    return http.text(401, why.text, **{"WWW-Authenticate": CHALLENGE + error})


def _has_token(target: str) -> bool:
    query = target.partition("?")[2]
    names = {name.strip().lower() for name, _ in parse_qsl(query, keep_blank_values=True, max_num_fields=None)}
    return not names.isdisjoint(QUERY_NAMES)
