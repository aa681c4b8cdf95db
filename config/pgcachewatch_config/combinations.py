"""Options that are right each by itself and can not work together.

A rule is one line here: the options it is about, what has to hold, and why. Values of secrets are not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_config.settings import Settings
from pgcachewatch_config.spelling import is_secret


@dataclass(frozen=True, slots=True)
class Rule:
    """`holds` of settings that can work; `why` says what has to be so."""

    names: tuple[str, ...]
    holds: Callable[[Settings], bool]
    why: str


RULES = (
    Rule(
        ("reconnect_min_s", "reconnect_max_s"),
        lambda one: one.reconnect_min_s <= one.reconnect_max_s,
        "the first pause must not be longer than the longest",
    ),
    Rule(
        ("connections_limit", "workers"),
        lambda one: one.connections_limit >= one.workers,
        "each worker needs a share of at least one client",
    ),
)


def check(settings: Settings, sources: Mapping[str, str]) -> None:
    """Raises ConfigurationError for the first rule that does not hold, with the values and where they came from."""
    for rule in RULES:
        if not rule.holds(settings):
            parts = [_told(name, settings, sources) for name in rule.names]
            raise ConfigurationError(f"{' and '.join(parts)} can not go together: {rule.why}")


def _told(name: str, settings: Settings, sources: Mapping[str, str]) -> str:
    value = "(not shown)" if is_secret(name) else repr(getattr(settings, name))
    return f"{name} = {value} (from {sources.get(name, 'the defaults')})"
