"""Which connections want which change, and the wire items it becomes for them.

Connections with identical subscription sets, and one framing, form one Group: their sids were given in the same order,
so one encoding serves them all. The Directory finds the groups that a change may concern by channel and table, so that
a change costs nothing to those it does not.

Matching errs towards telling (W-SUB-4): what the change does not say counts as a match. A Gap is told to every
subscription its scope may concern, as an item with key null. A subscription that names columns is told keys made of
these (W-ROW-1), and null whenever the event does not say them.
On the path of an event: step 5, match.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Sequence

from pgcachewatch.models import Event, Gap, Scope
from pgcachewatch.protocol.codec import Item
from pgcachewatch.protocol.messages import OP_CODES
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.core.audience import Audience, Framing
from pgcachewatch_daemon.core.uses import Uses

ITEMS_PER_EVENT = 2_000  # more keys than this make the item of an event one with key null
# So many keys of one event are held against the subscriptions of one client, all together; above, none is told apart.
KEYS_LOOKED_AT = 200_000


class Wishes:
    """A subscription set, and what it is told of a change."""

    __slots__ = ("_by_channel", "has_stamps", "has_stream", "subscriptions")

    def __init__(self, subscriptions: tuple[Subscription, ...]) -> None:
        self.subscriptions = subscriptions
        self.has_stamps = any(subscription.has_stamps for subscription in subscriptions)
        self.has_stream = any(subscription.mode == "stream" for subscription in subscriptions)
        self._by_channel: dict[str, list[Subscription]] = {}
        for subscription in subscriptions:
            self._by_channel.setdefault(subscription.channel, []).append(subscription)

    def items_for(self, change: Event | Gap) -> list[Item]:  # hot path
        """What whoever wishes this is told of `change`; empty when it is none of their business."""
        items: list[Item] = []
        if isinstance(change, Gap):
            channel = change.scope.channel
            wanted = self.subscriptions if channel is None else self._by_channel.get(channel, ())
            for subscription in wanted:
                _add_gap(items, subscription, change)
        else:
            wanted = self._by_channel.get(change.channel, ())
            has_keys = (
                change.keys is None or len(change.keys) * len(wanted) <= KEYS_LOOKED_AT or _is_cheap(change, wanted)
            )
            for subscription in wanted:
                _add_event(items, subscription, change, has_keys=has_keys)
        return items


class Group(Wishes):
    """Connections with one subscription set. `cursor` is the sequence that all of them were last sent."""

    __slots__ = ("audience", "cursor")

    def __init__(self, subscriptions: tuple[Subscription, ...], *, audience: Audience, cursor: int) -> None:
        super().__init__(subscriptions)
        self.audience = audience
        self.cursor = cursor


def _is_cheap(event: Event, wanted: Sequence[Subscription]) -> bool:
    """True when the event's keys can be held against those of `wanted` that are for its table."""
    concerned = sum(subscription.table in (None, event.table) for subscription in wanted)
    return len(event.keys or ()) * concerned <= KEYS_LOOKED_AT


def _add_event(items: list[Item], subscription: Subscription, event: Event, *, has_keys: bool) -> None:
    operation = OP_CODES[event.operation]
    if (
        (subscription.table is not None and subscription.table != event.table)
        or not _may_equal(subscription.schema, event.schema_name)
        or (subscription.ops is not None and operation not in subscription.ops)
    ):
        return
    # Of which schema's rows is not said: theirs may be somebody else's to know, and any of ours may have changed.
    is_elsewhere = subscription.schema is not None and event.schema_name is None
    keys = told_keys(event, subscription.columns) if has_keys and not is_elsewhere else None
    if keys is not None and subscription.keys is not None:
        keys = tuple(key for key in keys if key in subscription.keys)
        if not keys:
            return
    if subscription.mode == "stream":
        items.append((subscription.sid, operation, None, _detail(event, has_keys=not is_elsewhere)))
    elif subscription.has_stamps and event.xid is not None:
        stamp: dict[str, object] = {"x": event.xid}
        told = (None,) if keys is None or len(keys) > ITEMS_PER_EVENT else keys
        items.extend((subscription.sid, operation, key, stamp) for key in told)
    elif keys is None or len(keys) > ITEMS_PER_EVENT:
        items.append((subscription.sid, operation, None))
    else:
        items.extend((subscription.sid, operation, key) for key in keys)


