"""Settings read anew while the relay runs (SIGHUP): what changed is said, and taken over as far as a relay can.

All or nothing: settings that can not work change nothing, and the relay goes on with those it has. Options that need a
restart are warned about each time until there is one. Secrets are masked in each line.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_config import Loaded, Settings
from pgcachewatch_config.changes import Change, changes, taken_over
from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.showing import shown

logger = line_logger(__name__)


class Reloading:
    """`read` reads all sources; `apply` takes settings over. Both may raise ConfigurationError.

    `results` counts how reloads end: applied, refused.
    """

    def __init__(
        self,
        running: Settings,
        *,
        read: Callable[[], Loaded],
        apply: Callable[[Settings], None],
        results: Counter[str] | None = None,
    ) -> None:
        self.running = running
        self._results = Counter() if results is None else results
        self._read = read
        self._apply = apply

    def reload(self) -> None:
        """Read, take over, and say so. `apply` is called also when no option changed: files behind them may have."""
        root = logging.getLogger()
        level = root.level
        try:
            loaded = self._read()
            found = changes(self.running, loaded)
            settings = taken_over(self.running, loaded)
            root.setLevel(settings.log_level.upper())  # workers are told the level of this process
            self._apply(settings)
        except ConfigurationError as error:
            root.setLevel(level)
            self._results["refused"] += 1
            logger.error("settings not reloaded, the relay goes on with those it has", problem=str(error))
            return
        self.running = settings
        self._results["applied"] += 1
        new_level = root.level
        root.setLevel(min(level, new_level))  # the lines below are seen whichever way it changed
        warn(loaded)
        for change in found:
            _say(change)
        logger.info("settings reloaded", changed=sum(change.is_reloadable for change in found))
        root.setLevel(new_level)


def warn(loaded: Loaded) -> None:
    """Say what is odd about settings that can work."""
    for text in loaded.warnings:
        logger.warning("settings are odd", problem=text)


def _say(change: Change) -> None:
    say = logger.info if change.is_reloadable else logger.warning
    say(
        "option changed" if change.is_reloadable else "option needs a restart to change",
        option=change.name,
        old=shown(change.name, change.old),
        new=shown(change.name, change.new),
        source=change.source,
    )
