"""What the relay's port shows to whoever asks by plain HTTP: is it alive, is it ready, what does it count.

One page, one answer, nothing kept: a request that is neither a client's nor a page never comes here (io/http.route).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pgcachewatch_daemon.io import http
from pgcachewatch_daemon.io.http import Answer, Check, Page

Show = Callable[[Answer], None]


class Site:
    """Answers for the pages of one relay. `show_metrics` may answer later: workers are asked first."""

    def __init__(self, *, checks: Callable[[], Sequence[Check]], show_metrics: Callable[[Show], None]) -> None:
        self._checks = checks
        self._show_metrics = show_metrics

    def show(self, page: Page, answer: Show) -> None:
        """Call `answer` once, now or later. `page` is none that upgrades."""
        match page:
            case Page.LIVE:
                answer(http.live())
            case Page.READY:
                answer(http.ready(self._checks()))
            case Page.UP:
                answer(http.up(self._checks()))
            case Page.METRICS:
                self._show_metrics(answer)
            case Page.PROTOCOL | Page.PLAIN:
                raise ValueError(f"{page} is for clients that upgrade")
