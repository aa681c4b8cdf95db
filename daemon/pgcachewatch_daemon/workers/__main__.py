"""A worker, as the primary starts it: `python -m pgcachewatch_daemon.workers <descriptor of the link> <its pid>`."""

import sys

from pgcachewatch_daemon.workers.worker import main

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
