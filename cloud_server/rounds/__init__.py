"""Rounds and cohorts: pure state machines, and the driver that carries out what they decide."""
