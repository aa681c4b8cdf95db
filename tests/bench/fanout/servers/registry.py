"""All peers by name, in the order in which they take turns."""

from __future__ import annotations

from tests.bench.fanout.servers.peer import Peer
from tests.bench.fanout.servers.products import PRODUCTS
from tests.bench.fanout.servers.relays import LISTENER, ORIGINAL, OURS, RELAY
from tests.bench.fanout.servers.small import BROADCAST, FLOORS, PICOWS, WS

PEERS: dict[str, Peer] = {
    peer.name: peer for peer in (*FLOORS, OURS, RELAY, *PRODUCTS, BROADCAST, PICOWS, WS, ORIGINAL)
}
# From COMMIT to the client, so all of them with PostgreSQL.
END_TO_END: dict[str, Peer] = {peer.name: peer for peer in (LISTENER, RELAY, ORIGINAL)}
