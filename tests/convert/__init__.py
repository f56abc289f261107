"""Tests of the convert part."""
