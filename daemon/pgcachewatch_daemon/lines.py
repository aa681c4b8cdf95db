"""Log lines: a few constant words that say what happened, and the facts as fields beside them.

    logger = line_logger(__name__)
    logger.info("source up", server="db:5432", channels=3)

A person reads `source up server=db:5432 channels=3`, a machine one JSON object per line. The words never hold a value,
so that lines can be counted, searched and limited by them. Values are quoted where they would break the line: nobody
who may choose a channel's name can forge a line of the log. Whatever looks like a password or a token is masked.
The lines stay records of `logging` until the end: handlers, levels and other people's tools work on them as usual.
"""

from __future__ import annotations

import datetime
import json
import logging
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

OUTPUT_FIELDS = ("exc_info", "stack_info")  # of the record, and no facts
VALUE_LENGTH = 1_000
MASK = "***"
SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(://[^\s/:@]*):[^\s/@]+@"), rf"\1:{MASK}@"),
    (
        re.compile(r"(?i)\b(bearer|password=|passwd=|token=|secret=)(\s*)(?:\"[^\"]*\"?|'[^']*'?|[^\s\"',;&]+)"),
        rf"\1\2{MASK}",
    ),
    (re.compile(r"\beyJ[\w-]{4,}\.[\w-]+\.[\w-]*"), MASK),
)
SECRET_NAMES = {"token", "secret", "password", "passwd"}
# What ends a line, steers a terminal, or turns the order of what a person reads; and halves of surrogate pairs.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
BARE = re.compile(rf"[^\s\"'=\\{UNPRINTABLE.pattern[1:-1]}]+")
TRACE_INDENT = "    "

# Any: structlog's own types for what is bound and said
Fields = dict[str, Any]


class Line(Fields):
    """What a logger was told: `event`, and the fields in their order. As a text, `key=value`.

    >>> str(Line(event="source up", server="db:5432", note="at last", is_new=True))
    'source up server=db:5432 note="at last" is_new=true'
    """

    def __str__(self) -> str:
        facts = [f"{name}={_shown(_told(name, value))}" for name, value in self.items() if name != "event"]
        return " ".join([str(self["event"]), *facts])


def line_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module. What is said through it becomes a record of `logging.getLogger(name)`.

    Needs no set-up: without one, as in tests, `logging` does with its records what it does with any.
    """
    bound: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, _as_record],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return bound


def _as_record(logger: WrappedLogger, method: str, said: EventDict) -> tuple[tuple[Line], Fields]:
    output = {name: said.pop(name) for name in OUTPUT_FIELDS if name in said}
    return (Line(event=said.pop("event"), **said),), output


class LineFormatter(logging.Formatter):
    """One line per record; with `is_json` one object, of which timestamp, level, event and logger are always there.

    `worker` is the number of the worker that writes, 0 for a relay of one process or for the primary.
    """

    def __init__(self, *, is_json: bool = False, worker: int = 0) -> None:
        super().__init__()
        self._render: Callable[[logging.LogRecord, Line], str] = self._json if is_json else self._text
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        line = record.msg if isinstance(record.msg, Line) else Line(event=printable(mask(record.getMessage())))
        return self._render(record, line)

    def _text(self, record: logging.LogRecord, line: Line) -> str:
        who = f" worker={self._worker}" if self._worker else ""
        text = f"{_timestamp(record)} level={record.levelname}{who} {line}"
        trace = self._trace(record)
        # Indented: what an exception quotes can not be taken for a line of the log.
        return f"{text}\n{textwrap.indent(trace, TRACE_INDENT)}" if trace else text

    def _json(self, record: logging.LogRecord, line: Line) -> str:
        content: Fields = {"timestamp": _timestamp(record), "level": record.levelname.lower(), "event": line["event"]}
        if self._worker:
            content["worker"] = self._worker
        content |= {name: _told(name, value) for name, value in line.items() if name not in content}
        content["logger"] = record.name
        trace = self._trace(record)
        if trace:
            content["exception"] = trace
        return printable(json.dumps(content, ensure_ascii=False))  # such letters are in texts only, and escaped alike

    def _trace(self, record: logging.LogRecord) -> str:
        traced = self.formatException(record.exc_info) if record.exc_info else ""
        whole = mask("\n".join(part for part in (traced, record.stack_info or "") if part))
        return "\n".join(printable(line) for line in whole.split("\n"))


def mask(text: str) -> str:
    """The text without what looks like a password or a token.

    >>> mask("postgresql://relay:hunter2@db/app can not be reached")
    'postgresql://relay:***@db/app can not be reached'
    """
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.6g}"
        case _:
            text = str(value)
            return text if BARE.fullmatch(text) else printable(json.dumps(text, ensure_ascii=False))


def _told(name: str, value: Any) -> Any:  # Any: whatever a field may be
    """The value as it may be seen. Masked before it is quoted: a mask could else take the end of the quotes."""
    if name in SECRET_NAMES:
        return MASK
    match value:
        case bool() | int() | float() | None:
            return value
        case Mapping():
            return {str(key): _told(str(key), inner) for key, inner in value.items()}
        case list() | tuple():
            return [_told("", inner) for inner in value]
        case _:
            text = mask(str(value))
            return f"{text[:VALUE_LENGTH]}..." if len(text) > VALUE_LENGTH else text


def printable(text: str) -> str:
    """The text as one line, with nothing in it that a terminal would obey.

    >>> printable("users\\x1b[2J")
    'users\\\\u001b[2J'
    """
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
