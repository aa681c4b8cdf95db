"""What a soak is told, and what each of its processes is told.

A tape is a numbered stream of events: number n+1 is committed after number n, so a reader sees at once what it missed.
Tapes lie on the channel of the triggers, told apart by table, and on channels of their own, told apart by channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.checker.faults import KINDS, Kind
from tests.checker.plan import CHANNEL, RunSettings

TAPES = 8
OWN_CHANNELS_FROM = 4  # the first tapes share the triggers' channel
WARM_UP_S = 600.0
TASTE_BELOW_S = 2 * WARM_UP_S
JOBS = "jobs"
CONSUMER = "soak"

Mode = Literal["stream", "invalidate", "plain", "slow"]

# The relay's memory is what is measured: it is stopped and told to reload, and never started again.
RELOADED = Kind("relay_reloaded", "relay")  # SIGHUP
STOPPED_LONG = Kind("client_stopped_long", "client {}", 12.0, 30.0)  # SIGSTOP, beyond what buffers hold
# Small buffers: at a load that leaves the machine idle, slow clients are conflated for and streams overflow.
RELAY_SETTINGS = {"outbox_bytes": "65536", "send_buffer_bytes": "16384"}
NOT_FOR_A_SOAK = {"relay_killed", "relay_restarted"}
SOAK_KINDS = (*(kind for kind in KINDS if kind.name not in NOT_FOR_A_SOAK), RELOADED, STOPPED_LONG)


@dataclass(frozen=True, slots=True)
class SoakSettings(RunSettings):
    """One soak. The same seed gives the same faults at the same times and the same wishes of clients."""

    fault_every_s: float = 25.0
    readers_per_mode: int = 40  # in each of the two crowds of readers
    caches: int = 10
    strangers_per_s: float = 8.0
    events_per_s: float = 5.0  # of each tape
    burst_every_s: float = 20.0
    burst_events: int = 500
    sample_every_s: float = 1.0
    scrape_every_s: float = 5.0

    @property
    def is_taste(self) -> bool:
        """Too short to say anything about memory."""
        return self.duration_s < TASTE_BELOW_S

    @property
    def warm_up_s(self) -> float:
        """The verdict on memory begins then: the history is full, and bursts and faults have been at their worst."""
        return 0.0 if self.is_taste else WARM_UP_S


@dataclass(frozen=True, slots=True)
class CrowdTask:
    """`url` is the relay's, perhaps through a link; `size` and `per_s` mean what the crowd's module says."""

    name: str
    directory: str
    url: str
    dsn: str
    seed: int
    size: int
    per_s: float


@dataclass(frozen=True, slots=True)
class TapeTask:
    """For the process that writes tapes and jobs."""

    name: str
    directory: str
    dsn: str
    seed: int
    per_s: float
    burst_every_s: float
    burst_events: int


def tape_table(tape: int) -> str:
    return f"tape_{tape}"


def tape_channel(tape: int) -> str:
    """Where a tape is notified."""
    return CHANNEL if tape < OWN_CHANNELS_FROM else f"soak_{tape}"


def report_path(directory: Path | str, name: str) -> Path:
    return Path(directory) / f"{name}.report.json"
