"""What differs between the settings that a relay runs with and those that its sources say now.

An option that is reloadable is taken over while the relay runs; the others stay what they are until a restart, and are
told as different each time until then.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgcachewatch_config.combinations import check
from pgcachewatch_config.settings import Settings
from pgcachewatch_config.sources import Loaded
from pgcachewatch_config.spelling import is_reloadable


@dataclass(frozen=True, slots=True)
class Change:
    """One option. `source` says in words where the new value comes from. Values may be secret: show them masked."""

    name: str
    old: object
    new: object
    source: str
    is_reloadable: bool


def changes(running: Settings, loaded: Loaded) -> list[Change]:
    """Each option whose value is another now, in the order of the reference file.

    >>> [change.name for change in changes(Settings(), Loaded(Settings(port=1), {"port": "the command line (--port)"}))]
    ['port']
    """
    return [
        Change(
            name,
            getattr(running, name),
            getattr(loaded.settings, name),
            loaded.sources.get(name, "the defaults"),
            is_reloadable(name),
        )
        for name in Settings.model_fields
        if getattr(running, name) != getattr(loaded.settings, name)
    ]


def taken_over(running: Settings, loaded: Loaded) -> Settings:
    """The settings to go on with: the new value of each option that is reloadable, the running one of the others.

    Raises ConfigurationError when those can not go together.
    """
    new = {change.name: change.new for change in changes(running, loaded) if change.is_reloadable}
    settings = running.model_copy(update=new)
    check(settings, loaded.sources)
    return settings
