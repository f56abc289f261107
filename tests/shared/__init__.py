"""Tests of what devices and aggregator have in common."""
