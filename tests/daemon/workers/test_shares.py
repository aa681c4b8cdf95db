"""Shares of workers: of limits, and of secrets."""

from __future__ import annotations

from pgcachewatch_daemon.core.admission import AdmissionLimits
from pgcachewatch_daemon.core.loopback import LoopbackLimits
from pgcachewatch_daemon.io.catalogue import CatalogueOptions
from pgcachewatch_daemon.io.postgres import SourceOptions
from pgcachewatch_daemon.io.websocket import SocketLimits
from pgcachewatch_daemon.relay import RelayOptions
from pgcachewatch_daemon.workers.shares import divide

OPTIONS = RelayOptions(
    port=0,
    node="",
    workers=4,
    source=SourceOptions(dsn="postgresql://u:secret@h/d", heartbeat_s=0.25),
    catalogue=CatalogueOptions(dsn="postgresql://u:secret@h/d"),
    admission=AdmissionLimits(connections=10, connections_per_address=3),
    sockets=SocketLimits(handshakes_limit=9),
    barriers=LoopbackLimits(barriers=101, barriers_per_subscriber=7),
)


def test_shares_add_up_to_no_more_than_the_limit_and_are_never_nothing() -> None:
    share = divide(OPTIONS, port=8420)
    assert share.admission == AdmissionLimits(connections=2, connections_per_address=1, handshakes_per_s=500.0)
    assert share.sockets.handshakes_limit == 2
    assert share.barriers == LoopbackLimits(barriers=25, barriers_per_subscriber=7)


def test_a_worker_knows_no_password_and_what_clients_are_told() -> None:
    share = divide(OPTIONS, port=8420)
    assert "secret" not in repr(share)
    assert (share.port, share.workers, share.source.heartbeat_s) == (8420, 1, 0.25)
    assert share.node, "the name is the machine's, and the same for all"
