"""A PostgreSQL server of one's own, for the demo and the tests: started in 0.6 s, gone without a trace.

    with EmbeddedPostgres(require_binaries()) as server:
        connection = await asyncpg.connect(server.dsn)

`binaries` finds a server to run, `launcher` runs it, `guard` is the process that cleans up after an owner
that died, and `leftovers` removes what even the guard could not. POSIX only. Not a production server: it does
not wait for the disk, and it listens on loopback alone.
"""

from pgcachewatch_daemon.embedded.binaries import PostgresBinaries, find_binaries, require_binaries
from pgcachewatch_daemon.embedded.launcher import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "PostgresBinaries", "find_binaries", "require_binaries"]
