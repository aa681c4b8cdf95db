"""What a look at the catalogue means for caches: which tables may have changed without an event, and what is new.

One look is compared with the one before. A table is in doubt when a write to it may raise no event, at each look while
that lasts and once more when it is over, since writes until then may have gone unseen; and when its rows came or went
by other ways than writes (drift.changes). A partition is in doubt under its root's name, under which it is read.
Pure, and slow for a database of many thousand tables: the shell runs it beside the event path.
Bound: more than DOUBTS tables in doubt are everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgcachewatch_daemon.sql.catalogue import Catalogue, Relation
from pgcachewatch_daemon.sql.coverage import installed_settings
from pgcachewatch_daemon.sql.drift import Finding, changes, family_settings, findings

DOUBTS = 200


@dataclass(frozen=True, slots=True)
class Doubt:
    """A table whose rows may have changed unseen. `channel`: the one that it notifies, when that is known."""

    schema: str
    table: str
    channel: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Assessment:
    """One look. `appeared` and `gone` are findings against the look before.

    `is_everything`: too many tables are in doubt, and `doubts` is empty. `retyped` names the tables whose key,
    carried columns or mode are not what they were.
    `distrusted` are (schema, name) of tables whose events speak of columns as they were when it was installed.
    """

    catalogue: Catalogue
    findings: tuple[Finding, ...] = ()
    appeared: tuple[Finding, ...] = ()
    gone: tuple[Finding, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    is_everything: bool = False
    retyped: frozenset[str] = frozenset()
    distrusted: frozenset[tuple[str, str]] = frozenset()


def assess(before: Assessment | None, catalogue: Catalogue) -> Assessment:
    """What `catalogue` says, after what was known."""
    # Most looks find nothing new, and generating each function to compare it takes a while.
    is_same = before is not None and before.catalogue == catalogue
    found = before.findings if before is not None and is_same else tuple(findings(catalogue))
    known = before.findings if before is not None else ()
    now, then = set(found), set(known)
    gone = tuple(one for one in known if one not in now)
    doubted: dict[tuple[str, str], tuple[Catalogue, Relation, str]] = {}
    for each in _doubted(before, catalogue, found, gone):
        doubted.setdefault((each[1].schema, each[1].name), each)
    is_everything = len(doubted) > DOUBTS
    return Assessment(
        catalogue,
        findings=found,
        appeared=tuple(one for one in found if one not in then),
        gone=gone,
        doubts=() if is_everything else tuple(_doubt(*each) for each in doubted.values()),
        is_everything=is_everything,
        retyped=frozenset() if before is None or is_same else _retyped(before.catalogue, catalogue),
        distrusted=frozenset(
            (reader.schema, reader.name)
            for finding in found
            if finding.kind == "key_changed"
            for reader in catalogue.readers(finding.oid)
        ),
    )


def _doubted(
    before: Assessment | None, catalogue: Catalogue, found: tuple[Finding, ...], gone: tuple[Finding, ...]
) -> Iterator[tuple[Catalogue, Relation, str]]:
    """Where a table was found, the table under the name it is read by, and why."""
    yield from _of_findings(catalogue, found, "")
    if before is not None:
        yield from _of_findings(catalogue, gone, "until now ")
        yield from _of_findings(before.catalogue, gone, "until now ")
        for change in changes(before.catalogue, catalogue):
            for known in (catalogue, before.catalogue):
                for relation in known.named(change.name):
                    if relation.schema == change.schema:
                        yield known, relation, change.reason


def _of_findings(
    catalogue: Catalogue, found: tuple[Finding, ...], when: str
) -> Iterator[tuple[Catalogue, Relation, str]]:
    for finding in found:
        if finding.may_lose_events and finding.oid in catalogue.relations:
            for reader in catalogue.readers(finding.oid):
                yield catalogue, reader, f"{when}{finding.detail}"


def _doubt(catalogue: Catalogue, relation: Relation, detail: str) -> Doubt:
    channel = family_settings(catalogue, catalogue.family(relation.oid)).channel
    return Doubt(relation.schema, relation.name, channel, detail)


def _retyped(before: Catalogue, after: Catalogue) -> frozenset[str]:
    return frozenset(
        new.name
        for oid, new in after.relations.items()
        if (old := before.relations.get(oid)) is None
        or (old.key, old.columns, _mode(before, old)) != (new.key, new.columns, _mode(after, new))
    )


def _mode(catalogue: Catalogue, relation: Relation) -> str | None:
    settings = installed_settings(catalogue, relation)
    return None if settings is None else settings.mode
