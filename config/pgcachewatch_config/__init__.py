"""Where configuration lives, all of it: the one Settings class, and the reference file that is generated from it."""

from pgcachewatch_config.settings import Settings
from pgcachewatch_config.sources import CONFIG_VARIABLE, Loaded, load
from pgcachewatch_config.spelling import allowed, flag, variable

__all__ = ["CONFIG_VARIABLE", "Loaded", "Settings", "allowed", "flag", "load", "variable"]
