"""Secure aggregation: SecAgg+ (Bell et al., CCS 2020) with agreement on the survivors. See shared/spec/PROTOCOL.md."""
