"""The wire protocol without any I/O: the floor that client, relay and tests stand on.

PROTOCOL.md beside this file is the specification; each rule has an id, and errors and tests name it. `messages`
are the frames' shapes, `codec` turns text into messages and back, `transitions` are the state tables, and the two
sessions keep one connection's protocol state for either side. No module here reads a clock, opens a socket or
imports asyncio: time is a parameter, and what is to be sent is a return value.
"""
