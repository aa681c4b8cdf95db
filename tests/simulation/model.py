"""The smallest world in which a cache can go stale, small enough to visit every state of it.

One key, whose value in the database is its version: 0, 1, 2, 3. A relay numbers commits and sends them down a link
that keeps order but may take any time, may break, and may take the relay with it. A client caches. Whatever can happen
next happens, in every order: `steps` is the list of what can happen, and each function behind it is one rule.

Each rule that keeps the promise is a switch in `Guards`. With all on, every reachable state keeps the invariants; with
any one off, some state breaks one, and `explore` returns the shortest way there.

    I1  a servable entry contains everything the client has applied                                       (G1, G6)
    I2  link live and nothing under way: the entry equals the database                                    (G7, G12)
    I3  a call returns no less than was applied, or returned to another call, before it began             (G4, G5)
    I4  a hit contains every commit older than the staleness bound                                        (G2)

What is not here because order within the link makes it trivial: the p->s chain. The simulation covers it.
Bounds: `World` limits commits, fills, losses and ticks of the clock, so the number of states is finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

COLD = -1  # proven at no instant


@dataclass(frozen=True, slots=True)
class Guards:
    """The rules of the client and the relay that make the promise true; each can be taken away."""

    fill_token: bool = True  # an event or a flush met by a running fill takes its right to be stored
    flush_or_resume_on_gap: bool = True  # after a broken link: replay what was missed, or drop everything
    ready_ack: bool = True  # the relay says welcome only when its LISTEN is live
    epoch: bool = True  # positions compare only within one life of the relay
    snapshot_check: bool = True  # old snapshots and replicas: store only what contains everything applied
    no_stale_joiner: bool = True  # a call never joins a fill that an event has met
    no_overtaken_entry: bool = True  # a run that is not stored may have read a newer row: the entry goes
    lease: bool = True  # serve only while the last proof of freshness is younger than the bound
    mark_behind_events: bool = True  # a proof of freshness never overtakes the events it speaks of


@dataclass(frozen=True, slots=True)
class World:
    """How much of everything can happen."""

    commits: int = 3
    fills: int = 2  # running at once
    losses: int = 2  # of the link
    restarts: int = 0  # of the relay, which loses the link too
    ticks: int = 0  # of the clock; 0 leaves time and the lease out of the world
    staleness: int = 1  # the bound B, in ticks
    keeps_history: bool = True  # the relay can replay what a client missed
    reads_old_snapshots: bool = False  # a fill may read a replica, or a snapshot taken long ago


class Welcome(NamedTuple):
    """The relay's first word on a link. Not resumed: flush. `version` is what the database held then."""

    resumed: bool
    epoch: int
    seq: int
    version: int


class Event(NamedTuple):
    """Commit number `seq` of the relay's epoch, which made `version`."""

    seq: int
    version: int


class Mark(NamedTuple):
    """All commits before `as_of` were sent before this."""

    as_of: int


class Fill(NamedTuple):
    """A run of the function. `value` is None until it has read; `floor` is the least its callers may be given."""

    value: int | None
    floor: int
    may_join: bool = True
    may_store: bool = True


class State(NamedTuple):
    """Everything there is. A NamedTuple, not a dataclass: hundreds of thousands are hashed and compared."""

    database: int = 0
    committed_at: tuple[int, ...] = ()
    now: int = 0
    # the relay: `unheard` commits were made before it listened, so commit number s of its epoch made unheard + s
    epoch: int = 0
    is_listening: bool = False
    unheard: int = 0
    # the link, in order of sending
    link: Literal["down", "joining", "live"] = "down"
    under_way: tuple[Welcome | Event | Mark, ...] = ()
    losses: int = 0
    restarts: int = 0
    # the client
    cursor: tuple[int, int] | None = None  # epoch, seq
    applied: int = 0  # the version that all it applied amounts to
    proven_at: int = COLD
    entry: int | None = None
    fills: tuple[Fill, ...] = ()
    promised: int = 0  # the newest version applied, or given to a caller: no later call may get less


