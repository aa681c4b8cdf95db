"""Who must not notice what others do to the relay."""

from __future__ import annotations

import uuid
from typing import Any

from tests.postgres import Database
from tests.raw_client import Addressed, Client, notify, payload


class Neighbour(Client):
    """A well-behaved client, on one connection for as long as it lives."""

    def __init__(self, relay: Addressed, database: Database, **extra: Any) -> None:  # Any: of websockets' connect
        super().__init__(relay, **extra)
        self._database = database

    async def settle(self) -> None:
        await self.hello({"t": "sub", "id": 1, "table": "neighbours"})
        await self.until("subok")

    async def still_hears(self) -> None:
        """An event that is committed now arrives, on the connection there has been all along."""
        key = uuid.uuid4().hex
        await notify(self._database, payload("neighbours", key))
        await self.until("ev", i=[[1, "u", key]])
