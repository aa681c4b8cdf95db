"""Which subscriptions this client wants, who reads each, and since when each is continuous.

A reader is a cached function, a strategy or an event stream. Readers with the same wish share one subscription, so that
a thousand functions on ten tables cost ten. A subscription is live for its readers from the moment it was granted until
continuity breaks; a reader is live while all of its subscriptions are. What ran before that moment may have missed a
change nobody was told of, so a reader that becomes live starts from nothing.

Resume keeps continuity: a subscription that was granted on a connection stays live over a resumed one, because the
relay replays what it missed. One that was not granted yet, or was flushed, starts anew when it is granted.

Bound: SUBSCRIPTIONS_PER_CONNECTION of the protocol; the relay refuses more, and their readers then never store.
On the path of an event: step 9 and 10, between the session and the caches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pydantic

from pgcachewatch.core.dependencies import Dimension
from pgcachewatch.errors import ConfigurationError, PGCacheWatchError
from pgcachewatch.models import EVERYTHING, Gap, Scope
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.client_session import Change


class Reader(Protocol):
    """Who lives by subscriptions. Each call is synchronous, cheap, and raises nothing."""

    def changed(self, change: Change, sub: messages.Sub) -> None:
        """One change of `sub`."""

    def lost(self, gap: Gap) -> None:
        """Continuity broke for a scope that `gap` names."""

    def became_live(self) -> None:
        """From here on each change is told. What was read before may be outdated."""

    def went_dark(self) -> None:
        """From here on changes may go untold, until `became_live`."""

    def refused(self, error: PGCacheWatchError) -> None:
        """The relay will never say what this reader wants to know."""

    def stopped(self, error: PGCacheWatchError) -> None:
        """No relay is left to ask: nothing will be told any more."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a reader wants to be told. `columns` as in the message: by which a reader tells rows apart.

    `has_stamps`: it wants each change's transaction, too.
    """

    scope: Scope
    mode: messages.Mode = "invalidate"
    ops: tuple[messages.OpCode, ...] | None = None
    columns: tuple[str, ...] | None = None
    has_stamps: bool = False


@dataclass(slots=True, eq=False)
class Subscription:
    """One wish and the readers it serves. `is_live`: granted, and continuous since. `types` are those of its columns.

    `is_refused` for good, unless `may_retry`. `tells_each`: how often something changed matters, or by whom.
    """

    sub: messages.Sub
    wish: Wish
    is_live: bool = False
    is_refused: bool = False
    may_retry: bool = False
    types: tuple[str, ...] | None = None
    tells_each: bool = True
    readers: list[Reader] = field(default_factory=list)


class Subscriptions:
    """All of one client's subscriptions."""

    def __init__(self) -> None:
        self._by_id: dict[int, Subscription] = {}
        self._by_wish: dict[Wish, Subscription] = {}
        self._of_reader: dict[int, list[Subscription]] = {}  # by id(reader): readers need not be hashable
        self._last_id = 0

    def wanted(self) -> list[messages.Sub]:
        """What a hello must ask for."""
        return [subscription.sub for subscription in self._by_id.values() if not subscription.is_refused]

    def add(
        self,
        reader: Reader,
        scopes: Iterable[Scope],
        *,
        mode: messages.Mode = "invalidate",
        ops: Sequence[messages.OpCode] | None = None,
    ) -> list[messages.Sub]:
        """Serve `reader` with everything in `scopes`. Returns what has to be asked for in addition, if connected."""
        return self.add_wishes(reader, [Wish(scope, mode, tuple(ops) if ops else None) for scope in scopes])

    def add_wishes(self, reader: Reader, wishes: Sequence[Wish]) -> list[messages.Sub]:
        """The same for wishes of all kinds: the reader is live when each is granted.

        Raises ConfigurationError, and adds none of them, for what no relay could be asked for.
        """
        for wish in wishes:
            if wish not in self._by_wish:
                _message(1, wish)
        fresh: list[messages.Sub] = []
        mine = self._of_reader.setdefault(id(reader), [])
        for wish in wishes:
            subscription = self._by_wish.get(wish)
            if subscription is None or subscription.is_refused:
                subscription = self._new(wish)
                fresh.append(subscription.sub)
            if subscription not in mine:
                subscription.readers.append(reader)
                mine.append(subscription)
        if self.is_live(reader):
            reader.became_live()
        return fresh

    def remove(self, reader: Reader) -> list[int]:
        """Stop serving `reader`. Returns the ids of the subscriptions nobody reads any more."""
        ended: list[int] = []
        for subscription in self._of_reader.pop(id(reader), []):
            subscription.readers = [other for other in subscription.readers if other is not reader]
            if not subscription.readers:
                self._forget(subscription)
                ended.append(subscription.sub.id)
        return ended

    def is_live(self, reader: Reader) -> bool:
        """True when each of the reader's subscriptions is live; a reader without any is not."""
        mine = self._of_reader.get(id(reader), [])
        return bool(mine) and all(subscription.is_live for subscription in mine)

    def row_types(self, reader: Reader) -> dict[RowPlace, tuple[str, ...] | None]:
        """The types of the columns by which the reader tells rows apart; None where the relay did not say."""
        return {
            place: subscription.types
            for subscription in self._of_reader.get(id(reader), [])
            if (place := row_place(subscription.sub)) is not None
        }

    @property
    def is_answered(self) -> bool:
        """True when nothing that was asked for is still open."""
        return all(one.is_live or (one.is_refused and not one.may_retry) for one in self._by_id.values())

    # --- what the relay said

    def granted(self, identity: int, types: tuple[str, ...] | None = None) -> None:
        """Subok. One that stayed live over a resume has nothing new to say, unless a column changed its type."""
        subscription = self._by_id.get(identity)
        if subscription is None or (subscription.is_live and subscription.types == types):
            return
        if subscription.is_live:
            self.restart(identity)
        subscription.is_live, subscription.types = True, types
        for reader in list(subscription.readers):
            if self.is_live(reader):
                reader.became_live()

    def refused(self, identity: int, error: PGCacheWatchError, may_retry: bool) -> bool:
        """Err. False when no subscription has this id."""
        subscription = self._by_id.get(identity)
        if subscription is None:
            return False
        subscription.is_live, subscription.is_refused, subscription.may_retry = False, True, may_retry
        for reader in tuple(subscription.readers):
            reader.went_dark()
            if not may_retry:
                reader.refused(error)
        return True

    def restart(self, identity: int) -> None:
        """It is asked for without a replay: what was live is so no longer, until it is granted."""
        subscription = self._by_id.get(identity)
        if subscription is not None and subscription.is_live:
            subscription.is_live = False
            for reader in tuple(subscription.readers):
                reader.went_dark()

    def retry(self, identity: int) -> None:
        """Want a refused subscription again, under another id: what the relay makes of the old one is not known."""
        subscription = self._by_id.pop(identity, None)
        if subscription is not None:
            self._last_id += 1
            subscription.is_refused = subscription.may_retry = False
            subscription.sub = subscription.sub.model_copy(update={"id": self._last_id})
            self._by_id[self._last_id] = subscription

    def stop(self, error: PGCacheWatchError) -> None:
        """No relay is left: each reader hears it once."""
        for reader in self._readers(list(self._by_id.values())):
            reader.stopped(error)

    def changed(self, changes: Iterable[Change]) -> None:  # hot path
        """Tell the readers of each subscription what changed, in one step of the loop.

        Who only drops what he holds is told once of a row, or of a table, that changed several times: all of it was
        committed before this step, so whatever starts to run after the first time, in any thread, reads all of it.
        """
        told: set[tuple[int, str | None]] = set()
        for change in changes:
            subscription = self._by_id.get(change.id)
            if subscription is None:
                continue
            if not subscription.tells_each:
                place = (change.id, change.key)
                if place in told:
                    continue
                told.add(place)
            # A copy: a reader may be added or removed by what it is told.
            for reader in tuple(subscription.readers):
                reader.changed(change, subscription.sub)

    def lost(self, gap: Gap) -> None:
        """A gap: told to every reader with a subscription that the scope can meet, once."""
        met = [
            subscription
            for subscription in self._by_id.values()
            if gap.scope == EVERYTHING or gap.scope.covers(subscription.wish.scope)
        ]
        for reader in self._readers(met):
            reader.lost(gap)

    def all_dark(self) -> None:
        """The relay could not resume: nothing is live until it is granted again."""
        for subscription in self._by_id.values():
            subscription.is_live = False
        for reader in self._readers(list(self._by_id.values())):
            reader.went_dark()

    def _readers(self, subscriptions: Sequence[Subscription]) -> list[Reader]:
        """Who reads any of these, each once. A list: a reader may be removed by what it is told."""
        return list({id(reader): reader for one in subscriptions for reader in one.readers}.values())

    def _new(self, wish: Wish) -> Subscription:
        self._last_id += 1
        sub = _message(self._last_id, wish)
        subscription = Subscription(sub, wish, tells_each=wish.mode == "stream" or wish.has_stamps)
        self._by_id[sub.id] = self._by_wish[wish] = subscription
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        self._by_id.pop(subscription.sub.id, None)
        for wish in [wish for wish, known in self._by_wish.items() if known is subscription]:
            del self._by_wish[wish]


