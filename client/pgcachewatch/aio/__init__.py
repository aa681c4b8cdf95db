"""The client's asyncio shell: sockets and tasks around the pure core.

Modules of this package hold what the core may not: clocks, locks, tasks, threads and logs.
"""
