"""What a relay is fed by: PostgreSQL in a relay of one process, the primary in a worker.

Each protocol is what somebody needs of it; who feeds does not know who is fed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from pgcachewatch_daemon.io.catalogue import CatalogueOptions, CatalogueStats
from pgcachewatch_daemon.io.postgres import SourceOptions, SourceStats


class Channels(Protocol):
    """The part of the source that clients need."""

    is_up: bool

    def is_listening(self, channel: str) -> bool: ...
    def ensure_channel(self, channel: str) -> asyncio.Future[None]: ...
    def hasten(self, *, spacing_s: float = 0.0) -> None: ...
    def set_busy(self, is_busy: bool) -> None: ...


class Source(Channels, Protocol):
    """Where changes come from: PostgreSQL, or for a worker the primary (workers/upstream)."""

    stats: SourceStats
    since_s: float

    @property
    def proof_limit_s(self) -> float: ...
    def retain(self, channels: Iterable[str]) -> None: ...
    def reload(self, options: SourceOptions) -> None: ...
    def start(self) -> None: ...
    async def close(self) -> None: ...


class Watcher(Protocol):
    """Where the catalogue comes from."""

    stats: CatalogueStats

    def reload(self, options: CatalogueOptions) -> None: ...
    def hasten(self) -> None: ...
    def source_up(self) -> None: ...
    def source_lost(self) -> None: ...
    def start(self) -> None: ...
    async def close(self) -> None: ...