Step = tuple[str, State, str | None]  # what happened, what it led to, and the invariant that it broke


def steps(state: State, world: World, guards: Guards) -> Iterator[Step]:
    """Everything that can happen next."""
    yield from database_steps(state, world)
    yield from link_steps(state, world, guards)
    yield from call_steps(state, world, guards)
    yield from fill_steps(state, world, guards)


def broken_invariant(state: State) -> str | None:
    """I1 and I2 are properties of a state; I3 and I4 belong to the step that answers a call."""
    if state.entry is None:
        return None
    if state.entry < state.applied:
        return f"I1: entry {state.entry} is servable, {state.applied} was applied"
    if state.link == "live" and not state.under_way and state.entry != state.database:
        return f"I2: nothing is under way, entry {state.entry} is not the database's {state.database}"
    return None


def database_steps(state: State, world: World) -> Iterator[Step]:
    """A commit becomes visible, and travels if the relay listens and the link stands. Or time passes."""
    if state.database < world.commits:
        version = state.database + 1
        after = state._replace(database=version, committed_at=(*state.committed_at, state.now))
        if not state.is_listening:
            after = after._replace(unheard=state.unheard + 1)
        elif state.link != "down":
            event = Event(version - state.unheard, version)
            after = after._replace(under_way=(*state.under_way, event))
        yield f"commit {version}", after, None
    if state.now < world.ticks:
        yield "tick", state._replace(now=state.now + 1), None


def link_steps(state: State, world: World, guards: Guards) -> Iterator[Step]:
    """The link comes up, carries, breaks; the relay restarts, or proves how fresh it is."""
    if state.link == "down":
        yield "connect", connect(state, world, guards), None
        return
    if not state.is_listening:
        yield "relay listens", state._replace(is_listening=True), None
    if state.under_way:
        message, *rest = state.under_way
        after = deliver(state._replace(under_way=tuple(rest)), message)
        yield f"deliver {message}", after, None
    if state.losses < world.losses:
        yield "link lost", state._replace(link="down", under_way=(), losses=state.losses + 1), None
    if state.restarts < world.restarts:
        cut = state._replace(link="down", under_way=(), restarts=state.restarts + 1)
        reborn = cut._replace(epoch=cut.epoch + 1, is_listening=False, unheard=cut.database)
        yield "relay restarts", reborn, None
    # Marks that follow one another are as good as the last of them.
    if world.ticks and state.is_listening and not (state.under_way and isinstance(state.under_way[-1], Mark)):
        mark = Mark(state.now)
        queue = (*state.under_way, mark) if guards.mark_behind_events else (mark, *state.under_way)
        yield "mark", state._replace(under_way=queue), None


def connect(state: State, world: World, guards: Guards) -> State:
    """The relay answers a hello: welcome, and what the client missed if it can know that."""
    head = state.database - state.unheard
    cursor = state.cursor
    can_resume = (
        world.keeps_history
        and cursor is not None
        and (cursor[0] == state.epoch or not guards.epoch)
        and cursor[1] <= head
    )
    answer: tuple[Welcome | Event, ...] = (Welcome(False, state.epoch, head, state.database),)
    if cursor is not None and not guards.flush_or_resume_on_gap:
        answer = (Welcome(True, state.epoch, head, state.database),)
    elif cursor is not None and can_resume:
        missed = (Event(seq, state.unheard + seq) for seq in range(cursor[1] + 1, head + 1))
        answer = (Welcome(True, state.epoch, cursor[1], state.applied), *missed)
    is_listening = state.is_listening or guards.ready_ack
    return state._replace(link="joining", under_way=answer, is_listening=is_listening)


def deliver(state: State, message: Welcome | Event | Mark) -> State:
    """The client applies one message: first what it invalidates, then the position, then the proof."""
    match message:
        case Welcome(resumed, epoch, seq, version):
            client = state if resumed else drop_entry(state)
            return apply(client._replace(link="live"), (epoch, seq), version)
        case Event(seq, version):
            epoch = state.cursor[0] if state.cursor else state.epoch
            return apply(drop_entry(state), (epoch, seq), version)
        case Mark(as_of):
            return state._replace(proven_at=max(state.proven_at, as_of))


