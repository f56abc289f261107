"""The further inputs of a bundle's ``train`` signature: which there are, what the plan may say of them.

Every program takes a learning rate ``lr`` and FedProx's ``mu``; others depend on the optimizer it was converted with.
Their defaults are in the manifest, and a plan changes them by name in ``[training.inputs]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.bundle import BundleManifest
from shared.errors import UsageError
from shared.nearest import nearest

Inputs: TypeAlias = dict[str, NDArray[Any]]

SET_ELSEWHERE: Final = {  # inputs that [training.inputs] does not set, and what does
    "lr": "training.learning_rate",
    "mu": "training.proximal_mu",
    "seed": "nothing: every device draws its own",
}
GRADIENT_RATE: Final = 1024.0  # a power of two this large keeps rounding of the weights out of their difference
_ENORMOUS: Final = 2.0**40
_PLAIN: Final = {  # what makes one step of any optimizer a plain one along the gradient
    "mu": 0.0,
    "weight_decay": 0.0,
    "max_gradient_norm": 3e38,
    "momentum": 0.0,
    "beta_1": 0.0,
    "beta_2": 0.0,
    "epsilon": _ENORMOUS,  # Adam divides by the root of a moment plus this: by a constant, then
}


def require_known_inputs(manifest: BundleManifest, values: Mapping[str, float]) -> None:
    """Refuse a plan's ``[training.inputs]`` that this bundle's program does not have.

    Raises:
        UsageError: "unknown-training-input", naming the nearest.
    """
    known = [spec.name for spec in manifest.train_inputs if spec.name not in SET_ELSEWHERE]
    for name in values:
        if name not in known:
            meant = nearest(name, known)
            raise UsageError(
                "unknown-training-input",
                f"[training.inputs] sets {name!r}, which the training program does not have.",
                f"did you mean {meant}?" if meant else f"it has: {', '.join(known) or 'none'}",
            )


def step_inputs(manifest: BundleManifest, *, rate: float, mu: float, seed: int, values: Mapping[str, float]) -> Inputs:
    """Return the arguments of one training step beside the batch: the manifest's defaults, then these.

    Raises:
        UsageError: "unknown-training-input".
    """
    require_known_inputs(manifest, values)
    return _arrays(manifest, {"lr": rate, "mu": mu, "seed": seed & 0xFFFFFF, **values})  # programs take 24 bits


def gradient_inputs(manifest: BundleManifest, seed: int = 0) -> Inputs:
    """Return arguments with which a first step moves the weights by minus ``GRADIENT_RATE`` times the gradient."""
    adaptive = any(spec.name == "epsilon" for spec in manifest.train_inputs)
    rate = GRADIENT_RATE * (_ENORMOUS if adaptive else 1.0)
    return _arrays(manifest, {**_PLAIN, "lr": rate, "seed": seed & 0xFFFFFF})


def _arrays(manifest: BundleManifest, values: Mapping[str, float]) -> Inputs:
    return {
        spec.name: np.full(spec.shape, values.get(spec.name, spec.default), spec.dtype)
        for spec in manifest.train_inputs
    }
