"""Which address a connection is counted and named by when proxies stand in between."""

from __future__ import annotations

import pytest

from pgcachewatch_daemon.core.forwarding import TrustedProxies, household

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("peer", "lines", "client"),
    [
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:1::1]:4711"], "2001:1::1"),
        ("2001:db8::1", ["2001:1::1"], "2001:1::1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, _hidden, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [", ,"], "10.0.0.1"),
        ("unix", ["198.51.100.1"], "unix"),
        ("10.0.0.1", ["fe80::1%\x9b31m"], "fe80::1"),
    ],
    ids=[
        *("a stranger's header", "no header", "one hop", "a client's own claim", "two lines", "proxies only", "port"),
        *("v6 port", "v6", "mapped", "unknown", "nothing said", "empty", "unix", "a zone of his own"),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_vouches_for(peer: str, lines: list[str], client: str) -> None:
    assert PROXIES.client_of(peer, lines) == client


def test_nobody_is_trusted_by_default() -> None:
    assert not TrustedProxies()
    assert TrustedProxies().client_of("10.0.0.1", ["6.6.6.6"]) == "10.0.0.1"


def test_a_network_with_bits_of_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        TrustedProxies(["10.0.0.1/8"])


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("203.0.113.7", "203.0.113.7", True),
        ("203.0.113.7", "203.0.113.8", False),
        ("203.0.113.7", "::ffff:203.0.113.7", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("unix", "203.0.113.7", False),
    ],
)
def test_addresses_that_one_client_may_choose_among_count_together(one: str, other: str, is_same: bool) -> None:
    assert (household(one) == household(other)) is is_same
