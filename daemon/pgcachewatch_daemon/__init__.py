"""The relay daemon: one LISTEN connection to PostgreSQL on one side, many WebSocket sessions on the other.

A pure core decides (`core`), shells do the I/O (`io`), and one file wires them (`relay`). What may import what
is written down as import contracts in pyproject.toml.
"""
