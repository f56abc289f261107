"""Tests of the bundle part."""
