"""Which path is what, and what health checks are told."""

from __future__ import annotations

import datetime
import json

import pytest

from pgcachewatch_daemon.io import http
from pgcachewatch_daemon.io.http import Answer, Check, Page, Route

NOON = datetime.datetime(2030, 1, 1, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize("page", [Page.LIVE, Page.READY, Page.UP, Page.METRICS, Page.PROTOCOL])
def test_each_path_is_found_with_and_without_a_query(page: Page) -> None:
    assert http.route("GET", page.value) == Route(page)
    assert http.route("GET", page.value + "?verbose=1") == Route(page)


def test_the_page_for_people_has_files_of_its_own() -> None:
    assert http.route("GET", "/?x=1") == Route(Page.HOME)
    assert http.route("GET", "/v1/status") == Route(Page.STATUS)
    assert http.route("HEAD", "/page/page.js?x=1") == Route(Page.PART, part="page.js")


OPENMETRICS = "application/openmetrics-text"
# What Prometheus sends: 2.42, 3, and 2.49 or later when it is told to prefer the text.
SCRAPES = [
    (f"{OPENMETRICS};version=1.0.0,{OPENMETRICS};version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
    (
        f"{OPENMETRICS};version=1.0.0;escaping=allow-utf-8;q=0.6,{OPENMETRICS};version=0.0.1;q=0.5,"
        "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        True,
    ),
    (f"text/plain;version=0.0.4;q=0.6,{OPENMETRICS};version=1.0.0;q=0.5,*/*;q=0.2", False),
]


@pytest.mark.parametrize(
    ("accept", "is_wanted"),
    [
        *SCRAPES,
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        (OPENMETRICS, True),
        (f"{OPENMETRICS}, */*", True),
        (f"{OPENMETRICS}; q=0.2, */*", False),
        (f"{OPENMETRICS}, text/plain", False),
        ('Application/OpenMetrics-Text ; Version="1.0.0" ; Q=1.000', True),
        (f"{OPENMETRICS};version=2.0.0", False),
        (f"{OPENMETRICS};q=0", False),
        (f"{OPENMETRICS};q=nan, {OPENMETRICS};q=1e9, {OPENMETRICS};q=", False),
        (",;,;=;q,", False),
    ],
)
def test_openmetrics_is_for_whoever_asks_for_it_before_the_text(accept: str, is_wanted: bool) -> None:
    assert http.wants_openmetrics(accept) is is_wanted


@pytest.mark.parametrize(
    "target",
    ["//", "/nothing", "/page", "/v1/status/", "/livez/", "/pgpubsub", "/pgpubsub/", "/pgpubsub/%ff", "/v1/ws/x"],
)
def test_a_path_that_is_not_there_is_404(target: str) -> None:
    answer = http.route("GET", target)
    assert isinstance(answer, Answer)
    assert answer.status == 404


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [("POST", "/metrics", "GET, HEAD"), ("DELETE", "/readyz", "GET, HEAD"), ("HEAD", "/v1/ws", "GET")],
)
def test_a_wrong_method_is_405_and_says_which_are_right(method: str, target: str, allowed: str) -> None:
    answer = http.route(method, target)
    assert isinstance(answer, Answer)
    assert answer.status == 405
    assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize(
    ("target", "channel"),
    [("/pgpubsub/ch", "ch"), ("/pgpubsub/a%20b", "a b"), ("/pgpubsub/a%2Fb/c", "a/b/c"), ("/pgpubsub/%C3%BC?x", "ü")],
)
def test_the_plain_path_names_a_channel_in_url_encoding(target: str, channel: str) -> None:
    assert http.route("GET", target) == Route(Page.PLAIN, channel)


def test_readiness_names_the_check_that_fails_and_since_when() -> None:
    checks = [Check("source", True, 9.0), Check("loopback", False, 4.25, "overdue")]
    answer = http.ready(checks, at=NOON)
    body = json.loads(answer.body)
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "1"
    assert body["ready"] is False
    assert body["checks"]["loopback"] == {
        "ok": False,
        "since": "2030-01-01T11:59:55.750Z",
        "since_s": 4.25,
        "detail": "overdue",
    }
    assert body["checks"]["source"]["ok"] is True


def test_ready_is_200_only_when_every_check_passes() -> None:
    assert http.ready([Check("source", True, 1.0), Check("loopback", True, 1.0)], at=NOON).status == 200
    assert http.up([Check("source", True, 1.0)]).status == 200
    assert http.up([Check("source", True, 1.0), Check("draining", False, 1.0)]).status == 503


def test_a_refusal_says_when_to_come_back_in_whole_seconds() -> None:
    assert http.refuse(503, "full", 0.2).headers["Retry-After"] == "1"
    assert http.refuse(429, "too many", 30.0).headers["Retry-After"] == "30"
    assert "Retry-After" not in http.refuse(403, "no").headers
