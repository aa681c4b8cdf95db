"""Plain integers that the cores keep and `/metrics` reads at scrape time.

No lock, no label object, no library: counting an event is one addition on the hot path. Each field is one figure of
the metrics table; a Counter-like dict has a bounded set of keys, named beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class IntakeStats:
    """Notifications read. Keys of `invalid`: the reasons in core/intake.Fault."""

    received: int = 0
    invalid: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class HubStats:
    """Fan-out since the start. `clients` and the subscription counts are of now."""

    clients: int = 0
    plain_clients: int = 0
    subscriptions_invalidate: int = 0
    subscriptions_stream: int = 0
    frames: int = 0  # queued, counted per connection
    frame_bytes: int = 0
    marks: int = 0
    resumed: int = 0
    not_resumed_epoch: int = 0
    not_resumed_history: int = 0
    conflated_key: int = 0
    conflated_subscription: int = 0
    conflated_everything: int = 0
    overflowed_streams: int = 0
    epoch_changes: dict[str, int] = field(default_factory=dict)  # keys: reasons of source_lost


@dataclass(slots=True)
class LoopbackStats:
    """Loopbacks and barriers since the start."""

    sent: int = 0
    returned: int = 0
    ignored: int = 0
    barriers: int = 0
    barriers_refused: int = 0


@dataclass(slots=True)
class TokenStats:
    """Tokens that were notified, and how barriers on one ended."""

    arrived: int = 0
    ignored: int = 0
    passed: int = 0
    lost: int = 0
    refused: int = 0


@dataclass(slots=True)
class AdmissionStats:
    """Connections now, and refusals by HTTP status."""

    connections: int = 0
    refused: dict[int, int] = field(default_factory=dict)
