"""`python -m tests.soak`: an hour of mixed load with faults against one relay, and whether its memory stays flat.

    make soak DURATION=3600 SEED=1

Prints the curves, the picture's place, what is broken, and one line of JSON. Exit code 0 when nothing is.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.soak import plot
from tests.soak.plan import SoakSettings
from tests.soak.run import soak


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--duration", type=float, default=3600.0, help="seconds during which faults happen")
    parser.add_argument("--seed", type=int, default=None, help="of faults and wishes; random when left out")
    parser.add_argument("--keep", type=Path, default=None, help="folder to leave picture, samples and reports in")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    directory = options.keep or Path(tempfile.mkdtemp(prefix="pgcachewatch-soak-"))
    directory.mkdir(parents=True, exist_ok=True)
    outcome = asyncio.run(soak(SoakSettings(seed, options.duration, directory)))
    picture = outcome.picture()
    (directory / "soak.svg").write_text(plot.svg(picture))
    (directory / "soak.json").write_text(outcome.json_line() + "\n")
    sys.stdout.write(f"{plot.text(picture)}\npicture: {directory / 'soak.svg'}\n")
    sys.stdout.write("".join(f"broken: {sentence}\n" for sentence in outcome.broken))
    sys.stdout.write(outcome.json_line() + "\n")
    return 0 if outcome.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
