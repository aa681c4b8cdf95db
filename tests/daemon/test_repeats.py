"""A log that repeats itself says so in one line."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.repeats import KINDS, WINDOW_S, Repeats


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kept(clock: Clock) -> Iterator[Kept]:
    handler = Kept()
    handler.addFilter(Repeats(handler, lines=2, clock=clock))
    target = logging.getLogger("repeating")
    target.addHandler(handler)
    target.setLevel(logging.INFO)
    yield handler
    target.removeHandler(handler)


def test_what_was_left_out_is_told_when_the_log_ends_and_once(kept: Kept) -> None:
    logger = line_logger("repeating")
    for number in range(5):
        logger.warning("client cut", conn=number)
    (repeats,) = kept.filters
    assert isinstance(repeats, Repeats)
    repeats.end()
    repeats.end()
    assert kept.lines[2:] == ["WARNING client cut suppressed=3 window_s=10"]


def test_what_is_said_too_often_is_counted_and_told_when_the_window_is_over(kept: Kept, clock: Clock) -> None:
    logger = line_logger("repeating")
    for number in range(5):
        logger.warning("client cut", conn=number)
    logger.info("relay draining")
    assert kept.lines == ["WARNING client cut conn=0", "WARNING client cut conn=1", "INFO relay draining"]

    clock.now_s += WINDOW_S
    logger.info("relay stopped")
    assert kept.lines[3:] == ["WARNING client cut suppressed=3 window_s=10", "INFO relay stopped"]

    logger.warning("client cut", conn=9)
    assert kept.lines[5:] == ["WARNING client cut conn=9"], "a new window"


def test_lines_of_other_libraries_are_limited_by_their_words(kept: Kept, clock: Clock) -> None:
    for number in range(4):
        logging.getLogger("repeating").warning("took %d s", number)
    clock.now_s += WINDOW_S
    logging.getLogger("repeating").info("x")
    assert kept.lines == ["WARNING took 0 s", "WARNING took 1 s", "WARNING took 3 s suppressed=2 window_s=10", "INFO x"]


def test_whoever_asks_for_details_gets_all_of_them(kept: Kept) -> None:
    logging.getLogger("repeating").setLevel(logging.DEBUG)
    for number in range(5):
        line_logger("repeating").debug("client came", conn=number)
    assert len(kept.lines) == 5


def test_threads_may_log_at_the_same_time(kept: Kept, clock: Clock) -> None:
    def log(number: int) -> None:
        for count in range(200):
            clock.now_s += 1.0
            logging.getLogger("repeating").warning(f"kind {number} {count}")

    threads = [threading.Thread(target=log, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept.lines) == 800


def test_more_kinds_than_there_is_room_for_are_not_limited(kept: Kept) -> None:
    for number in range(KINDS):
        logging.getLogger("repeating").warning(f"kind {number}")
    for _ in range(3):
        logging.getLogger("repeating").warning("one more")
    assert kept.lines.count("WARNING one more") == 3
