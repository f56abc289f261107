"""Differential privacy: how much noise, what it proves, and who has spent what."""