RowPlace = tuple[str | None, str | None, tuple[str, ...]]  # schema, table, columns


def row_place(sub: messages.Sub) -> RowPlace | None:
    """Whose rows a subscription tells apart, and by what; None when it does not."""
    return (sub.schema_name, sub.table, tuple(sub.columns)) if sub.columns else None


def dimension_place(dimension: Dimension) -> RowPlace:
    """The same of a dimension. Its table's name is exact, as no other is: see Row.

    >>> dimension_place(Dimension('public."Order.Lines"', ("id",)))
    ('public', 'Order.Lines', ('id',))
    """
    names = [text for text, _ in _parts(dimension.table)]
    if len(names) > 2:
        raise _too_many_parts(dimension.table, len(names))
    return (names[0] if len(names) == 2 else None, names[-1], dimension.columns)


def table_scopes(tables: Iterable[str], channels: Iterable[str]) -> list[Scope]:
    """Scopes for table names as a user writes them, on each channel; no table means the whole channel.

    >>> table_scopes(["public.orders"], ["c"])
    [Scope(channel='c', table='orders', schema='public', key=None)]
    """
    if isinstance(tables, str):
        raise ConfigurationError(f"tables must be a sequence of names, not the text {tables!r}; write [{tables!r}]")
    names: list[tuple[str | None, str | None]] = []
    for table in tables:
        names += spellings(table)
    return [
        Scope(channel=channel, table=table, schema=schema)
        for channel in channels
        for schema, table in (names or [(None, None)])
    ]


