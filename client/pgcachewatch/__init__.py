"""PGCacheWatch: caches that know when their rows change.

    async with pgcachewatch.connect("ws://127.0.0.1:8420") as client:
        @client.cache(tables=["users"])
        async def get_user(user_id: int) -> User: ...

This module only names what is public; each name is loaded when it is first used, so that `import pgcachewatch` costs
little and needs nothing beyond websockets and pydantic. The paths of the original library (`decorators`, `listeners`,
`models`, `strategies`, `utils`, `cli`, `queries`) are modules of the same names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgcachewatch import errors, models
    from pgcachewatch import threads as sync
    from pgcachewatch.aio.binding import Cache
    from pgcachewatch.aio.client import Client, Status
    from pgcachewatch.aio.connecting import connect
    from pgcachewatch.aio.reading import read_in
    from pgcachewatch.core.dependencies import Result, Row, Table, Tag
    from pgcachewatch.core.keys import Ignore
    from pgcachewatch.errors import PGCacheWatchError
    from pgcachewatch.models import ConsumedEvent, Event, Gap, Position, Scope
    from pgcachewatch.strategies import Greedy, Timed, Windowed

__all__ = [
    "Cache",
    "Client",
    "ConsumedEvent",
    "Event",
    "Gap",
    "Greedy",
    "Ignore",
    "PGCacheWatchError",
    "Position",
    "Result",
    "Row",
    "Scope",
    "Status",
    "Table",
    "Tag",
    "Timed",
    "Windowed",
    "__version__",
    "connect",
    "errors",
    "models",
    "read_in",
    "sync",
]

_HOMES = {
    "Cache": "pgcachewatch.aio.binding",
    "Client": "pgcachewatch.aio.client",
    "Status": "pgcachewatch.aio.client",
    "connect": "pgcachewatch.aio.connecting",
    "read_in": "pgcachewatch.aio.reading",
    "Ignore": "pgcachewatch.core.keys",
    "Result": "pgcachewatch.core.dependencies",
    "Row": "pgcachewatch.core.dependencies",
    "Table": "pgcachewatch.core.dependencies",
    "Tag": "pgcachewatch.core.dependencies",
    "PGCacheWatchError": "pgcachewatch.errors",
    "ConsumedEvent": "pgcachewatch.models",
    "Event": "pgcachewatch.models",
    "Gap": "pgcachewatch.models",
    "Position": "pgcachewatch.models",
    "Scope": "pgcachewatch.models",
    "Greedy": "pgcachewatch.strategies",
    "Timed": "pgcachewatch.strategies",
    "Windowed": "pgcachewatch.strategies",
}
_MODULES = {"errors": "pgcachewatch.errors", "models": "pgcachewatch.models", "sync": "pgcachewatch.threads"}


def __getattr__(name: str) -> Any:  # Any: a module's names have as many types as there are names
    if name == "__version__":
        from importlib import metadata

        return metadata.version("pgcachewatch")
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pgcachewatch' has no attribute {name!r}; public names are {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
