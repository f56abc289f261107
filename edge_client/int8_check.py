"""How the int8 model that this device would use does on its own held-out examples."""

from __future__ import annotations

from edge_client.model_store import Installed
from edge_client.trainer.protocol import Examples
from edge_client.trainer.runtime import InferenceModel


def count_correct(installed: Installed, held_out: Examples) -> tuple[int, int] | None:
    """Return hits and examples; None without examples, or where the model does not sort into classes.

    Raises:
        FedloomError: if the runtime cannot run the model on these examples.
    """
    manifest = installed.bundle.manifest
    if installed.int8 is None or manifest.metric != "accuracy" or not len(held_out) or held_out.y.ndim != 1:
        return None
    outputs = InferenceModel(installed.int8).predict(held_out.x)
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        return None
    return int((outputs.argmax(axis=1) == held_out.y).sum()), len(held_out)
