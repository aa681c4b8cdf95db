"""Where configuration lives, all of it: the one Settings class, and the reference file that is generated from it."""

from pgcachewatch_config.settings import Loaded, Settings, allowed, flag, load

__all__ = ["Loaded", "Settings", "allowed", "flag", "load"]
