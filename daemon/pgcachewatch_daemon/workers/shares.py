"""What workers are given of the relay's options, and what is asked before they are."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

from pgcachewatch_daemon.authentication import prove
from pgcachewatch_daemon.relay import RelayOptions


def divide(options: RelayOptions, *, port: int) -> RelayOptions:
    """What one worker goes by: its share of what is limited for the whole relay, rounded down, and no password.

    Shares add up to no more than the limit. The kernel spreads connections by chance, so a worker may be full a little
    before the relay is; whoever it refuses comes back from another port and most likely to another worker.
    """
    size = options.workers
    admission, barriers = options.admission, options.barriers
    return replace(
        options,
        workers=1,
        port=port,
        node=options.node or socket.gethostname(),
        source=replace(options.source, dsn=None),
        catalogue=replace(options.catalogue, dsn=None),
        sockets=replace(options.sockets, handshakes_limit=max(1, options.sockets.handshakes_limit // size)),
        consumers=replace(options.consumers, is_offered=False),  # each has one process that gives its jobs
        barriers=replace(barriers, barriers=max(1, barriers.barriers // size)),
        admission=replace(
            admission,
            connections=max(1, admission.connections // size),
            connections_per_address=max(1, admission.connections_per_address // size),
            handshakes_per_s=admission.handshakes_per_s / size,
        ),
    )


def prove_files(options: RelayOptions) -> Callable[[], None]:
    """Refuses what the workers could not begin with; each of them reads tokens, keys and certificates by itself."""
    options.tls.check()
    prove(options.access, options.host)
    return lambda: None
