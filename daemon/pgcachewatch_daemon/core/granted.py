"""The answer to a wish: a subscription, with what its client has to know of it, or an error."""

from __future__ import annotations

from dataclasses import dataclass

from pgcachewatch.protocol import messages
from pgcachewatch.protocol.relay_session import Subscription


@dataclass(frozen=True, slots=True)
class Granted:
    """A subscription with what its `subok` says beside it (W-ROW-2)."""

    subscription: Subscription
    types: tuple[str, ...] | None = None
    notice: str | None = None

    def subok(self, seq: int) -> messages.Subok:
        """The answer, live from `seq`."""
        one, types = self.subscription, None if self.types is None else list(self.types)
        return messages.Subok(id=one.id, sid=one.sid, s=seq, types=types, notice=self.notice)


# To one subscription of a hello. An error takes the place of `subok`, and that subscription is none (W-ROW-3).
Answer = Granted | messages.Err
