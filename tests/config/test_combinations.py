"""Rules about several options: each holds of the defaults, and each can be broken."""

from __future__ import annotations

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_config import Settings
from pgcachewatch_config.combinations import RULES, check

BROKEN: dict[tuple[str, ...], Settings] = {
    ("reconnect_min_s", "reconnect_max_s"): Settings(reconnect_min_s=5.0),
    ("connections_limit", "workers"): Settings(connections_limit=3, workers=4),
}


def test_the_defaults_go_together() -> None:
    check(Settings(), {})


@pytest.mark.parametrize("names", BROKEN, ids=" ".join)
def test_what_can_not_go_together_is_named(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(BROKEN[names], {names[0]: "the file x"})
    for name in names:
        assert f"{name} = {getattr(BROKEN[names], name)}" in str(caught.value)
    assert "(from the file x)" in str(caught.value)


def test_each_rule_is_tried_here() -> None:
    assert {rule.names for rule in RULES} == set(BROKEN)
