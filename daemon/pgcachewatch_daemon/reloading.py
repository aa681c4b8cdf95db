"""Settings read anew while the relay runs (SIGHUP): what changed is said, and taken over as far as a relay can.

All or nothing: settings that can not work change nothing, and the relay goes on with those it has. Options that need a
restart are warned about each time until there is one. Secrets are masked in each line.

What is read is read beside the loop: a file of ten thousand tokens takes half a second, and events do not wait for it.
Bound: one reload at a time, and one more behind it however often it is asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_config import Loaded, Settings
from pgcachewatch_config.changes import Change, changes, taken_over
from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.showing import shown

logger = line_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Prepared:
    loaded: Loaded
    settings: Settings
    take_over: Callable[[], None]


class Reloading:
    """`read` reads all sources; `prepare` reads what they name and returns what takes it over, on the loop.

    Both are called in a thread, and may raise ConfigurationError. `results` counts how reloads end: applied, refused.
    """

    def __init__(
        self,
        running: Settings,
        *,
        read: Callable[[], Loaded],
        prepare: Callable[[Settings], Callable[[], None]],
        results: Counter[str] | None = None,
    ) -> None:
        self.running = running
        self._results = Counter() if results is None else results
        self._read = read
        self._prepare = prepare
        self._is_asked = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Reload soon; while one is under way, once more behind it. For a signal handler of the loop."""
        self._is_asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._reload_while_asked(), name="reload")

    async def close(self) -> None:
        """Give up what is under way: nothing is taken over behind this."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _reload_while_asked(self) -> None:
        while self._is_asked:
            self._is_asked = False
            try:
                await self.reload()
            except Exception:  # the top of the task: the relay serves on, whatever is wrong
                self._results["refused"] += 1
                logger.exception(
                    "settings not reloaded, the relay goes on with those it has", problem="a fault of the relay's own"
                )

    async def reload(self) -> None:
        """Read, take over, and say so. It is done also when no option changed: files behind them may have."""
        try:
            prepared = await asyncio.to_thread(self._read_and_prepare)
        except ConfigurationError as error:
            self._results["refused"] += 1
            logger.error("settings not reloaded, the relay goes on with those it has", problem=str(error))
            return
        self._go_on_with(prepared)

    def _read_and_prepare(self) -> _Prepared:
        loaded = self._read()
        settings = taken_over(self.running, loaded)
        return _Prepared(loaded, settings, self._prepare(settings))

    def _go_on_with(self, prepared: _Prepared) -> None:
        root = logging.getLogger()
        level, new_level = root.level, prepared.settings.log_level.upper()
        found = changes(self.running, prepared.loaded)
        root.setLevel(new_level)  # workers are told the level of this process
        prepared.take_over()
        self.running = prepared.settings
        self._results["applied"] += 1
        root.setLevel(min(level, root.level))  # the lines below are seen whichever way it changed
        warn(prepared.loaded)
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
