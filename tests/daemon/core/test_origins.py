"""Whose pages may connect: the relay's own, those that are listed, and no name that a stranger could choose."""

from __future__ import annotations

import pytest

from pgcachewatch_daemon.core.origins import may_connect, may_read


@pytest.mark.parametrize("is_authenticated", [True, False])
@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "127.0.0.1:8420"),
        (None, ""),
        ("http://127.0.0.1:8420", "127.0.0.1:8420"),
        ("http://localhost:8420", "localhost:8420"),
        ("http://LOCALHOST:8420", "localhost:8420"),
        ("http://[::1]:8420", "[::1]:8420"),
        ("http://10.0.0.7", "10.0.0.7"),
        ("http://10.0.0.7", "10.0.0.7:80"),
        ("https://10.0.0.7", "10.0.0.7"),
        ("https://10.0.0.7:443", "10.0.0.7"),
        ("https://app.example.com", "relay.example.com"),
    ],
)
def test_programs_own_pages_and_listed_ones_may(origin: str | None, host: str, is_authenticated: bool) -> None:
    allowed = ("https://app.example.com",)

    assert may_connect(origin, host, allowed, is_authenticated=is_authenticated)


@pytest.mark.parametrize("is_authenticated", [True, False])
@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", "127.0.0.1:8420"),
        ("http://127.0.0.1:9999", "127.0.0.1:8420"),
        ("http://127.0.0.1", "127.0.0.1:8420"),
        ("https://app.example.com.evil.example", "127.0.0.1:8420"),
        ("http://app.example.com", "127.0.0.1:8420"),
        ("null", "null"),
        ("", ""),
        ("http://", ""),
        ("http://127.0.0.1:8420@evil.example", "127.0.0.1:8420"),
        ("http://x:99999", "x:99999"),
        ("http://127.0.0.1:8420", "127.0.0.1:8420/x"),
        ("http://127.0.0.1:8420/x", "127.0.0.1:8420"),
    ],
)
def test_no_other_page_may(origin: str, host: str, is_authenticated: bool) -> None:
    allowed = ("https://app.example.com",)

    assert not may_connect(origin, host, allowed, is_authenticated=is_authenticated)


def test_a_name_that_was_made_to_lead_here_is_no_page_of_the_relay_unless_tokens_are_needed() -> None:
    assert not may_connect("http://evil.example:8420", "evil.example:8420", (), is_authenticated=False)
    assert may_connect("https://relay.example", "relay.example", (), is_authenticated=True)


def test_any_page_may_when_the_operator_says_so() -> None:
    assert may_connect("null", "x", ("*",), is_authenticated=False)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8420", "[::1]:8420", "10.0.0.7", "localhost:8420", "relay", "relay:80", ""]
)
def test_what_needs_no_token_is_told_under_addresses_and_names_of_ones_own(host: str) -> None:
    assert may_read(host, ())


@pytest.mark.parametrize(
    "host", ["evil.example:8420", "127.0.0.1.evil.example", "evil.example.", "x@y.z", "a/b", "::::"]
)
def test_and_not_under_a_name_that_was_made_to_lead_here(host: str) -> None:
    """Such a page is of one origin with the relay, so its request has no Origin that could be judged."""
    assert not may_read(host, ())
    assert not may_read(host, ("http://other.example",))


def test_a_name_that_is_listed_may_read() -> None:
    assert may_read("relay.example:8420", ("http://relay.example:8420",))
    assert may_read("relay.example", ("https://relay.example",))
    assert may_read("relay.example", ("*",))