def told_keys(event: Event, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:  # hot path
    """The event's keys for a subscriber that tells rows apart by `columns`; None when it may be any row (W-ROW-1).

    Empty when the event, one of several of its statement, speaks of other things only.

    >>> at = "2030-01-01T00:00:00Z"
    >>> what = {"channel": "c", "table": "t", "operation": "update", "sent_at": at}
    >>> event = Event(**what, key=("a", "b"), columns=("tenant",), keys=('["1","2"]', "tenant=5"))
    >>> told_keys(event, ("b", "a")), told_keys(event, ("tenant",)), told_keys(event, ("a",))
    (('["2","1"]',), ('5',), None)
    """
    keys, key = event.keys, event.key
    if keys is None or columns == ():
        return None
    if columns is None or columns == key:
        return keys
    carried = event.columns or ()
    if len(columns) == 1 and columns[0] in carried:
        return _carried(keys, columns[0])
    if key is not None and len(columns) == len(key) > 1 and set(columns) == set(key):
        return _permuted(keys, [key.index(name) for name in columns], carried)
    return None


def _carried(keys: Sequence[str], name: str) -> tuple[str, ...] | None:
    """The texts of a carried column; None when it is NULL in one of the rows, which has no text."""
    if name in keys:
        return None
    beginning = f"{name}="
    return tuple(text[len(beginning) :] for text in keys if text.startswith(beginning))


def _permuted(keys: Sequence[str], places: Sequence[int], carried: Sequence[str]) -> tuple[str, ...] | None:
    """Keys of several columns in another order of these; None when one of them can not be read."""
    permuted: list[str] = []
    for text in keys:
        parts = _parts(text)
        if parts is not None and len(parts) == len(places):
            permuted.append(json.dumps([parts[place] for place in places], ensure_ascii=False, separators=(",", ":")))
        elif not any(text == name or text.startswith(f"{name}=") for name in carried):
            return None
    return tuple(permuted)


def _parts(text: str) -> list[str] | None:
    try:
        parts = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parts if isinstance(parts, list) and all(isinstance(part, str) for part in parts) else None


def _add_gap(items: list[Item], subscription: Subscription, gap: Gap) -> None:
    if gap.reason == "source_lost" and subscription.is_journalled:
        return  # what LISTEN missed is none of its business
    if not _may_equal(subscription.table, gap.scope.table) or not _may_equal(subscription.schema, gap.scope.schema):
        return
    if subscription.mode == "stream":
        detail: dict[str, object] = {"reason": gap.reason}
        if gap.scope.table is not None:
            detail["table"] = gap.scope.table
        items.append((subscription.sid, "*", None, detail))
    else:
        items.append((subscription.sid, "*", None))


def _detail(event: Event, *, has_keys: bool) -> dict[str, object]:
    """An event's own content for stream mode (W-EV-4); what is not known is left out."""
    detail: dict[str, object] = {"table": event.table, "sent_at": event.sent_at.isoformat()}
    if event.schema_name is not None:
        detail["schema"] = event.schema_name
    if event.keys is not None and has_keys:
        detail["keys"] = list(event.keys)
    if event.xid is not None:
        detail["xid"] = event.xid
    if event.id is not None:
        detail["id"] = event.id
    return detail


def _may_equal(wanted: str | None, told: str | None) -> bool:
    return wanted is None or told is None or wanted == told


Index = dict[Hashable, dict[Group, None]]


class Directory:
    """All groups, and the indexes that find those a change may concern. Each group uses its channels."""

    def __init__(self, uses: Uses) -> None:
        self._uses = uses
        self._groups: dict[tuple[tuple[Subscription, ...], Framing], Group] = {}
        self._by_table: Index = {}  # by (channel, table)
        self._by_channel: Index = {}  # by channel: groups that want the whole of it
        self._in_channel: Index = {}  # by channel: groups that want anything of it

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())

    def get(self, subscriptions: tuple[Subscription, ...], framing: Framing) -> Group | None:
        return self._groups.get((subscriptions, framing))

    def add(self, group: Group) -> None:
        self._groups[group.subscriptions, group.audience.framing] = group
        for index, key in self._places(group):
            index.setdefault(key, {})[group] = None
        for channel in _channels(group):
            self._uses.begin(channel)

    def remove(self, group: Group) -> None:
        """Forget a group without members."""
        del self._groups[group.subscriptions, group.audience.framing]
        for index, key in self._places(group):
            there = index[key]
            there.pop(group, None)
            if not there:
                del index[key]
        for channel in _channels(group):
            self._uses.end(channel)

    def concerned(self, change: Event | Gap) -> Iterable[Group]:  # hot path
        """The groups that `change` may concern."""
        if isinstance(change, Gap):
            return list(self._in_doubt(change.scope))
        by_table = self._by_table.get((change.channel, change.table))
        by_channel = self._by_channel.get(change.channel)
        if not by_table or not by_channel:
            return by_table or by_channel or ()
        return {**by_table, **by_channel}

    def _in_doubt(self, scope: Scope) -> Iterable[Group]:
        if scope.table is None:
            return self._groups.values() if scope.channel is None else self._in_channel.get(scope.channel, ())
        found: dict[Group, None] = {}
        for channel in self._in_channel if scope.channel is None else (scope.channel,):
            found.update(self._by_table.get((channel, scope.table), {}))
            found.update(self._by_channel.get(channel, {}))
        return found

    def _places(self, group: Group) -> Iterator[tuple[Index, Hashable]]:
        for channel in _channels(group):
            yield self._in_channel, channel
        for channel, table in {(one.channel, one.table): None for one in group.subscriptions}:
            if table is None:
                yield self._by_channel, channel
            else:
                yield self._by_table, (channel, table)


def _channels(group: Group) -> Iterable[str]:
    return dict.fromkeys(subscription.channel for subscription in group.subscriptions)
