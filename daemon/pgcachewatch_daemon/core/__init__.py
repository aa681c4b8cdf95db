"""The relay without I/O: what a change is, who wants it, and what each connection is still to be sent."""
