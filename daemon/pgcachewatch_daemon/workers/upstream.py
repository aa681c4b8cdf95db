"""What a worker has in place of PostgreSQL: the primary, at the other end of the link.

To clients' part of the relay it is the source and the catalogue's watcher. LISTEN, loopbacks and looks happen in the
primary; here is what is known of them, and the ways to ask for more. A channel is listened to when the primary has said
so (W-SUB-5), and what it says comes in the order of the changes. What is used by nobody any more at the end of an
iteration of the loop is released: it is not listened to, as far as this worker can tell, until it is asked for again.

Bound: waiters, by the clients that wait; wishes for a loopback are told once per iteration of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pgcachewatch.errors import ConfigurationError, LimitExceeded, PGCacheWatchError
from pgcachewatch_daemon.io.catalogue import CatalogueOptions, CatalogueStats
from pgcachewatch_daemon.io.postgres import SourceOptions, SourceStats
from pgcachewatch_daemon.waiters import Waiters
from pgcachewatch_daemon.workers.messages import (
    Ensure,
    Hasten,
    HastenLook,
    Here,
    Listening,
    ListenRefused,
    LoopedBack,
    Message,
    Release,
    SourceLost,
    SourceUp,
    State,
)


class Upstream:
    """See relay.Source. `say` sends to the primary, `has_stamps` tells whether a client wants snapshots.

    `default` need not be asked for; `given_up` is told of each channel that is released.
    """

    def __init__(
        self,
        say: Callable[[Message], None],
        *,
        default: str,
        has_stamps: Callable[[], bool],
        given_up: Callable[[str], None] = lambda channel: None,
    ) -> None:
        self.stats = SourceStats()  # counted by the primary; all zero here
        self.is_up = False
        self.since_s = 0.0
        self.proof_limit_s = 0.0
        self._say = say
        self._has_stamps = has_stamps
        self._default = default
        self._given_up = given_up
        self._asked: dict[str, int] = {}  # from Ensure to Release: the last number
        self._number = 0
        self._channels: set[str] = set()  # of these and the default: those that are listened to
        self._left: dict[str, None] = {}  # used by nobody, to be released at the end of the iteration
        self._waiters = Waiters()
        self._is_busy = False
        self._told = State(is_busy=False, has_stamps=False)
        self._spacing_s: float | None = None  # of the loopback that is to be asked for

    # --- what clients' part calls

    def start(self) -> None:
        """Nothing: the primary has begun."""

    async def close(self) -> None:
        self._waiters.close()

    def reload(self, options: SourceOptions) -> None:
        """Nothing: the session is the primary's."""

    def is_listening(self, channel: str) -> bool:
        return self.is_up and channel in self._channels

    def ensure_channel(self, channel: str) -> asyncio.Future[None]:
        """As PostgresSource's: done once LISTEN is proven, fails for a name that can not be or a full relay."""
        if self.is_listening(channel):
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        if channel not in self._asked:
            self._ask(channel)
        return self._waiters.add(channel)

    def _ask(self, channel: str) -> None:
        self._number += 1
        self._asked[channel] = self._number
        self._say(Ensure(channel, self._number))

    def use(self, channel: str) -> None:
        self._left.pop(channel, None)

    def leave(self, channel: str, *, seq: int) -> None:
        """Released once it is sure: who moves from one group to another is for a moment in none."""
        if not self._left:
            asyncio.get_running_loop().call_soon(self._release)
        self._left[channel] = None

    def _release(self) -> None:
        left, self._left = self._left, {}
        for channel in left:
            if self._asked.pop(channel, None) is not None:
                self._channels.discard(channel)
                self._waiters.cancel(channel)
                self._given_up(channel)
                self._say(Release(channel))

    def give_up_before(self, floor: int) -> None:
        """Nothing: the primary does."""

    def set_busy(self, is_busy: bool) -> None:
        self._is_busy = is_busy
        self.tell_state()

    def hasten(self, *, spacing_s: float = 0.0) -> None:
        if self._spacing_s is None:
            asyncio.get_running_loop().call_soon(self._tell_hasten)
            self._spacing_s = spacing_s
        else:
            self._spacing_s = min(self._spacing_s, spacing_s)

    def tell_state(self) -> None:
        """Whoever subscribed may want other loopbacks than before."""
        state = State(self._is_busy, self._has_stamps())
        if state != self._told:
            self._told = state
            self._say(state)

    def _tell_hasten(self) -> None:
        # Behind the state: the loopback that is asked for brings what its client wants.
        self.tell_state()
        spacing_s, self._spacing_s = self._spacing_s, None
        if spacing_s is not None:
            self._say(Hasten(spacing_s))

    # --- what the primary tells

    def began(self, here: Here) -> None:
        self.is_up, self.since_s, self.proof_limit_s = here.is_up, here.since_s, here.proof_limit_s
        self._channels = set(here.channels)

    def came_up(self, up: SourceUp) -> None:
        self.is_up, self.since_s = True, up.since_s
        self._channels = {name for name in up.channels if name in self._asked or name == self._default}
        for channel in self._asked.keys() - self._channels:  # not yet, or PostgreSQL would not have it any more
            if channel in self._waiters.channels:
                self._ask(channel)
            else:
                del self._asked[channel]
                self._say(Release(channel))

    def answer_listening(self) -> None:
        """Whoever waits for a channel that is listened to goes on."""
        self._waiters.answer_each(self._channels)

    def lost(self, told: SourceLost) -> None:
        self.is_up, self.since_s = False, told.since_s
        self._channels.clear()

    def looped_back(self, told: LoopedBack) -> None:
        self.proof_limit_s = told.proof_limit_s

    def listening(self, told: Listening) -> bool:
        """False when it was released since it was asked for: then it may have been given up before it was told."""
        if self._asked.get(told.channel) != told.number:
            return False
        self._channels.add(told.channel)
        if self.is_up:
            self._waiters.answer(told.channel)
        return True

    def refused(self, told: ListenRefused) -> None:
        if self._asked.get(told.channel) != told.number:
            return
        del self._asked[told.channel]
        error: PGCacheWatchError = ConfigurationError(told.text)
        if told.limit:
            error = LimitExceeded(
                told.text, rule="W-LIMIT-6", limit="channels", allowed=told.limit, value=told.limit + 1
            )
        self._waiters.answer(told.channel, error)


class UpstreamWatcher:
    """See relay.Watcher: the primary looks at the catalogue, and tells what it saw."""

    def __init__(self, say: Callable[[Message], None]) -> None:
        self.stats = CatalogueStats()  # counted by the primary
        self._say = say
        self._is_asked = False

    def start(self) -> None:
        """Nothing: the primary looks."""

    async def close(self) -> None:
        """Nothing."""

    def reload(self, options: CatalogueOptions) -> None:
        """Nothing: the primary looks."""

    def source_up(self) -> None:
        """The primary knows."""

    def source_lost(self) -> None:
        """The primary knows."""

    def hasten(self) -> None:
        """Once until the next look: the primary remembers that it was asked."""
        if not self._is_asked:
            self._is_asked = True
            self._say(HastenLook())

    def looked(self) -> None:
        """The primary has looked; what is asked for from now on is another one."""
        self._is_asked = False
