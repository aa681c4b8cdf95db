"""The shells: each does the I/O for one neighbour of the relay, and none knows another."""
