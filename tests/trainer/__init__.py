"""Tests of the trainer part."""
