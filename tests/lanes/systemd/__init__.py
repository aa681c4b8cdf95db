"""The systemd lane: a small Debian that is started by its own systemd, and the tests that play with the unit in it."""
