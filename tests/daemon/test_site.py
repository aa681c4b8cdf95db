"""Which page answers what, and that each answers once."""

from __future__ import annotations

import pytest

from pgcachewatch_daemon.io.http import Answer, Check, Page
from pgcachewatch_daemon.site import Show, Site

READY = Check("source", True, 1.0)
LOST = Check("source", False, 2.0, "closed")


def shown(page: Page, *checks: Check) -> list[Answer]:
    answers: list[Answer] = []

    def metrics(answer: Show) -> None:
        answer(Answer(200, {}, b"metrics"))

    Site(checks=lambda: checks, show_metrics=metrics).show(page, answers.append)
    return answers


@pytest.mark.parametrize("page", [Page.LIVE, Page.READY, Page.UP, Page.METRICS])
def test_a_relay_that_is_ready_answers_each_page_with_200(page: Page) -> None:
    assert [answer.status for answer in shown(page, READY)] == [200]


@pytest.mark.parametrize("page", [Page.READY, Page.UP])
def test_a_relay_that_is_not_ready_says_so(page: Page) -> None:
    assert [answer.status for answer in shown(page, LOST)] == [503]


def test_a_relay_that_is_not_ready_is_alive() -> None:
    assert [answer.status for answer in shown(Page.LIVE, LOST)] == [200]


def test_metrics_come_from_where_they_are_counted() -> None:
    assert [answer.body for answer in shown(Page.METRICS)] == [b"metrics"]


@pytest.mark.parametrize("page", [Page.PROTOCOL, Page.PLAIN])
def test_what_upgrades_is_no_page(page: Page) -> None:
    with pytest.raises(ValueError, match="upgrade"):
        shown(page)
