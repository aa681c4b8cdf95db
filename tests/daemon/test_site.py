"""Which page answers what, and that each answers once."""

from __future__ import annotations

import pytest

from pgcachewatch_daemon.io.http import Answer, Check, Page, Route
from pgcachewatch_daemon.relay import Relay
from pgcachewatch_daemon.site import Show, Site, metrics_answer, status_answer
from tests.raw_client import get, http_client, options

READY = Check("source", True, 1.0)
LOST = Check("source", False, 2.0, "closed")


def shown(page: Page, *checks: Check, part: str = "", has_page: bool = True, **headers: str) -> list[Answer]:
    """`headers` have an underscore for a hyphen."""
    answers: list[Answer] = []

    def metrics(answer: Show, is_openmetrics: bool) -> None:
        answer(metrics_answer(b"metrics", is_openmetrics=is_openmetrics))

    def status(answer: Show) -> None:
        answer(status_answer(b"{}"))

    site = Site(checks=lambda: checks, show_metrics=metrics, show_status=status, has_page=has_page)
    site.show(
        Route(page, part=part), answers.append, {name.replace("_", "-"): value for name, value in headers.items()}
    )
    return answers


PAGES = [Page.LIVE, Page.READY, Page.UP, Page.METRICS, Page.HOME, Page.STATUS]


@pytest.mark.parametrize("page", PAGES)
def test_a_relay_that_is_ready_answers_each_page_with_200(page: Page) -> None:
    assert [answer.status for answer in shown(page, READY)] == [200]


@pytest.mark.parametrize("page", [Page.READY, Page.UP])
def test_a_relay_that_is_not_ready_says_so(page: Page) -> None:
    assert [answer.status for answer in shown(page, LOST)] == [503]


@pytest.mark.parametrize("page", [Page.LIVE, Page.HOME, Page.STATUS])
def test_a_relay_that_is_not_ready_shows_itself_to_people(page: Page) -> None:
    assert [answer.status for answer in shown(page, LOST)] == [200]


def test_metrics_come_from_where_they_are_counted() -> None:
    assert [answer.body for answer in shown(Page.METRICS)] == [b"metrics"]


@pytest.mark.parametrize(
    ("accept", "kind"), [("*/*", "text/plain"), ("application/openmetrics-text", "application/openmetrics-text")]
)
def test_metrics_are_in_the_format_that_is_asked_for(accept: str, kind: str) -> None:
    (answer,) = shown(Page.METRICS, accept=accept)
    assert answer.headers["Content-Type"].split(";")[:2] == [kind, " version=1.0.0"]
    assert answer.headers["Vary"] == "Accept"


def test_the_state_is_for_nobody_s_cache() -> None:
    (answer,) = shown(Page.STATUS)
    assert (answer.body, answer.headers["Cache-Control"]) == (b"{}", "no-store")


def test_the_parts_of_the_page_are_its_files() -> None:
    (script,) = shown(Page.PART, part="page.js")
    assert script.headers["Content-Type"].startswith("text/javascript")
    assert [answer.status for answer in shown(Page.PART, part="page.js", if_none_match=script.headers["ETag"])] == [304]
    assert [answer.status for answer in shown(Page.PART, part="other.js")] == [404]


@pytest.mark.parametrize("page", [Page.HOME, Page.PART, Page.STATUS])
def test_without_the_page_there_is_a_sentence_instead(page: Page) -> None:
    (answer,) = shown(page, part="page.js", has_page=False)
    assert answer.status == 404
    assert b"page = false" in answer.body


@pytest.mark.parametrize("page", [Page.PROTOCOL, Page.PLAIN])
def test_what_upgrades_is_no_page(page: Page) -> None:
    with pytest.raises(ValueError, match="upgrade"):
        shown(page)


async def test_a_browser_is_answered_as_its_cache_expects() -> None:
    async with Relay(options("postgresql://nobody@127.0.0.1:1/none")) as relay:
        page = await get(relay, "/")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        head = await get(relay, "/", "HEAD")
        assert (head.headers["ETag"], head.content) == (page.headers["ETag"], b"")
        assert head.headers["Content-Length"] == str(len(page.content))
        async with http_client() as client:
            known = {"If-None-Match": page.headers["ETag"]}
            again = await client.get(f"http://127.0.0.1:{relay.port}/", headers=known)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers.get_list("Content-Length") == [str(len(page.content))]


async def test_a_relay_without_the_page_has_no_state_either() -> None:
    async with Relay(options("postgresql://nobody@127.0.0.1:1/none", page=False)) as relay:
        assert [(await get(relay, path)).status_code for path in ("/", "/v1/status", "/page/page.js")] == [404] * 3
        assert (await get(relay, "/livez")).status_code == 200