def spellings(name: str) -> list[tuple[str | None, str]]:
    """Schemas and tables a name can mean: `users`, `public.orders`, `"My Schema"."Order.Lines"`.

    A quoted part means what it says, with a doubled quote for one, as in PostgreSQL's manual, 4.1.1. An unquoted part
    with capitals may be SQL, which folds it, or a name copied from an ORM, which does not: both are meant, because to
    follow one table too many costs a few runs, and one too few serves stale values.

    >>> spellings('public."Order.Lines"')
    [('public', 'Order.Lines')]
    >>> spellings("Users")
    [(None, 'Users'), (None, 'users')]
    """
    parts = [_variants(part) for part in _parts(name)]
    if len(parts) > 2:
        raise _too_many_parts(name, len(parts))
    tables = parts[-1]
    schemas: list[str | None] = [*parts[0]] if len(parts) == 2 else [None]
    return [(schema, table) for schema in schemas for table in tables]


def _too_many_parts(name: str, count: int) -> ConfigurationError:
    return ConfigurationError(
        f"table name {name!r} has {count} parts; write table or schema.table, and quote a name that has a dot"
    )


_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^".]+))\s*(\.|$)')


def _parts(name: str) -> list[tuple[str, bool]]:
    """Each identifier of `name`, and whether it was quoted."""
    parts: list[tuple[str, bool]] = []
    at, is_last = 0, False
    while not is_last:
        found = _PART.match(name, at)
        quoted, plain = (found[1], (found[2] or "").strip()) if found else (None, "")
        if found is None or not (quoted or plain):
            raise ConfigurationError(
                f"table name {name!r} can not be read; write table or schema.table, quoted as in SQL"
            )
        parts.append((quoted.replace('""', '"'), True) if quoted else (plain, False))
        at, is_last = found.end(), not found[3]
    return parts


def _variants(part: tuple[str, bool]) -> list[str]:
    text, is_quoted = part
    return [text] if is_quoted or text == text.lower() else [text, text.lower()]


def _message(identity: int, wish: Wish) -> messages.Sub:
    """Raises ConfigurationError for what does not fit a message, such as a channel's name of 64 bytes."""
    scope = wish.scope
    fields = {
        "id": identity,
        "channel": scope.channel,
        "table": scope.table,
        "schema": scope.schema,
        "ops": list(wish.ops) if wish.ops else None,
        "columns": None if wish.columns is None else list(wish.columns),
        "mode": wish.mode,
        "stamps": wish.has_stamps or None,
    }
    try:
        return messages.Sub.model_validate(fields)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "subscription"
        value = str(fields.get(name))[:80]
        raise ConfigurationError(f"{name}={value!r} can not be asked for: {first['msg']}") from error
