"""What needs more than a plain machine has: a lane brings it, runs the tests that want it, and cleans up."""
