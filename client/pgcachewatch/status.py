"""`pgcachewatch status URL`: the state of a relay, as its page shows it.

In a terminal a table that is written anew each second, until `q` or Ctrl-C; elsewhere, and without the package rich,
plain lines once. Exit codes: 0 events flow, 1 they do not, or the relay can not be asked, 2 the command line can not
work.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from typing import IO, Any

from pgcachewatch.errors import ConfigurationError, ConnectionFailed, Refused
from pgcachewatch.remote import TOKEN_VARIABLE, Remote, add_remote_options, printable, remote_of

EXIT_OK, EXIT_NOT_READY, EXIT_COMMAND_LINE, EXIT_INTERRUPTED = 0, 1, 2, 130
PATH = "/v1/status"
WITHIN_S = 5.0
DOCUMENT_BYTES = 4 * 1024 * 1024
SENTENCE_BYTES = 2_000
NEEDED = (
    "ready",
    "node",
    "version",
    "uptime_s",
    "checks",
    "postgres",
    "counts",
    "history",
    "drift",
    "tables",
    "clients",
)

Document = dict[str, Any]  # Any: JSON


def status(arguments: Sequence[str]) -> int:
    """the state of a relay: events, clients, tables, and what fails"""
    options = _parser().parse_args(arguments)
    try:
        remote = remote_of(options)
        if not options.json and sys.stdout.isatty() and (shown := _show_live(remote)) is not None:
            return shown
        document = fetch(remote)
    except ConfigurationError as error:
        return _failed(str(error), EXIT_COMMAND_LINE)
    except ConnectionFailed as error:
        return _failed(str(error), EXIT_NOT_READY)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    _write((json.dumps(document, indent=2) if options.json else "\n".join(lines(document))) + "\n")
    return exit_code(document)


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on, as `head` does. The interpreter would complain when it flushes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_code(document: Document) -> int:
    return EXIT_OK if document["ready"] else EXIT_NOT_READY


def fetch(remote: Remote) -> Document:
    """The document. Raises Refused when the relay says no, ConnectionFailed when it can not be asked."""
    request = urllib.request.Request(remote.http + PATH, headers={"Accept": "application/json"})
    if remote.token:
        request.add_unredirected_header("Authorization", f"Bearer {remote.token}")
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects(), urllib.request.HTTPSHandler(context=remote.ssl)]
    if remote.is_loopback:
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=WITHIN_S) as answer:
            text = answer.read(DOCUMENT_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(remote, error.code, error.read(SENTENCE_BYTES)) from error
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ConnectionFailed(
            f"the relay at {remote.http} can not be reached ({reason}); is it running there?"
        ) from error
    return _read(remote, text)


def _read(remote: Remote, text: bytes) -> Document:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict) or "health" not in document:
        raise ConnectionFailed(f"{remote.http}{PATH} is no state of a relay; is the address another program's?")
    missing = [name for name in NEEDED if name not in document]
    if missing:
        version = printable(str(document.get("version", "unknown")))
        raise ConnectionFailed(
            f"the relay at {remote.http} is of version {version}, and its state has no {missing[0]!r}; "
            "ask it with a pgcachewatch of its own version"
        )
    return document


def _refusal(remote: Remote, code: int, text: bytes) -> Refused:
    sentence = printable(text.decode(errors="replace").strip())
    match code:
        case 401:
            remedy = "give one with --token-file or " + TOKEN_VARIABLE
            said = f"the relay at {remote.http} asks for a token ({sentence}); {remedy}"
            if remote.token:
                said = f"the relay at {remote.http} refused the token ({sentence})"
        case 403:
            said = f"the token may not see the relay's state ({sentence}); it needs the mode status"
        case 404:
            said = f"there is no state at {remote.http}{PATH} ({sentence})"
        case _:
            said = f"the relay at {remote.http} answered {code} ({sentence})"
    return Refused(said, code=code, may_retry=code >= 500)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A relay does not redirect, and a token is not for whoever is named by someone that does."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:  # Any: as in the class above
        return None


def lines(document: Document) -> Iterator[str]:
    """The document for people who read it as a text, or grep in it."""
    health, postgres, counts = document["health"], document["postgres"], document["counts"]
    yield f"{health['title']} (for {duration(health['since_s'])})"
    if health["advice"]:
        yield f"  {printable(health['advice'])}"
    node, up_for = printable(document["node"]), duration(document["uptime_s"])
    yield f"relay: {node}, version {document['version']}, up for {up_for}"
    yield f"postgresql: {postgres['version'] or 'unknown'} at {printable(postgres['server'])}, {postgres['mode']}"
    for check in document["checks"]:
        yield f"check: {check['name']} {_lasting(check)}"
    yield f"events: {counts['events']} read, {counts['gaps']} unreadable, {document['history']['events']} kept"
    clients = document["clients"]
    yield f"clients: {clients['total']}, {clients['invalidate']} cache and {clients['stream']} stream subscriptions"
    for client in clients["listed"]:
        yield f"client: {_name(client)} {client['state']}, {_behind(client)}, for {duration(client['connected_s'])}"
    for consumer in consumers(document):
        yield f"consumer: {printable(consumer['name'])} {_standing(consumer)}"
    for table in document["tables"]["listed"]:
        yield f"table: {_place(table)} {table['operation']} {duration(table['age_s'])} ago"
    for finding in document["drift"]["listed"]:
        yield f"drift: {printable(finding['table'])}: {printable(finding['detail'])}; {printable(finding['remedy'])}"


def _lasting(check: Document) -> str:
    """Of the loopback the age is told: it is proven anew all the time."""
    if check["name"] == "loopback":
        return f"ok, {check['since_s']:.1f} s old" if check["ok"] else f"failing, none for {duration(check['since_s'])}"
    return f"{'ok' if check['ok'] else 'failing'} for {duration(check['since_s'])}"


def _name(client: Document) -> str:
    return printable(" ".join(filter(None, (client["name"], client["subject"], client["peer"]))))


def _behind(client: Document) -> str:
    return f"{client['behind'] or 0} events and {client['pending_bytes']} bytes behind"


def consumers(document: Document) -> Sequence[Document]:
    """The durable consumers that are listed; a relay of an older version names none."""
    listed: Sequence[Document] = document.get("consumers", {}).get("listed", ())
    return listed


def _standing(consumer: Document) -> str:
    pending, lag_s = consumer["pending"], consumer["lag_s"]
    jobs = "jobs not known here" if pending is None else f"{_plural(pending, 'job')} not acknowledged"
    behind = f"{duration(lag_s)} behind" if lag_s else "nothing waits"
    return f"{_plural(consumer['clients'], 'client')} here, {jobs}, {behind}"


def _plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _place(table: Document) -> str:
    return printable(f"{table['schema']}.{table['table']}" if table["schema"] else table["table"])


def duration(seconds: float) -> str:
    """For people.

    >>> duration(0.2), duration(75), duration(90_000)
    ('0 s', '1 min 15 s', '1 d 1 h')
    """
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"


def _show_live(remote: Remote) -> int | None:
    """The table, until somebody leaves it; None when there is nothing to draw it with."""
    try:
        from pgcachewatch.status_table import watch
    except ImportError:
        return None
    return watch(lambda: fetch(remote))


def _failed(text: str, code: int) -> int:
    sys.stderr.write(f"pgcachewatch status: {text}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pgcachewatch status",
        description="The state of a relay. Without a URL: which tables of a database are watched, see --pg-dsn.",
        allow_abbrev=False,
    )
    add_remote_options(parser)
    parser.add_argument("--json", action="store_true", help="the whole document, for programs")
    return parser
