"""Tests of clipping, rounding, packing and their inverses."""
