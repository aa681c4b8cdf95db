"""How many use each channel: groups of subscribers, readers of the plain path, and wishes that wait for LISTEN.

Whoever uses a channel says so before anything depends on it, and says when it ends. So a channel that nobody uses may
be given up at once, and one that is waited for may not. Bound: what is used, by the limits on clients.
"""

from __future__ import annotations

from collections.abc import Callable


class Uses:
    """`began` is told of a channel's first user, `ended` once the last one has left.

    >>> uses = Uses(ended=print)
    >>> uses.begin("a")
    >>> uses.begin("a")
    >>> uses.end("a")
    >>> uses.end("a")
    a
    """

    def __init__(
        self,
        *,
        began: Callable[[str], None] = lambda channel: None,
        ended: Callable[[str], None] = lambda channel: None,
    ) -> None:
        self._began = began
        self._ended = ended
        self._users: dict[str, int] = {}

    def begin(self, channel: str) -> None:
        """One more user."""
        users = self._users.get(channel, 0)
        self._users[channel] = users + 1
        if not users:
            self._began(channel)

    def end(self, channel: str) -> None:
        """One of those that began is no user any more."""
        users = self._users[channel] - 1
        if users:
            self._users[channel] = users
        else:
            del self._users[channel]
            self._ended(channel)
