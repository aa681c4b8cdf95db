"""Changes between settings that run and settings that were read: which there are, and which are taken over."""

from __future__ import annotations

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_config import Loaded, Settings
from pgcachewatch_config.changes import changes, taken_over
from pgcachewatch_config.spelling import is_reloadable

SOURCE = "the environment (PGCACHEWATCH_CONNECTIONS_LIMIT)"


def test_nothing_differs_from_the_same_settings() -> None:
    assert changes(Settings(port=1), Loaded(Settings(port=1), {})) == []


def test_a_change_has_both_values_and_where_the_new_one_comes_from() -> None:
    loaded = Loaded(Settings(connections_limit=5), {"connections_limit": SOURCE})
    (change,) = changes(Settings(connections_limit=7), loaded)
    assert (change.name, change.old, change.new, change.source) == ("connections_limit", 7, 5, SOURCE)


def test_an_option_that_is_given_no_more_comes_from_the_defaults() -> None:
    (change,) = changes(Settings(connections_limit=7), Loaded(Settings(), {}))
    assert (change.new, change.source) == (10_000, "the defaults")


def test_what_is_reloadable_is_taken_over_and_the_rest_waits() -> None:
    running, loaded = Settings(), Loaded(Settings(connections_limit=5, port=1), {})
    settings = taken_over(running, loaded)
    assert (settings.connections_limit, settings.port) == (5, 8420)
    assert [change.name for change in changes(settings, loaded)] == ["port"], "it is told until there is a restart"


def test_new_values_have_to_go_together_with_those_that_wait_for_a_restart() -> None:
    with pytest.raises(ConfigurationError, match="connections_limit = 2"):
        taken_over(Settings(workers=4), Loaded(Settings(workers=1, connections_limit=2), {}))


@pytest.mark.parametrize("name", ["port", "host", "workers", "channel", "node", "heartbeat_s", "loopback_overdue_s"])
def test_what_clients_or_the_system_were_told_can_not_change_while_running(name: str) -> None:
    assert not is_reloadable(name)
