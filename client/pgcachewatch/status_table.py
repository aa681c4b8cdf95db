"""The live table of `pgcachewatch status URL`, drawn with rich, which this module alone imports.

The state is asked each second. A relay that does not answer is shown as such and asked again; one that refuses ends it.
`q`, Ctrl-C and the end of the input leave it; the exit code is that of the state shown last.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pgcachewatch.errors import ConnectionFailed, Refused
from pgcachewatch.remote import printable
from pgcachewatch.status import EXIT_NOT_READY, Document, consumers, duration, exit_code

EVERY_S = 1.0
LISTED = 15
SLOW = ("slow", "conflating")


def watch(fetch: Callable[[], Document], console: Console | None = None) -> int:
    """Draw until somebody leaves; returns the exit code. Raises Refused, and ConnectionFailed of the first attempt."""
    document = fetch()
    before: Document | None = None
    code = exit_code(document)
    with (
        _keys() as next_key,
        Live(draw(document, None), console=console, auto_refresh=False, screen=True) as live,
        contextlib.suppress(KeyboardInterrupt),
    ):
        live.refresh()
        while next_key(EVERY_S) not in ("q", "\x03", ""):
            try:
                before, document = document, fetch()
            except Refused:
                raise
            except ConnectionFailed as error:
                code = EXIT_NOT_READY
                live.update(draw_silent(document, str(error)), refresh=True)
                continue
            code = exit_code(document)
            live.update(draw(document, before), refresh=True)
    return code


def draw(document: Document, before: Document | None) -> Group:
    """All of it. `before`: the document of a moment ago, for what is per second."""
    return _below([_banner(document), _figures(document, before), *_lists(document)])


def draw_silent(document: Document, problem: str) -> Group:
    """What is not known any more, below why: nothing in it says that all is well."""
    then = Text("What it said last:", style="dim")
    return _below([Text(f"✗ {problem}", style="bold red"), then, *_lists(document)])


def _below(parts: Sequence[Text | Table]) -> Group:
    spaced: list[Text | Table] = [each for part in parts for each in (part, Text())]
    return Group(*spaced)


def _lists(document: Document) -> list[Table]:
    found = [_consumers(document)] if consumers(document) else []
    return [_clients(document), *found, _tables(document)]


def _banner(document: Document) -> Text:
    health, postgres = document["health"], document["postgres"]
    is_good = document["ready"]
    style = "bold green" if is_good else "bold red"
    text = Text(f"{'✓' if is_good else '✗'} {health['title']}", style=style)
    text.append(f" for {duration(health['since_s'])}", style="not bold default")
    if health["advice"]:
        text.append(f"\n{printable(health['advice'])}", style="not bold default")
    where = f"\n{printable(document['node'])} {document['version']} · PostgreSQL {postgres['version']}"
    text.append(f"{where} at {printable(postgres['server'])} · {postgres['mode']}", style="dim not bold default")
    return text


def _figures(document: Document, before: Document | None) -> Table:
    table = Table.grid(padding=(0, 3))
    counts = document["counts"]
    cells = [
        ("events/s", _rate(document, before, "events")),
        ("frames/s", _rate(document, before, "frames")),
        ("clients", str(document["clients"]["total"])),
        ("caches", str(document["clients"]["invalidate"])),
        ("streams", str(document["clients"]["stream"])),
        ("kept", str(document["history"]["events"])),
        ("losses", str(document["postgres"]["losses"])),
        ("conflations", str(counts["conflations"])),
        ("drift", str(document["drift"]["findings"])),
    ]
    table.add_row(*(Text(name, style="dim") for name, _ in cells))
    table.add_row(*(Text(value, style="bold") for _, value in cells))
    return table


def _rate(document: Document, before: Document | None, name: str) -> str:
    passed_s = 0.0 if before is None else document["uptime_s"] - before["uptime_s"]
    if before is None or passed_s <= 0:
        return "-"
    return f"{max(0.0, (document['counts'][name] - before['counts'][name]) / passed_s):.0f}"


def _clients(document: Document) -> Table:
    table = _table("client", "state", "behind", "caches", "streams", "connected")
    listed = document["clients"]["listed"]
    for client in listed[:LISTED]:
        name = printable(" ".join(filter(None, (client["name"] or "-", client["subject"], client["peer"]))))
        state = Text(client["state"], style="bold yellow" if client["state"] in SLOW else "green")
        counts = (str(client["behind"] or 0), str(client["invalidate"]), str(client["stream"]))
        table.add_row(Text(name), state, *counts, duration(client["connected_s"]))
    _more(table, document["clients"]["total"] - LISTED)
    return table


def _consumers(document: Document) -> Table:
    table = _table("durable consumer", "clients here", "not acknowledged", "oldest")
    listed = consumers(document)
    for consumer in listed[:LISTED]:
        pending, lag_s = consumer["pending"], consumer["lag_s"]
        jobs = "not known here" if pending is None else str(pending)
        oldest = duration(lag_s) if lag_s else "nothing waits"
        table.add_row(Text(printable(consumer["name"])), str(consumer["clients"]), jobs, oldest)
    _more(table, document["consumers"]["total"] - LISTED)
    return table


def _tables(document: Document) -> Table:
    table = _table("table", "last event", "ago", "per second")
    for one in document["tables"]["listed"][:LISTED]:
        place = printable(f"{one['schema']}.{one['table']}" if one["schema"] else one["table"])
        table.add_row(Text(place), one["operation"], duration(one["age_s"]), f"{one['recent'] / 10:.1f}")
    _more(table, document["tables"]["total"] - LISTED)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    for place, name in enumerate(columns):
        table.add_column(name, ratio=2 if place == 0 else 1, no_wrap=True, overflow="ellipsis")
    return table


def _more(table: Table, count: int) -> None:
    if count > 0:
        table.add_row(Text(f"and {count} more", style="dim"))


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """A function that waits so many seconds for a key: None when there was none, empty at the end of the input."""
    if not sys.stdin.isatty() or os.name != "posix":
        yield _sleep
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    was: list[Any] = termios.tcgetattr(descriptor)  # Any: as termios has it

    def wait(seconds: float) -> str | None:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return os.read(descriptor, 1).decode(errors="replace") if ready else None

    tty.setcbreak(descriptor)
    try:
        yield wait
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, was)


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
