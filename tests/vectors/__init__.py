"""The protocol against test vectors: published ones and its own."""
