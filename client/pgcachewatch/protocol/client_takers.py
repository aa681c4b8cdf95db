"""The client's end of the consumers that one connection takes part in: what it says of jobs, and what it is told.

Jobs are no events: they have no position, and nothing is flushed for them. A job of a consumer that this connection has
left is skipped; so is one whose sid was never given, since whoever gave it will give it again (W-CONSUMER-4).
Bound: as many as subscriptions.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgcachewatch.protocol import codec, messages


@dataclass(frozen=True, slots=True)
class Admitted:
    """This connection takes part in the consumer that was asked for as `id`."""

    id: int


@dataclass(frozen=True, slots=True)
class JobGiven:
    """A job of that consumer."""

    id: int
    job: messages.Job


@dataclass(frozen=True, slots=True)
class JobsTaken:
    """Jobs that are to be left out, unless they were begun."""

    id: int
    ids: tuple[str, ...]


class ClientTakers:
    """What a connection knows of its consumers. Each method that returns a text returns the frame to send."""

    def __init__(self) -> None:
        self._wanted: set[int] = set()
        self._sid_of: dict[int, int] = {}
        self._id_of: dict[int, int] = {}

    def consume(self, consume: messages.Consume) -> str:
        """Ask to take part; Admitted or Rejected with its id answers."""
        self._wanted.add(consume.id)
        return codec.encode(consume)

    def leave(self, identity: int) -> str:
        """Take part no more: what was given and not finished goes to others."""
        self.forget(identity)
        return codec.encode(messages.Unsub(id=identity))

    def done(self, identity: int, ids: list[str]) -> str | None:
        """Acknowledge; None before it was admitted, and then the next `consume` may say it."""
        sid = self._sid_of.get(identity)
        return None if sid is None else codec.encode(messages.Done(sid=sid, ids=ids))

    def failed(self, identity: int, ids: list[str], reason: str) -> str | None:
        """Give back; None as above."""
        sid = self._sid_of.get(identity)
        return None if sid is None else codec.encode(messages.Failed(sid=sid, ids=ids, reason=reason))

    def admitted(self, subok: messages.Subok) -> Admitted | None:
        """None when it is no answer to a `consume`."""
        if subok.id not in self._wanted:
            return None
        self._sid_of[subok.id], self._id_of[subok.sid] = subok.sid, subok.id
        return Admitted(subok.id)

    def forget(self, identity: int) -> None:
        """It was refused, or left."""
        self._wanted.discard(identity)
        sid = self._sid_of.pop(identity, None)
        if sid is not None:
            del self._id_of[sid]

    def told(self, message: messages.Job | messages.Taken) -> JobGiven | JobsTaken | None:
        """What it means; None when it is nobody's."""
        identity = self._id_of.get(message.sid)
        if identity is None:
            return None
        if isinstance(message, messages.Job):
            return JobGiven(identity, message)
        return JobsTaken(identity, tuple(message.ids))
