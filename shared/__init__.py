"""What devices, aggregator and tools have in common: pure functions and records, no I/O shells."""
