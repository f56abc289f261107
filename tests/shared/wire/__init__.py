"""Tests of what travels: its one form, and every other form refused by name."""
