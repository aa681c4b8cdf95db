"""The fan-out benchmark: what a delivered event costs, beside the servers people would otherwise put in our place.

    python -m tests.bench.fanout --cases c100-10 --peers ours,nats

Each server is given the same events by the same publisher and is read by the same load, in turns within one run.
tests/bench/README.md tells what is measured and how.
"""
