"""Tests of ``tools.load``."""
