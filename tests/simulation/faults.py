"""What goes wrong, by name. Each fault takes the world and does its harm; most undo themselves after a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from tests.simulation.relay import SimulatedRelay

if TYPE_CHECKING:
    from tests.simulation.network import Wire
    from tests.simulation.world import World


def _one_wire(world: World) -> Wire | None:
    wires = world.wires()
    return world.chance.choice(wires) if wires else None


async def cut(world: World) -> None:
    """A connection is reset; both ends hear of it."""
    if wire := _one_wire(world):
        wire.cut(tell_client=True, tell_relay=True)


async def cut_unnoticed_by_client(world: World) -> None:
    """The client's socket is half-open."""
    if wire := _one_wire(world):
        wire.cut(tell_client=False, tell_relay=True)


async def cut_unnoticed_by_relay(world: World) -> None:
    """The relay's socket is half-open: it goes on sending into nothing."""
    if wire := _one_wire(world):
        wire.cut(tell_client=True, tell_relay=False)


async def cut_off(world: World) -> None:
    """Every connection is reset, and nobody reaches the relay for a while: it has no use for any channel."""
    world.is_reachable = False
    for wire in world.wires():
        wire.cut(tell_client=True, tell_relay=True)
    await asyncio.sleep(world.chance.uniform(0.1, 0.5))
    world.is_reachable = True


async def stall_down(world: World) -> None:
    """Nothing reaches the client for a while; then everything does, late."""
    if wire := _one_wire(world):
        wire.stall(up=False, down=True)
        await asyncio.sleep(world.chance.uniform(0.05, 1.2))
        wire.stall(up=False, down=False)


async def stall_up(world: World) -> None:
    """Nothing reaches the relay for a while."""
    if wire := _one_wire(world):
        wire.stall(up=True, down=False)
        await asyncio.sleep(world.chance.uniform(0.05, 1.2))
        wire.stall(up=False, down=False)


async def slow_reader(world: World) -> None:
    """A client reads so slowly that its outbox conflates."""
    if wire := _one_wire(world):
        wire.down.slowness = 40.0
        await asyncio.sleep(world.chance.uniform(0.1, 0.8))
        wire.down.slowness = 1.0


async def duplicate(world: World) -> None:
    """The last frame on its way to a client arrives twice."""
    if (wire := _one_wire(world)) and wire.down.frames:
        wire.down.frames.append(wire.down.frames[-1])


async def restart_relay(world: World) -> None:
    """The relay is killed, and started again a little later."""
    if world.relay is not None:
        world.relay.stop()
        world.relay = None
        await asyncio.sleep(world.chance.uniform(0.01, 0.8))
        world.relay = SimulatedRelay(world.database, world.chance, world.log)


async def lose_session(world: World) -> None:
    """pg_terminate_backend on the LISTEN connection."""
    if world.relay is not None and world.relay.session is not None:
        world.relay.session.end(is_noticed=True)


async def half_open_session(world: World) -> None:
    """The LISTEN connection is gone and the relay does not know."""
    if world.relay is not None and world.relay.session is not None:
        world.relay.session.end(is_noticed=False)


async def deaf_session(world: World) -> None:
    """The LISTEN session is alive and receives nothing, for good."""
    if world.relay is not None and world.relay.session is not None:
        world.relay.session.is_deaf = True


async def restart_database(world: World) -> None:
    """PostgreSQL restarts."""
    world.database.stop()
    await asyncio.sleep(world.chance.uniform(0.05, 0.6))
    world.database.start()


async def jump_wall_clock(world: World) -> None:
    """Somebody sets the wall clock, by up to an hour in either direction."""
    world.wall_offset_s += world.chance.uniform(-3600, 3600)


FAULTS: dict[str, Callable[[World], Awaitable[None]]] = {
    fault.__name__: fault
    for fault in (
        cut,
        cut_unnoticed_by_client,
        cut_unnoticed_by_relay,
        cut_off,
        stall_down,
        stall_up,
        slow_reader,
        duplicate,
        restart_relay,
        lose_session,
        half_open_session,
        deaf_session,
        restart_database,
        jump_wall_clock,
    )
}
