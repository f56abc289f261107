"""Example tasks: one file per model, their data under ``data/``, their cards under ``cards/``."""
