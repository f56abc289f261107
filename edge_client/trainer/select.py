"""The engine that a bundle asks for."""

from __future__ import annotations

from edge_client.trainer.protocol import Trainer
from edge_client.trainer.quadratic import QuadraticTrainer
from edge_client.trainer.tflite import TfliteTrainer
from shared.bundle import Bundle


def make_trainer(bundle: Bundle) -> Trainer:
    """Return the engine for ``bundle``; raises as the engine's construction."""
    if bundle.manifest.engine == "quadratic":
        return QuadraticTrainer(bundle.manifest)
    return TfliteTrainer(bundle)
