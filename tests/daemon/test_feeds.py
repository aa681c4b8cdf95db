"""Whatever feeds a relay has all that a relay asks of it."""

from __future__ import annotations

import pytest

from pgcachewatch_daemon.feeds import Channels, Source, Watcher
from pgcachewatch_daemon.io.catalogue import CatalogueWatcher
from pgcachewatch_daemon.io.postgres import PostgresSource
from pgcachewatch_daemon.workers.upstream import Upstream, UpstreamWatcher


def methods(protocol: type) -> set[str]:
    return {name for each in protocol.__mro__ for name, value in vars(each).items() if callable(value)}


@pytest.mark.parametrize("feed", [PostgresSource, Upstream])
def test_a_source_can_be_listened_to_reloaded_and_closed(feed: type) -> None:
    assert methods(Channels) | {"start", "close", "use", "leave", "give_up_before", "reload", "proof_limit_s"} <= {
        *methods(Source), "proof_limit_s",
    }  # fmt: skip
    assert [name for name in methods(Source) if not name.startswith("_") and not hasattr(feed, name)] == []


@pytest.mark.parametrize("feed", [CatalogueWatcher, UpstreamWatcher])
def test_a_watcher_can_be_hastened_reloaded_and_closed(feed: type) -> None:
    assert {"hasten", "reload", "close"} <= methods(Watcher)
    assert [name for name in methods(Watcher) if not name.startswith("_") and not hasattr(feed, name)] == []
