"""The `pgcachewatch` command; `python -m pgcachewatch` is the same program.

It is ready for signals before it imports what takes time. A container's first process has no default action: the
kernel drops SIGTERM until there is a handler, so that a stop just after the start would wait in vain, and kill.
"""

import os
import signal
import sys

SERVE = "serve"
EXIT_SIGNAL_BASE = 128
FIRST_PROCESS = 1


def main() -> int:
    """Run the command line. Returns its exit code."""
    _be_ready_for_signals(sys.argv[1:])
    from pgcachewatch.commands import run

    return run(sys.argv[1:])


def _be_ready_for_signals(arguments: list[str]) -> None:
    """Until a command has handlers of its own, as `serve` has once there is something to drain."""
    if arguments[:1] == [SERVE] and os.name == "posix":  # elsewhere no other handler would follow
        # Nobody is connected yet: the drain is done.
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(0))
    elif os.getpid() == FIRST_PROCESS:
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(EXIT_SIGNAL_BASE + number))


if __name__ == "__main__":
    sys.exit(main())
