"""Tests of the aggregator: its decisions, its driver, its interface and its command, in one process."""
