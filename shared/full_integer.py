"""New weights for a full-integer twin: batch norm folded into its neighbour, then TensorFlow's own quantization.

The converter folds an inference-time batch norm, y = (x - mean) f + beta with f = gamma / sqrt(variance + epsilon),
into the kernel and the bias before it (Jacob et al., arXiv 1712.05877, section 3.2); behind anything else it stays a
product and a sum with constants. So what a twin stores is a formula of several weight tensors. Integers follow
https://ai.google.dev/edge/litert/models/quantization_spec: kernels int8 symmetric, biases int32 with the scale of
input times kernel, other constants int8 with a zero point. Only elementwise IEEE operations are used, so every
machine gets the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from shared.errors import BundleError

F32: TypeAlias = NDArray[np.float32]
Tensors: TypeAlias = Callable[[str], F32]
Term: TypeAlias = Literal["product", "shift", "factor"]

TERMS: tuple[Term, ...] = ("product", "shift", "factor")
_SMALLEST_RANGE = 1e-6  # TensorFlow widens what varies less, so that scales stay normal numbers
_BIAS_MAX = (2**31 - 1) // 2  # TensorFlow's limit, which leaves room for the sum


@dataclass(frozen=True)
class Fold:
    """A batch norm and what of it a constant holds; the names are tensor paths, None where the model has none.

    ``term`` "factor" is f, "shift" is (bias - mean) f + beta, "product" is the patch's own tensor times f, which
    runs along the tensor's ``axes``.
    """

    term: Term
    mean: str
    variance: str
    epsilon: float
    gamma: str | None = None
    beta: str | None = None
    bias: str | None = None
    axes: tuple[int, ...] = ()

    def paths(self) -> set[str]:
        """Return the tensors that the formula needs besides the patch's own."""
        return {path for path in (self.mean, self.variance, self.gamma, self.beta, self.bias) if path is not None}


@dataclass(frozen=True)
class BiasPatch:
    """The int32 bias of the same operation: places in bytes, the input's scale, and the tensor or formula.

    Without ``path`` the bias is zero, and only its scales change; without ``scale_offset`` there is none.
    """

    offset: int
    scale_offset: int | None
    input_scale: float
    path: str | None = None
    fold: Fold | None = None


def constant_values(path: str, fold: Fold | None, tensor: Tensors) -> F32:
    """Return what a constant holds, f32 in the shape of the tensor ``path``.

    Raises:
        BundleError: "bundle-weights" if a variance is negative or the result overflows f32.
    """
    if fold is None:
        return tensor(path)
    with np.errstate(all="ignore"):
        deviation = np.sqrt(tensor(fold.variance).astype(np.float64) + fold.epsilon)
        gamma = np.float64(1) if fold.gamma is None else tensor(fold.gamma).astype(np.float64)
        values = _term(path, fold, gamma / deviation, tensor).astype(np.float32)
    if not np.isfinite(values).all():
        raise BundleError(
            "bundle-weights",
            f"batch norm with variance {fold.variance} cannot be folded: its values leave float32's range",
            "look for a variance that is negative or almost 0; the release before still works",
        )
    return values


def _term(path: str, fold: Fold, factor: NDArray[np.float64], tensor: Tensors) -> NDArray[np.float64]:
    if fold.term == "factor":
        return factor
    if fold.term == "product":
        values = tensor(path)
        shape = [size if axis in fold.axes else 1 for axis, size in enumerate(values.shape)]
        return values * factor.reshape(shape)
    start = np.float64(0) if fold.bias is None else tensor(fold.bias).astype(np.float64)
    beta = np.float64(0) if fold.beta is None else tensor(fold.beta).astype(np.float64)
    return cast("NDArray[np.float64]", (start - tensor(fold.mean)) * factor + beta)


@dataclass(frozen=True)
class Quantized:
    """A kernel int8[n] with scales f32[channels], and its bias int32[b] with as many scales."""

    levels: NDArray[np.int8]
    scales: F32
    bias_levels: NDArray[np.int32]
    bias_scales: F32


