"""How options are written, for those that there are and for kinds that any option may have."""

from __future__ import annotations

import pytest

from pgcachewatch_config import Settings, allowed, flag, variable
from pgcachewatch_config.spelling import group_of, is_reloadable, is_secret, is_switch


def test_a_name_is_spelled_for_the_command_line_and_for_the_environment() -> None:
    assert (flag("log_level"), variable("log_level")) == ("--log-level", "PGCACHEWATCH_LOG_LEVEL")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_option_can_be_described(name: str) -> None:
    assert allowed(name)
    assert group_of(name)
    assert isinstance(is_reloadable(name), bool)


def test_secrets_are_known_by_their_kind() -> None:
    assert is_secret("dsn")
    assert is_secret("listen_dsn")
    assert not is_secret("port")
    assert not is_switch("port")
