"""The command line of the fan-out benchmark."""

import sys

from tests.bench.fanout.command import main

sys.exit(main(sys.argv[1:]))
