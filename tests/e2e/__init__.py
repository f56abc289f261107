"""Tests of the aggregator as it runs: its own processes over TLS, with real devices against it."""
