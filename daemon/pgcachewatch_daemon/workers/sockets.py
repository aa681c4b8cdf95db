"""The port that all workers serve: held by the primary, so that it is known before the first of them runs.

On Linux each worker binds it for itself with SO_REUSEPORT: the kernel spreads connections evenly, and a worker that
died gets none from that instant on. The primary's own socket is bound and does not listen, so it gets none either.
Elsewhere the option is missing, or one socket gets everything: there the primary listens, and the workers inherit its
sockets and accept from them in turn.

A port that somebody else serves is refused before: SO_REUSEPORT alone would let two relays of one user share it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import time
from dataclasses import dataclass

from pgcachewatch_daemon.io.websocket.server import BACKLOG

HOLD_WITHIN_S = 2.0  # longer than a worker lingers whose link has ended
HOLD_PAUSE_S = 0.05


def can_spread() -> bool:
    """Whether the kernel spreads connections over the sockets that share a port."""
    if sys.platform != "linux":
        return False
    with socket.socket() as tried:
        try:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError:  # a kernel that only looks like Linux
            return False
    return True


@dataclass(frozen=True, slots=True)
class HeldPort:
    """`inherited`: what workers accept from; empty when they bind for themselves."""

    port: int
    sockets: tuple[socket.socket, ...]
    inherited: tuple[socket.socket, ...]

    def close(self) -> None:
        for each in self.sockets:
            each.close()


async def hold_soon(host: str, port: int, *, is_spread: bool) -> HeldPort:
    """`hold`, also when the port is to be left in a moment by the workers of a primary that was killed."""
    until_s = time.monotonic() + HOLD_WITHIN_S
    while True:
        try:
            return hold(host, port, is_spread=is_spread)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= until_s:
                raise
        await asyncio.sleep(HOLD_PAUSE_S)


def hold(host: str, port: int, *, is_spread: bool) -> HeldPort:
    """Bind each address of `host`. Raises OSError when one can not be had; `port` 0 takes a free one."""
    bound: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            # With 0 the first address chooses, and the others take the same.
            place = (address[0], port or (bound[0].getsockname()[1] if bound else 0), *address[2:])
            if is_spread and place[1]:
                _bind(family, place, may_share=False).close()
            bound.append(_bind(family, place, may_share=is_spread))
            if not is_spread:
                bound[-1].listen(BACKLOG)
                bound[-1].setblocking(False)
    except BaseException:
        for each in bound:
            each.close()
        raise
    sockets = tuple(bound)
    return HeldPort(int(sockets[0].getsockname()[1]), sockets, () if is_spread else sockets)


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))  # type: ignore[misc]  # IP only


def _bind(family: socket.AddressFamily, place: tuple[str, int], *, may_share: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if may_share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(place)
    except BaseException:
        bound.close()
        raise
    return bound
