"""What is said to all keeps its order, and the handover holds the changes as they were said."""

from __future__ import annotations

import asyncio
import datetime

from pgcachewatch_daemon.core.history import HistoryLimits
from pgcachewatch_daemon.workers.dispatch import RUN_CHANGES, Dispatch
from pgcachewatch_daemon.workers.framing import Decoder
from pgcachewatch_daemon.workers.handover import Handover
from pgcachewatch_daemon.workers.messages import AS_READ, Change, Changes, ClosePlain, Message, TokensSettled

AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def change(seq: int) -> Change:
    return (seq, float(seq), AT, "ch", "{}", AS_READ)


class Stage:
    def __init__(self) -> None:
        self.handover = Handover(HistoryLimits())
        self.writes: list[list[bytes]] = []
        self.bulk: list[bool] = []
        self.dispatch = Dispatch(self.handover, self._write)

    def _write(self, frames: list[bytes], is_bulk: bool) -> None:
        self.writes.append(frames)
        self.bulk.append(is_bulk)

    @property
    def heard(self) -> list[Message]:
        return Decoder().feed(b"".join(frame for frames in self.writes for frame in frames))


async def test_changes_and_all_else_keep_their_order_and_leave_in_one_iteration() -> None:
    stage = Stage()
    stage.dispatch.change(change(1))
    stage.dispatch.change(change(2))
    stage.dispatch.say(TokensSettled())
    stage.dispatch.say(ClosePlain("why"))
    stage.dispatch.change(change(3))
    assert stage.writes == []
    await asyncio.sleep(0)
    assert stage.heard == [
        Changes([change(1), change(2)]),
        TokensSettled(),
        ClosePlain("why"),
        Changes([change(3)]),
    ]
    assert len(stage.writes) == 1


async def test_what_somebody_waits_for_leaves_at_once_and_not_again() -> None:
    stage = Stage()
    stage.dispatch.say(TokensSettled())
    stage.dispatch.flush()
    await asyncio.sleep(0)
    assert stage.heard == [TokensSettled()]
    stage.dispatch.change(change(1))
    await asyncio.sleep(0)
    assert stage.heard == [TokensSettled(), Changes([change(1)])]


async def test_the_handover_has_the_changes_alone_in_the_very_frames() -> None:
    stage = Stage()
    for each in (1, 2):
        stage.dispatch.change(change(each))
        stage.dispatch.say(TokensSettled())
    stage.dispatch.flush()
    assert Decoder().feed(b"".join(stage.handover.frames)) == [Changes([change(1)]), Changes([change(2)])]
    assert (stage.handover.events, stage.handover.floor) == (2, 0)
    assert all(frame in stage.writes[0] for frame in stage.handover.frames)


async def test_a_burst_leaves_in_frames_of_a_bounded_number_of_changes() -> None:
    stage = Stage()
    for seq in range(1, 2 * RUN_CHANGES + 2):
        stage.dispatch.change(change(seq))
    assert len(stage.writes) == 2, "those that are full have left already"
    stage.dispatch.flush()
    sizes = [len(message.changes) for message in stage.heard if isinstance(message, Changes)]
    assert sizes == [RUN_CHANGES, RUN_CHANGES, 1]


async def test_bulk_is_told_as_such_behind_what_was_said_before() -> None:
    stage = Stage()
    stage.dispatch.change(change(1))
    stage.dispatch.say_bulk(ClosePlain("large"))
    assert stage.heard == [Changes([change(1)]), ClosePlain("large")]
    assert stage.bulk == [False, True]
