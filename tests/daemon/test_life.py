"""Whatever ends the block closes what it began."""

from __future__ import annotations

import pytest

from pgcachewatch_daemon.life import Life


class Lived(Life):
    """Notes what happens to it."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.failure = failure
        self.told: list[str] = []

    async def start(self) -> None:
        self.told.append("start")
        if self.failure is not None:
            raise self.failure

    async def close(self) -> None:
        self.told.append("close")


async def test_it_lives_as_long_as_its_block() -> None:
    async with Lived() as lived:
        assert lived.told == ["start"]
    assert lived.told == ["start", "close"]


async def test_it_is_closed_when_the_block_fails() -> None:
    lived = Lived()
    with pytest.raises(ValueError, match="in the block"):
        async with lived:
            raise ValueError("in the block")
    assert lived.told == ["start", "close"]


async def test_what_began_is_closed_when_the_start_fails() -> None:
    lived = Lived(OSError("no port"))
    with pytest.raises(OSError, match="no port"):
        async with lived:
            pass
    assert lived.told == ["start", "close"]
