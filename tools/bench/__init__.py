"""Benchmarks: every figure is measured beside its reference, in turn, in one run."""
