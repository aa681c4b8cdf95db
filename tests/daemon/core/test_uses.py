"""A channel's first user and its last are told, and nobody between."""

from __future__ import annotations

from pgcachewatch_daemon.core.uses import Uses


def test_the_first_user_and_the_last_are_told_each_time() -> None:
    heard: list[str] = []
    uses = Uses(began=lambda name: heard.append(f"+{name}"), ended=lambda name: heard.append(f"-{name}"))
    for step in ("+a", "+a", "+b", "-a", "-a", "+a", "-b", "-a"):
        (uses.begin if step[0] == "+" else uses.end)(step[1])
    assert heard == ["+a", "+b", "-a", "+a", "-b", "-a"]
