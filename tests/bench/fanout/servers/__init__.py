"""The servers that are compared, by name, each with what it takes to start it."""

from tests.bench.fanout.servers.peer import Inlet, Missing, Peer, Serving
from tests.bench.fanout.servers.registry import END_TO_END, PEERS

__all__ = ["END_TO_END", "PEERS", "Inlet", "Missing", "Peer", "Serving"]