def quantize_operation(path: str, stored: F32, channels: int, inner: int, bias: F32, input_scale: float) -> Quantized:
    """Quantize the kernel ``path``, f32[n] in stored order, and its bias f32[b], b a multiple of ``channels``.

    A channel whose bias would not fit into int32 beside so fine a kernel gets a coarser kernel. Of a dense kernel
    below 5e-7 TensorFlow writes levels that do not fit the scale beside them; these do.

    Raises:
        BundleError: "bundle-weights" if a scale is no normal f32.
    """
    grid = stored.reshape(-1, channels, inner)
    exact = _symmetric_scales(grid)
    largest = np.abs(bias.astype(np.float64)).reshape(channels, -1).max(axis=1)
    with np.errstate(over="ignore"):
        # In f64 throughout: NumPy 1 would multiply an f32 array by a number in f32, NumPy 2 in f64.
        product = exact.astype(np.float32).astype(np.float64) * input_scale
        too_fine = largest >= _BIAS_MAX * product
        exact = np.where(too_fine, largest / _BIAS_MAX / input_scale, exact)
        scales = exact.astype(np.float32)
        bias_scales = np.where(too_fine, largest / _BIAS_MAX, product).astype(np.float32)
    _require_normal(path, scales, bias_scales)
    # TensorFlow multiplies by the inverse in f32; it rounds that of a whole tensor's scale only once.
    inverse = (1 / exact).astype(np.float32) if channels == 1 else np.float32(1) / scales
    bias_steps = bias.reshape(channels, -1) * (np.float32(1) / bias_scales)[:, None]
    levels = np.clip(_half_away(grid * inverse[:, None]), -127, 127).astype(np.int8)
    return Quantized(levels.reshape(-1), scales, _half_away(bias_steps).astype(np.int32).reshape(-1), bias_scales)


def _require_normal(path: str, *scales: F32) -> None:
    limits = np.finfo(np.float32)
    if not all(((values >= limits.tiny) & (values <= limits.max)).all() for values in scales):
        raise BundleError(
            "bundle-weights",
            f"{path} or its bias is too large or too small to be quantized to int8",
            "look for a round in which training diverged; the release before still works",
        )


def _symmetric_scales(grid: F32) -> NDArray[np.float64]:
    """Return max|w| / 127 of every channel of f32[n, channels, inner]."""
    low, high = grid.min(axis=(0, 2)).astype(np.float64), grid.max(axis=(0, 2)).astype(np.float64)
    low, high = _widened(low, high)
    return np.maximum(np.abs(low), np.abs(high)) / 127


def _widened(low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    narrow = high - low <= _SMALLEST_RANGE
    half = _SMALLEST_RANGE / 2
    return np.where(narrow, np.minimum(low, -half), low), np.where(narrow, np.maximum(high, half), high)


def quantize_asymmetric(path: str, stored: F32) -> tuple[NDArray[np.int8], np.float32, int]:
    """Quantize ``path``, f32[n], with one scale and a zero point, so that 0 is exact; return levels int8[n] and both.

    Raises:
        BundleError: "bundle-weights" if the range leaves f32.
    """
    low, high = (np.asarray(value, np.float64) for value in (stored.min(initial=0), stored.max(initial=0)))
    low, high = _widened(low, high)
    with np.errstate(over="ignore"):
        scale = np.float32((np.float32(high) - np.float32(low)) / np.float32(255))
    _require_normal(path, np.asarray(scale))
    zero_point = int(np.clip(_half_away(-128 - low / float(scale)), -128, 127))
    levels = _half_away(stored * (np.float32(1) / scale) + np.float32(zero_point))
    return np.clip(levels, -128, 127).astype(np.int8), scale, zero_point


def _half_away(values: NDArray[Any] | np.float64) -> NDArray[np.float64]:
    """Round f32 to the nearest whole number, halves away from zero; adding 0.5 is exact in f64 only."""
    exact = np.asarray(values, np.float64)
    return np.asarray(np.trunc(exact + np.copysign(0.5, exact)))
