"""`python3 tests`: set up `.venv` and run pytest in the checkout's root. Needs nothing but Python.

Arguments are pytest's: `python3 tests -k resume -x`. Runs in parallel, unless an argument needs one process
or says how many to use.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "deploy"))

import bootstrap

ONE_PROCESS = (
    "-n",
    "--numprocesses",
    "--dist",
    "--pdb",
    "--trace",
    "-s",
    "--capture",
    "--co",
    "--setup",
    "-p",
    "-h",
)
ONE_PROCESS += ("--help", "--version", "--fixtures", "--markers")

arguments = sys.argv[1:]
parallel = ["-n", "auto", "--maxprocesses", "8"]
# A test that hangs prints its stacks and costs its worker, which is replaced; with one process it would cost the run.
parallel += ["-o", "faulthandler_exit_on_timeout=true"]
if any(word.startswith(ONE_PROCESS) for word in arguments):
    parallel = []
bootstrap.run("pytest", [*parallel, *arguments], bootstrap.ROOT)
