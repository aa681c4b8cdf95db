"""The cases: how many clients, how events come, how large they are, and what else is odd.

Three ways of events. At a rate: an absolute schedule that does not wait for the server (open loop). In bursts, the
same with many at once. And saturated: as fast as the slowest client receives them, at most a window ahead of it, so
that no server is given more than it delivers and each has as much to join as it likes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

EVENT_BYTES = 184
LARGE_EVENT_BYTES = 1_000  # still a key that our protocol carries
WINDOW = 1_500  # in our frames less than `outbox_bytes`: more than that, and the relay conflates, as it should
STEPS_PER_WINDOW = 20
WAKE_S = 8.0  # before the relay gives a client up that takes nothing
WARM_SHARE = 0.05  # of the events: their latency is not counted


@dataclass(frozen=True, slots=True)
class Case:
    """`every_s` 0: saturated. `seconds` is how long events come at a rate; `events` how many there are else.

    `is_end_to_end`: from COMMIT to the client. `is_once`: long, and steady enough for one round.
    """

    name: str
    clients: int
    every_s: float = 0.0
    burst: int = 1
    seconds: float = 10.0
    events: int = 0
    event_bytes: int = EVENT_BYTES
    window: int = WINDOW
    has_stuck: bool = False
    is_stream: bool = False
    is_idle: bool = False
    is_end_to_end: bool = False
    is_once: bool = False

    @property
    def is_saturated(self) -> bool:
        return self.every_s == 0 and not self.is_idle

    @property
    def count(self) -> int:
        """Events in all."""
        return self.events or max(1, round(self.seconds / self.every_s)) * self.burst

    @property
    def step(self) -> int:
        """After how many events the load tells the publisher."""
        return max(1, self.window // STEPS_PER_WINDOW)

    @property
    def warm(self) -> int:
        return int(self.count * WARM_SHARE)

    def scaled(self, share: float) -> Case:
        """The same case, shorter or longer."""
        events = max(self.burst, int(self.events * share)) if self.events else 0
        return replace(self, seconds=self.seconds * share, events=events)


def _large(name: str, clients: int, rate: int, *, has_stuck: bool = False) -> Case:
    return Case(
        name,
        clients=clients,
        every_s=1 / rate,
        seconds=12.0,
        event_bytes=LARGE_EVENT_BYTES,
        has_stuck=has_stuck,
        is_once=True,
    )


CASES = {
    case.name: case
    for case in (
        Case("c100-10", clients=100, every_s=0.1),
        Case("c1000-30", clients=1_000, every_s=1 / 30),
        Case("c1000-200", clients=1_000, every_s=1 / 200),
        Case("sat-100", clients=100, events=200_000),
        Case("sat-1000", clients=1_000, events=20_000),
        Case("sat-stream-100", clients=100, events=100_000, window=500, is_stream=True),
        Case("burst-100", clients=100, every_s=2.0, burst=1_000),
        Case("burst-1000", clients=1_000, every_s=4.0, burst=1_000, seconds=12.0),
        _large("calm-100", 100, 1_000),
        _large("stuck-100", 100, 1_000, has_stuck=True),
        _large("calm-1000", 1_000, 200),
        _large("stuck-1000", 1_000, 200, has_stuck=True),
        Case("idle-10000", clients=10_000, is_idle=True, is_once=True),
        Case("e2e-1", clients=1, every_s=1 / 50, is_end_to_end=True),
        Case("e2e-100", clients=100, every_s=1 / 10, is_end_to_end=True),
    )
}
