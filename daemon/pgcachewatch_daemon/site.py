"""What the relay's port shows to whoever asks by plain HTTP: the page for people, its state, and what it counts.

One page, one answer, nothing kept: a request that is neither a client's nor a page never comes here (io/http.route).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence

from pgcachewatch_daemon.assets import HOME, Assets
from pgcachewatch_daemon.io import http, metrics
from pgcachewatch_daemon.io.http import Answer, Check, Page, Route

Show = Callable[[Answer], None]
ShowMetrics = Callable[[Show, bool], None]  # True for OpenMetrics

NO_PAGE = "this relay shows no page and no state: it was started with page = false; see /readyz and /metrics"


def status_answer(text: bytes) -> Answer:
    """`/v1/status` as it is sent."""
    return Answer(200, {"Content-Type": http.JSON, "Cache-Control": "no-store"}, text)


def metrics_answer(text: bytes, *, is_openmetrics: bool) -> Answer:
    """`/metrics` as it is sent. What is in between must not show one format to whoever asks for the other."""
    kind = metrics.OPENMETRICS_CONTENT_TYPE if is_openmetrics else metrics.CONTENT_TYPE
    return Answer(200, {"Content-Type": kind, "Vary": "Accept"}, text)


class Site:
    """Answers for the pages of one relay. `show_metrics` and `show_status` may answer later: workers are asked first.

    Without `has_page` there is neither the page nor the state that it shows.
    """

    def __init__(
        self,
        *,
        checks: Callable[[], Sequence[Check]],
        show_metrics: ShowMetrics,
        show_status: Callable[[Show], None],
        has_page: bool = True,
    ) -> None:
        self._checks = checks
        self._show_metrics = show_metrics
        self._show_status = show_status
        self._assets = Assets() if has_page else None

    def show(self, route: Route, answer: Show, headers: Mapping[str, str]) -> None:
        """Call `answer` once, now or later. `route` is to no page that upgrades; names of headers are in lower case."""
        match route.page:
            case Page.HOME | Page.PART | Page.STATUS:
                self._show_page(route, answer, headers.get("if-none-match", ""))
            case Page.LIVE:
                answer(http.live())
            case Page.READY:
                answer(http.ready(self._checks(), at=datetime.datetime.now(tz=datetime.UTC)))
            case Page.UP:
                answer(http.up(self._checks()))
            case Page.METRICS:
                self._show_metrics(answer, http.wants_openmetrics(headers.get("accept", "")))
            case Page.PROTOCOL | Page.PLAIN:
                raise ValueError(f"{route.page} is for clients that upgrade")

    def _show_page(self, route: Route, answer: Show, known_tags: str) -> None:
        if self._assets is None:
            answer(http.text(404, NO_PAGE))
        elif route.page is Page.STATUS:
            self._show_status(answer)
        else:
            answer(self._assets.answer(route.part or HOME, known_tags=known_tags))
