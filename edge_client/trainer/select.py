"""The engine that a bundle asks for."""

from __future__ import annotations

from edge_client.trainer.protocol import BeforeBatch, Trainer, go_on
from edge_client.trainer.quadratic import QuadraticTrainer
from edge_client.trainer.tflite import TfliteTrainer
from shared.bundle import Bundle


def make_trainer(bundle: Bundle, before_batch: BeforeBatch = go_on) -> Trainer:
    """Return the engine for ``bundle``, which asks ``before_batch``; raises as the engine's construction."""
    if bundle.manifest.engine == "quadratic":
        return QuadraticTrainer(bundle.manifest, before_batch)
    return TfliteTrainer(bundle, before_batch=before_batch)
