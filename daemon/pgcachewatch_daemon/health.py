"""The conditions of readiness, and what they mean in a sentence for people.

`/readyz`, the page at `/` and `pgcachewatch status URL` all say what is said here, so that nobody has to know the names
of checks to see which part fails, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pgcachewatch_daemon.io.http import Check
from pgcachewatch_daemon.io.postgres import SourceStats

HealthState = Literal["flowing", "starting", "lost", "unproven", "draining"]

CACHES = (
    "Clients stop trusting their caches once their staleness bound is over, and read from the database. "
    "The relay tries again by itself."
)
RESTART = "It was there before: look whether the server runs, and what its log says."
REASONS = {
    "connection_lost": "the connection ended: a restart, a failover, or the network",
    "loopback_overdue": "the server answered too late, or not at all",
    "handler_failed": "a notification could not be handled; the relay's log has the traceback",
    "journal_lost": "rows of the journal were taken away before they were read",
    "journal_installed": "a journal was installed, and is read from now on",
    "stopped": "the relay is stopping",
    "start": "the relay has just started",
}


class Proven(Protocol):
    """A source of changes, as far as it can be asked how it is."""

    is_up: bool
    since_s: float

    @property
    def proof_limit_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Health:
    """How it is, in words, and for how long. `advice`: what it means and what to do, empty when all is well."""

    state: HealthState
    title: str
    since_s: float
    advice: str = ""


def checks(
    source: Proven,
    *,
    proven_ms: float | None,
    loss: str,
    began_s: float,
    now_s: float,
    draining_since_s: float | None = None,
) -> Sequence[Check]:
    """The conditions of readiness. `proven_ms`: when the last loopback that came back was sent."""
    is_accepting = draining_since_s is None
    age_s = now_s - proven_ms / 1_000 if proven_ms is not None else now_s - source.since_s
    is_proven = source.is_up and proven_ms is not None and age_s <= source.proof_limit_s
    return (
        Check("source", source.is_up, now_s - source.since_s, "" if source.is_up else loss),
        Check("loopback", is_proven, age_s, f"age in seconds; the limit is {source.proof_limit_s:g}"),
        Check("accepting", is_accepting, now_s - (began_s if draining_since_s is None else draining_since_s)),
    )


def describe(found: Sequence[Check], stats: SourceStats) -> Health:
    """The same in words. `found` is of `checks`.

    >>> found = [Check("source", True, 5.0), Check("loopback", True, 0.1), Check("accepting", True, 0.0)]
    >>> describe(found, SourceStats()).title
    'Events are flowing'
    """
    source, loopback, accepting = found
    if not accepting.is_passing:
        text = "It was told to stop, lets nobody in, and sends its clients to the next relay."
        return Health("draining", "The relay is going away", accepting.since_s, text)
    if not source.is_passing:
        state: HealthState = "lost" if stats.losses else "starting"
        title = "PostgreSQL is lost" if stats.losses else "PostgreSQL was not reached yet"
        why = stats.problem or REASONS.get(source.detail, source.detail)
        remedy = f"{RESTART} {CACHES}" if stats.losses else CACHES
        return Health(state, title, source.since_s, f"{why[:1].upper()}{why[1:]}. {remedy}")
    if not loopback.is_passing:
        text = "The connection stands, but the relay's own notification does not come back through it. " + CACHES
        return Health("unproven", "Events are not proven to flow", loopback.since_s, text)
    return Health("flowing", "Events are flowing", source.since_s)
