"""The log lines of the relay and of its workers, and the loop they run on."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import uvloop

from pgcachewatch_daemon.process import log_to_stderr, loop_factory
from pgcachewatch_daemon.repeats import LINES


@pytest.fixture(autouse=True)
def _root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(("number", "who"), [(0, ""), (2, " worker=2")])
def test_a_line_names_its_worker(capsys: pytest.CaptureFixture[str], number: int, who: str) -> None:
    log_to_stderr("INFO", worker=number, log_format="text")
    logging.getLogger("x").info("source up channels=%d", 3)
    logging.getLogger("x").debug("too little")
    line = capsys.readouterr().err
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\dT[\d:]{{8}}\.\d{{3}}Z level=INFO{who} source up channels=3\n", line)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_auto_is_json_where_nobody_reads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    log_to_stderr("INFO")
    logging.getLogger("x").info("source up")
    assert capsys.readouterr().err.startswith("2" if is_terminal else '{"timestamp": "2')


def test_a_flood_of_equal_lines_is_cut_short_and_the_end_of_the_process_says_by_how_many(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_to_stderr("INFO", log_format="text")
    for _ in range(100):
        logging.getLogger("x").info("again")
    assert capsys.readouterr().err.count("again") == LINES
    logging.getLogger().handlers[0].close()
    assert f"again suppressed={100 - LINES}" in capsys.readouterr().err


def test_uvloop_is_taken_where_it_is() -> None:
    assert loop_factory() is uvloop.new_event_loop


@pytest.mark.skipif(os.name != "posix", reason="a watchdog ends a process by a signal")
def test_who_is_ended_by_a_watchdog_leaves_where_it_was() -> None:
    program = "import os; from pgcachewatch_daemon.process import leave_a_trace; leave_a_trace(); os.abort()"

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert ended.returncode == -signal.SIGABRT
    assert "most recent call first" in ended.stderr
