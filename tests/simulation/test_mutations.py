"""The simulation can fail: each planted bug, one rule of the design taken away, is caught by some early seed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pgcachewatch.aio.watch import CacheReader, Watch
from pgcachewatch.core.dependencies import RowKey
from pgcachewatch.core.row_index import RowIndex
from pgcachewatch.core.store import DEAD, Entry, Fill, Store
from pgcachewatch.models import Position
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.client_session import Advance, ClientSession, ClockSample, Delivery, Flush, Opened
from pgcachewatch_daemon.core.audience import Subscriber
from pgcachewatch_daemon.core.history import History, Replay, TooOld
from pgcachewatch_daemon.core.loopback import Ignored, Loopback, LoopbackResult
from pgcachewatch_daemon.core.outbox import Conflation
from pgcachewatch_daemon.core.reach import Reach
from tests.simulation import relay, world
from tests.simulation.database import LOOPBACK_CHANNEL, Database, ListenSession
from tests.simulation.oracle import Violation

WITHIN_SEEDS = 10_000

Plant = Callable[[pytest.MonkeyPatch], None]


def no_fill_token(patch: pytest.MonkeyPatch) -> None:
    """A result is stored although something was invalidated while it ran."""

    def finish(store: Store[object, object], fill: Fill[object], value: object, **_: object) -> bool:
        entry = store.entries.setdefault(fill.key, Entry(fill.key))
        if fill.key not in store._order:
            store._order.append(fill.key)
        store.abandon(fill)
        entry.put(value, store.trust.generation, store.generation)
        return True

    patch.setattr(Store, "finish", finish)


def stale_joiner(patch: pytest.MonkeyPatch) -> None:
    """A call joins a fill that an event has met."""
    patch.setattr(Store, "current", lambda store, key: store._fills.get(key))


def overtaken_entry(patch: pytest.MonkeyPatch) -> None:
    """A run that is not stored leaves an older entry in place."""
    patch.setattr(Store, "overtake", lambda store, key: None)


def no_flush_on_epoch_change(patch: pytest.MonkeyPatch) -> None:
    """A welcome that did not resume is taken for one that did."""

    def on_welcome(session: ClientSession, welcome: messages.Welcome, out: list[Delivery]) -> None:
        session.cursor = Position(welcome.e, session.cursor.seq if welcome.resumed and session.cursor else welcome.s)
        out += [Opened(True, welcome.node, welcome.hb_ms / 1000), ClockSample(session._hello_at_s, welcome.now)]

    patch.setattr(ClientSession, "_welcome", on_welcome)


def no_flush_on_reset(patch: pytest.MonkeyPatch) -> None:
    """A reset moves the cursor and flushes nothing."""

    def on_reset(session: ClientSession, reset: messages.Reset, out: list[Delivery]) -> None:
        session.cursor = Position(reset.e, reset.s)
        out.append(Advance(session.cursor))

    patch.setattr(ClientSession, "_reset", on_reset)


def advance_before_apply(patch: pytest.MonkeyPatch) -> None:
    """The position moves at once, what it stands for is dropped a moment later."""
    apply = Watch.apply

    def late(watch: Watch, delivery: Delivery) -> None:
        if isinstance(delivery, Advance | ClockSample | Opened | Flush):
            apply(watch, delivery)
        else:
            asyncio.get_running_loop().call_later(0.02, apply, watch, delivery)

    patch.setattr(Watch, "apply", late)


def lease_from_wall_clock(patch: pytest.MonkeyPatch) -> None:
    """The client's clock is one that people set."""
    patch.setattr(world.World, "clock", lambda self: self.loop.time() + self.wall_offset_s)


