"""The slow path of a cached function, alone: what the tests of its decisions share."""

from __future__ import annotations

from typing import Any

from pgcachewatch.aio.cache import new_store
from pgcachewatch.aio.fills import Await, CacheOptions, Fills, Join, Lead, Refresh, RunAlone
from pgcachewatch.aio.flight import Flight
from pgcachewatch.core.keys import Keys
from pgcachewatch.core.store import Entry, Fill
from pgcachewatch.core.trust import FOREVER, Trust

NOW_S = 100.0
STALENESS_S = 2.0


class Desk(Fills[Flight[Any]]):
    """The slow path of a function nobody runs. `gone` holds flights whose owner can not go on."""

    def __init__(self, **options: Any) -> None:
        def function(key: object) -> None: ...

        self.trust = Trust(FOREVER)
        self.now_s = NOW_S
        self.gone: list[Flight[Any]] = []
        defaults: dict[str, Any] = {"clock": lambda: self.now_s, "staleness_s": STALENESS_S}
        settings = CacheOptions(**defaults | options)
        super().__init__(function, Keys(function, ignore=settings.ignore), new_store(self.trust), settings)

    def new_flight(self) -> Flight[Any]:
        return Flight()

    def is_gone(self, flight: Flight[Any]) -> bool:
        return flight in self.gone

    def ask(self, key: object = "key") -> Entry[Any] | Refresh[Any] | Join[Any] | Lead[Any] | Await[Any] | RunAlone:
        return self.decide(key, self.now_s)

    def lead(self, key: object = "key") -> Fill[Flight[Any]]:
        """A run of this key, which is there to be started."""
        decision = self.ask(key)
        assert isinstance(decision, Lead)
        return decision.fill

    def store_result(self, value: object = "stored") -> None:
        self.finish(self.lead(), value)

    def become_unfresh(self) -> None:
        self.trust.renew(self.now_s)


def joined(desk: Desk, fill: Fill[Flight[Any]]) -> bool:
    """Whether the next call waits for the value of this run."""
    decision = desk.ask()
    return isinstance(decision, Join) and decision.flight is fill.run
