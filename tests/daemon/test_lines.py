"""How log lines look, and what never stands in one."""

from __future__ import annotations

import json
import logging
import re
import sys
from types import TracebackType

import pytest

from pgcachewatch_daemon.lines import VALUE_LENGTH, Line, LineFormatter, line_logger, mask


def record(message: object, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    trace: TracebackType | None = error.__traceback__ if error is not None else None
    raised = (type(error), error, trace) if error is not None else None
    made = logging.LogRecord("pgcachewatch_daemon.x", logging.WARNING, "x.py", 1, message, args, raised)
    made.created = 1_900_000_000.25
    return made


def test_a_terminal_shows_words_and_fields() -> None:
    line = LineFormatter().format(record(Line(event="source lost", reason="overdue", age_s=2.5, tries=3)))
    assert line == "2030-03-17T17:46:40.250Z level=WARNING source lost reason=overdue age_s=2.5 tries=3"


def test_a_container_shows_one_object_per_line() -> None:
    line = LineFormatter(is_json=True, worker=2).format(record(Line(event="source lost", reason="x\ny", where={1})))
    assert json.loads(line) == {
        "timestamp": "2030-03-17T17:46:40.250Z",
        "level": "warning",
        "event": "source lost",
        "worker": 2,
        "reason": "x\ny",
        "where": "{1}",
        "logger": "pgcachewatch_daemon.x",
    }
    assert "\n" not in line


def test_lines_of_other_libraries_have_the_same_form() -> None:
    line = LineFormatter(is_json=True).format(record("took %d s", 3))
    assert json.loads(line)["event"] == "took 3 s"
    assert LineFormatter().format(record("took %d s", 3)).endswith("level=WARNING took 3 s")


@pytest.mark.parametrize("is_json", [True, False])
@pytest.mark.parametrize(
    "value",
    ["a\n2030 level=ERROR all is lost", "a\r\x1b[2Jb", "a\u2028b", 'a" level=x "', "a\x9b2Jb", "a\u202eb", "a\ud800b"],
)
def test_no_value_can_forge_a_line(value: str, is_json: bool) -> None:
    formatter = LineFormatter(is_json=is_json)
    structured = formatter.format(record(Line(event="notification unreadable", channel=value)))
    foreign = formatter.format(record("unreadable %s", value))
    assert len(foreign.split("\n")) == len(structured.split("\n")) == 1
    assert (structured + foreign).isprintable()
    if is_json:
        assert json.loads(structured)["channel"] == value
    else:
        assert structured.endswith(f"channel={json.dumps(value)}")


@pytest.mark.parametrize("is_json", [True, False])
def test_a_traceback_is_part_of_the_line(is_json: bool) -> None:
    try:
        raise RuntimeError("planted")
    except RuntimeError as error:
        line = LineFormatter(is_json=is_json).format(record(Line(event="link failed"), error=error))
    assert "RuntimeError: planted" in (json.loads(line)["exception"] if is_json else line)


@pytest.mark.parametrize("is_json", [True, False])
def test_what_an_exception_quotes_is_no_line_and_steers_no_terminal(is_json: bool) -> None:
    error = ValueError("bad\n2030-01-01T00:00:00.000Z level=ERROR forged\r\x1b[2J\x9b2J")
    first, *others = LineFormatter(is_json=is_json).format(record(Line(event="it failed"), error=error)).split("\n")

    assert "it failed" in first
    assert all(line.startswith("    ") for line in others)
    assert all(line.isprintable() for line in (first, *others))


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://relay:hunter2@db:5432/app",
        "Authorization: Bearer hunter2.x-y_z",
        "host=db password=hunter2 user=x",
        "host=db password='of the hunter2' user=x",
        'tokens: secret="hunter2"',
        "token eyJhbGciOiJub25lIn0.eyJzdWIiOiJodW50ZXIyIn0.hunter2 refused",
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str) -> None:
    for formatter in (LineFormatter(), LineFormatter(is_json=True)):
        for made in (record(Line(event="it failed", detail=text)), record(text), record("x", error=ValueError(text))):
            line = formatter.format(made)
            assert "hunter2" not in line
            assert "***" in line
    assert mask("nothing secret@here://") == "nothing secret@here://"


@pytest.mark.parametrize(
    "name", ['token=x" level=ERROR forged=1', 'bearer \\" z', 'secret="', 'x://u:p"@ z=1', "token=\\"]
)
def test_a_mask_ends_no_quotes_so_that_nobody_forges_a_field(name: str) -> None:
    made = record(Line(event="said", channel=name))

    (field,) = re.findall(r' channel=("(?:[^"\\]|\\.)*"|[^ "]+)$', LineFormatter().format(made))
    assert "***" in field
    assert "***" in json.loads(LineFormatter(is_json=True).format(made))["channel"]


def test_a_field_that_is_called_a_secret_is_masked_whatever_it_holds() -> None:
    made = record(Line(event="said", token="abc def", inner={"password": "x", "list": ["token=y"]}))

    assert "abc" not in LineFormatter().format(made)
    told = json.loads(LineFormatter(is_json=True).format(made))
    assert (told["token"], told["inner"]) == ("***", {"password": "***", "list": ["token=***"]})


def test_a_value_has_a_limit() -> None:
    for formatter in (LineFormatter(), LineFormatter(is_json=True)):
        assert len(formatter.format(record(Line(event="x", detail="y" * 100_000)))) < VALUE_LENGTH + 200


def test_a_logger_needs_no_set_up_and_keeps_levels_and_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    logger = line_logger("pgcachewatch_daemon.somewhere")
    caplog.set_level(logging.INFO)
    logger.debug("too little")
    logger.bind(conn=7).info("client came", peer="::1")
    try:
        raise RuntimeError("planted")
    except RuntimeError:
        logger.exception("client failed", conn=7)
    assert caplog.messages == ["client came conn=7 peer=::1", "client failed conn=7"]
    assert [each.name for each in caplog.records] == ["pgcachewatch_daemon.somewhere"] * 2
    assert "planted" in caplog.text
    assert sys.exc_info() == (None, None, None)
