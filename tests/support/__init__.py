"""Fleets, servers and harnesses that tests and benchmarks share."""
