"""Whose connection it is, when proxies stand in between: the address that limits count and the log names.

A proxy adds, at the right of X-Forwarded-For, the address it was connected from. So the entries are read from the
right for as long as trusted proxies wrote them: the first that is no trusted proxy's is the client. What stands to its
left is the client's own claim, and so is all of it when the peer is not trusted.

The header `Forwarded` (RFC 7239) is not read: no proxy writes it by itself, and one that passes a client's on would
be believed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class TrustedProxies:
    """Networks whose word is taken. Raises ValueError for what is no network.

    >>> proxies = TrustedProxies(["10.0.0.0/8"])
    >>> proxies.client_of("10.0.0.1", ["203.0.113.7, 10.0.0.2"]), proxies.client_of("203.0.113.9", ["1.2.3.4"])
    ('203.0.113.7', '203.0.113.9')
    """

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(each.strip()) for each in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def client_of(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """The client's address; `forwarded_for` are the header's lines, in order."""
        client = peer
        entries = ",".join(forwarded_for).split(",")
        while self._is_trusted(client) and entries:
            said = _address(entries.pop())
            if said is None:
                break  # a proxy that says nothing of its client speaks for itself
            client = str(said)
        return client

    def _is_trusted(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._networks)


def household(address: str) -> str:
    """What limits by address count together: one IPv4 address, or the /64 that whoever has IPv6 has at least.

    >>> household("203.0.113.7"), household("2001:db8::a:1"), household("::ffff:203.0.113.7"), household("unix")
    ('203.0.113.7', '2001:db8::/64', '203.0.113.7', 'unix')
    """
    found = _address(address) if ":" in address else None
    if found is None:
        return address  # IPv4, which nearly all are, or none
    return f"{ipaddress.IPv6Address(int(found) >> 64 << 64)}/64" if found.version == 6 else str(found)


def _address(text: str) -> Address | None:
    """
    Without a zone, which is any text that a sender likes.

    >>> [str(_address(each)) for each in ("10.0.0.1:80", "[2001:db8::1]:80", "::ffff:10.0.0.1", "fe80::1%x", "unknown")]
    ['10.0.0.1', '2001:db8::1', '10.0.0.1', 'fe80::1', 'None']
    """
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
