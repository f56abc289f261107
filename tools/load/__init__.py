"""Load on a real aggregator: many devices in one cohort, and clients that send a byte a second beside them."""
