"""What a version gives devices to start from: int8 weights anew each time, initial values of local tensors once.

Local tensors have no place in the file that changes per round: after the first round every device has values of its
own. The initial ones are in the model hash, so that no member of a cohort can have been started elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from shared.bundle import TensorSpec
from shared.errors import UsageError
from shared.layout import Layout, summed_tensors
from shared.numeric.wire_weights import dequantize_weights, quantize_weights


def write_start(weights: npt.NDArray[np.float32], tensors: Sequence[TensorSpec]) -> tuple[bytes, bytes | None]:
    """Return the int8 weights' file, and the file of local tensors, f32; None for a model without any."""
    local = [spec for spec in tensors if spec.role == "local"]
    values = {spec.path: weights[spec.offset : spec.offset + spec.size].reshape(spec.shape) for spec in local}
    return quantize_weights(weights, summed_tensors(tensors)), save(values) if local else None


def read_start(wire: bytes, local: bytes | None, tensors: Sequence[TensorSpec]) -> npt.NDArray[np.float32]:
    """Undo ``write_start``: the weights that training starts from, f32[d].

    Raises:
        UsageError: ``bad-weights`` if tensors are missing, or have other shapes or types.
    """
    weights = dequantize_weights(wire, summed_tensors(tensors), sum(spec.size for spec in tensors))
    part = Layout.of(tensors).local
    return part.replace(weights, _local_values(local, tensors)) if part.size else weights


def _local_values(data: bytes | None, tensors: Sequence[TensorSpec]) -> npt.NDArray[np.float32]:
    try:
        arrays = load(data or b"")
    except (SafetensorError, ValueError, KeyError) as error:
        raise UsageError("bad-weights", "The local tensors are not a readable safetensors file.") from error
    values = []
    for spec in (spec for spec in tensors if spec.role == "local"):
        array = arrays.get(spec.path)
        if array is None or array.shape != spec.shape or array.dtype != np.float32 or not np.isfinite(array).all():
            raise UsageError("bad-weights", f"The initial values of {spec.path} do not fit the bundle.")
        values.append(array.reshape(-1))
    return np.concatenate(values)
