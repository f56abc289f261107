"""How the int8 model that this device would use does on its own held-out examples."""

from __future__ import annotations

from collections.abc import Callable

from edge_client.trainer.protocol import Examples, go_on
from edge_client.trainer.runtime import InferenceModel
from shared.bundle import BundleManifest


def count_correct(
    model: bytes | None, manifest: BundleManifest, held_out: Examples, before_each: Callable[[], None] = go_on
) -> tuple[int, int] | None:
    """Return hits and examples of an int8 model; None without it, without examples, or where it has no classes.

    Raises:
        FedloomError: if the runtime cannot run the model on these examples.
    """
    if model is None or manifest.metric != "accuracy" or not len(held_out) or held_out.y.ndim != 1:
        return None
    outputs = InferenceModel(model).predict(held_out.x, before_each)
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        return None
    return int((outputs.argmax(axis=1) == held_out.y).sum()), len(held_out)


def does_worse(
    model: bytes | None,
    other: bytes | None,
    manifest: BundleManifest,
    held_out: Examples,
    before_each: Callable[[], None] = go_on,
) -> bool:
    """Say whether an int8 model is right on fewer held-out examples than another; no where they cannot be judged.

    Raises:
        FedloomError: as ``count_correct``.
    """
    found, reference = (count_correct(each, manifest, held_out, before_each) for each in (model, other))
    return found is not None and reference is not None and found[0] < reference[0]
