"""The client's pure core: keys, entries, fills, freshness. No clock, no socket, no thread, no log in here.

Whoever calls passes the time in, on the local monotonic clock and in seconds, and does what the core decides.
"""