def apply(state: State, cursor: tuple[int, int], version: int) -> State:
    """The client's position moves to what amounts to `version`."""
    applied = max(state.applied, version)
    return promise(state._replace(cursor=cursor, applied=applied), applied)


def promise(state: State, version: int) -> State:
    """From here on no call may get less than `version`."""
    return state._replace(promised=max(state.promised, version))


def drop_entry(state: State) -> State:
    """The entry goes; running fills are detached: who waits on one keeps it, later calls start another."""
    detached = tuple(fill._replace(may_join=False, may_store=False) for fill in state.fills)
    return state._replace(entry=None, fills=detached)


def call_steps(state: State, world: World, guards: Guards) -> Iterator[Step]:
    """A call begins: it hits, or joins a running fill, or starts one."""
    may_serve = not guards.lease or not world.ticks or is_fresh(state, world)
    if state.entry is not None and may_serve:
        after = promise(state, state.entry)
        yield f"hit {state.entry}", after, broken_by_hit(state, world, state.entry)
        return
    for index, fill in enumerate(state.fills):
        if fill.may_join or not guards.no_stale_joiner:
            joined = fill._replace(floor=state.promised)
            yield f"join fill {index}", with_fill(state, index, joined), None
            return
    if len(state.fills) < world.fills:
        started = Fill(None, state.promised, may_store=may_serve)
        yield "start fill", state._replace(fills=(*state.fills, started)), None


def is_fresh(state: State, world: World) -> bool:
    """The lease: what was proven is no older than the bound."""
    return state.proven_at != COLD and state.now - state.proven_at <= world.staleness


def broken_by_hit(state: State, world: World, value: int) -> str | None:
    """I4, then I3."""
    due = sum(1 for at in state.committed_at if at < state.now - world.staleness)
    if world.ticks and value < due:
        return f"I4: hit {value}, but {due} is older than the staleness bound"
    if value < state.promised and not world.reads_old_snapshots:
        return f"I3: hit {value}, but {state.promised} was applied or returned before the call"
    return None


def fill_steps(state: State, world: World, guards: Guards) -> Iterator[Step]:
    """A running fill reads the database, or ends: its callers get the value, and it is stored if it may be."""
    for index, fill in enumerate(state.fills):
        if fill.value is None:
            oldest = 0 if world.reads_old_snapshots else state.database
            for version in range(oldest, state.database + 1):
                # A floor that was reached says no more: forgetting it halves the number of states.
                floor = fill.floor if version < fill.floor else 0
                read = with_fill(state, index, fill._replace(value=version, floor=floor))
                yield f"fill {index} reads {version}", read, None
        else:
            yield end_fill(state, index, fill, fill.value, world, guards)


def end_fill(state: State, index: int, fill: Fill, value: int, world: World, guards: Guards) -> Step:
    """Who waited is answered. A value that may not be stored takes the older ones with it: it may be newer."""
    others = state.fills[:index] + state.fills[index + 1 :]
    after = promise(state._replace(fills=others), value)
    broken = None
    if value < fill.floor and not world.reads_old_snapshots:
        broken = f"I3: a call is given {value}, but {fill.floor} was applied or returned before it began"
    may_store = fill.may_store or not guards.fill_token
    if world.reads_old_snapshots and guards.snapshot_check:
        may_store = may_store and value >= state.applied
    if may_store:
        after = after._replace(entry=value)
    elif guards.no_overtaken_entry:
        after = drop_entry(after)
    return f"fill {index} ends, {'stored' if may_store else 'not stored'}", after, broken


def with_fill(state: State, index: int, fill: Fill) -> State:
    return state._replace(fills=(*state.fills[:index], fill, *state.fills[index + 1 :]))