def acknowledged_before_listen(patch: pytest.MonkeyPatch) -> None:
    """The relay counts itself live when it has asked for LISTEN, not when it listens."""

    def listen(database: Database, notified: Callable[[str, str], None], lost: Callable[[], None]) -> ListenSession:
        if not database.is_up:
            raise OSError("connection refused")
        session = ListenSession(database, notified, lost)
        asyncio.get_running_loop().call_later(0.1, database.sessions.setdefault, session, None)
        # Its own notification comes back all the same, as for a relay that does not wait for LISTEN.
        patch.setattr(session, "notify", lambda payload: session.deliver(LOOPBACK_CHANNEL, payload))
        return session

    patch.setattr(Database, "listen", listen)


def lost_last_of_conflated(patch: pytest.MonkeyPatch) -> None:
    """A conflated set is one item short."""
    items = Conflation.items
    patch.setattr(Conflation, "items", lambda conflation: items(conflation)[:-1])


def resume_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """A replay begins one change too late."""
    since = History.since

    def late(history: History, seq: int) -> Replay | TooOld:
        answer = since(history, seq)
        return Replay(answer.entries[1:]) if isinstance(answer, Replay) else answer

    patch.setattr(History, "since", late)


def hole_not_told(patch: pytest.MonkeyPatch) -> None:
    """Whoever resumes is not told that nobody listened to its channel for a while."""
    patch.setattr(Reach, "is_whole", lambda *_, **__: True)


def proof_from_the_return(patch: pytest.MonkeyPatch) -> None:
    """A mark claims the instant its loopback came back instead of the one it started at."""
    returned = Loopback.returned

    def late(loopback: Loopback, nonce: str) -> LoopbackResult | Ignored:
        result = returned(loopback, nonce)
        if isinstance(result, Ignored):
            return result
        return LoopbackResult(result.as_of_ms + 1_000.0, result.barriers)

    patch.setattr(Loopback, "returned", late)


def barrier_not_behind_a_loopback(patch: pytest.MonkeyPatch) -> None:
    """A barrier is answered at once, with what happens to have been read."""

    def at_once(self: relay.SimulatedRelay, subscriber: Subscriber, identity: int) -> None:
        self.hub.barrier_passed(subscriber, identity)

    patch.setattr(relay.SimulatedRelay, "barrier", at_once)


def row_change_misses_running_fills(patch: pytest.MonkeyPatch) -> None:
    """A change of a row drops the entry and leaves the fill that runs."""

    def forget_row(store: Store[object, object], row: RowKey, xid: int | None = None) -> None:
        for key in store._rows.take(row):
            entry = store.lookup(key)
            if entry is not None:
                entry.generation = DEAD

    patch.setattr(Store, "forget_row", forget_row)


def late_rows_taken_for_unchanged(patch: pytest.MonkeyPatch) -> None:
    """A result that tells its own rows is stored although one of them changed while it ran."""
    patch.setattr(RowIndex, "is_untouched", lambda index, rows, *, since: True)


def rows_of_one_dimension_only(patch: pytest.MonkeyPatch) -> None:
    """An event that names no row is taken for one of a row nobody has."""
    patch.setattr(
        CacheReader, "changed", lambda reader, change, sub: reader._store.forget_row(RowKey(0, change.key or ""))
    )


PLANTS: tuple[Plant, ...] = (
    no_fill_token,
    stale_joiner,
    overtaken_entry,
    no_flush_on_epoch_change,
    no_flush_on_reset,
    advance_before_apply,
    lease_from_wall_clock,
    acknowledged_before_listen,
    lost_last_of_conflated,
    resume_off_by_one,
    hole_not_told,
    proof_from_the_return,
    barrier_not_behind_a_loopback,
    row_change_misses_running_fills,
    late_rows_taken_for_unchanged,
    rows_of_one_dimension_only,
)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_caught(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(WITHIN_SEEDS):
        try:
            world.simulate(seed)
        except Violation:
            return
        except BaseExceptionGroup as group:
            if group.subgroup(Violation):
                return
            raise
    pytest.fail(f"{plant.__name__} survived {WITHIN_SEEDS} seeds")
