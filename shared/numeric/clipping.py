"""Bound what one device can change, and check afterwards that the sum kept the bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from shared.errors import FedloomError, UnmaskingFailed, UsageError

_PIECE: Final = 2**14  # coordinates


@dataclass(frozen=True)
class LocalUpdate:
    """Trained weights minus the weights that training started from.

    Attributes:
        values: f32[d].
        examples: how many examples it was trained on.
    """

    values: npt.NDArray[np.float32]
    examples: int


@dataclass(frozen=True)
class ClippedUpdate:
    """An update of L2 norm at most ``max_l2_norm``, scaled by its weight: ``clip(update) * weight / max_weight``.

    Attributes:
        raw: f32[d] or f64[d], the update as it was before.
        scale: by which it is multiplied.
        weight: whole number from 1 to the plan's ``max_weight``.
        max_l2_norm: the bound C that ``values`` keeps.
        clipped: whether the norm had to be reduced.
    """

    raw: npt.NDArray[np.float32] | npt.NDArray[np.float64]
    scale: float
    weight: int
    max_l2_norm: float
    clipped: bool

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The numbers themselves, f64[d], a new array."""
        return self.raw.astype(np.float64) * self.scale


def clip(update: LocalUpdate, *, max_l2_norm: float, max_weight: int) -> ClippedUpdate:
    """Scale ``update`` to L2 norm at most ``max_l2_norm``, then by its weight.

    ``values = u * min(1, C / ||u||) * w / w_max`` with ``w = min(examples, w_max)``: the sum over devices divided by
    ``sum(w) / w_max`` is then the example-weighted mean, and no device adds more than C (McMahan et al.,
    arXiv 1710.06963, section 3, with the weight inside the bound). ``max_weight = 1`` weighs all devices alike.

    Raises:
        UsageError: ``update-not-finite`` if a coordinate is NaN or infinite, ``update-empty`` without examples.
    """
    if update.examples < 1:
        raise UsageError("update-empty", "An update trained on no examples cannot be contributed.")
    norm = _l2_norm(update.values)
    if not math.isfinite(norm):
        raise UsageError(
            "update-not-finite",
            "Training produced NaN or infinite weights; nothing was uploaded.",
            "lower the plan's learning_rate, or look for extreme values in the examples",
        )
    weight = min(update.examples, max_weight)
    clipped = norm > max_l2_norm
    scale = (max_l2_norm / norm if clipped else 1.0) * (weight / max_weight)
    return ClippedUpdate(update.values, scale, weight, max_l2_norm, clipped)


def _l2_norm(values: npt.NDArray[np.float32]) -> float:
    """Return the norm, added up in float64 in pieces that stay in the cache."""
    squared, wide = 0.0, np.empty(min(_PIECE, values.size))
    for start in range(0, values.size, _PIECE):
        piece = values[start : start + _PIECE]
        wide[: piece.size] = piece
        squared += float(np.dot(wide[: piece.size], wide[: piece.size]))
    return math.sqrt(squared)


def check_sum_norm(
    total: npt.NDArray[np.float64],
    *,
    survivors: int,
    l2_norm_bound: float,
    noise_l2_norm: float = 0.0,
    what: str = "The sum",
) -> None:
    """Refuse a sum that honest devices cannot have produced.

    Args:
        total: f64[d], decoded sum over ``survivors`` devices.
        survivors: how many vectors are in it.
        l2_norm_bound: what one device can add: the clip norm plus the tail of rounding.
        noise_l2_norm: what the norm of all devices' noise hardly ever exceeds.
        what: is summed, for the message.

    Raises:
        UnmaskingFailed: ``implausible-norm``. Within the ball an attack remains possible; masking proves nothing
            about an input.
    """
    norm, bound = float(np.linalg.norm(total)), survivors * l2_norm_bound + noise_l2_norm
    # The factor covers rounding of this very norm in float64.
    if not norm <= bound * (1 + 1e-9):
        raise UnmaskingFailed(
            "implausible-norm",
            f"{what} has L2 norm {norm:.4g}, {survivors} honest devices reach {bound:.4g}.",
            "a member sent a vector outside the bound; the round goes on with a new cohort",
        )


def require_finite(values: npt.NDArray[np.float32], what: str) -> None:
    """Raise ``not-finite`` when ``values`` has a NaN or an infinity; ``what`` names them in the message."""
    if not bool(np.all(np.isfinite(values))):
        raise FedloomError("not-finite", f"{what} has NaN or infinite values.")
