"""Weights as they go down to devices: int8 per output channel, and exactly what a device starts training from.

The server keeps an f32 master; devices see only these. Dequantizing is one multiplication per weight in IEEE
single precision, so every machine gets the same bits and their hash is the cohort's model hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from shared.errors import UsageError
from shared.wire.canonical import sha256, transcript

SCALE_SUFFIX = "#scale"


class TensorPlace(Protocol):
    """Where a tensor lies in the flat vector: what this module needs of a bundle's tensor entry."""

    @property
    def path(self) -> str:
        """The tensor's name."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def offset(self) -> int:
        """Its first coordinate in the flat vector."""
        ...

    @property
    def size(self) -> int:
        """How many coordinates it has."""
        ...


def quantize_weights(weights: npt.NDArray[np.float32], tensors: Sequence[TensorPlace]) -> bytes:
    """Return a safetensors file: matrices and kernels as int8 with f32 scales per last axis, vectors as f32.

    Symmetric, ``scale = max|w| / 127`` per output channel (Jacob et al., arXiv 1712.05877, without zero point).
    """
    out: dict[str, npt.NDArray[np.generic]] = {}
    for tensor in tensors:
        values = weights[tensor.offset : tensor.offset + tensor.size].reshape(tensor.shape)
        if values.ndim < 2:
            out[tensor.path] = np.ascontiguousarray(values)
            continue
        table = values.reshape(-1, tensor.shape[-1])
        scale = (np.abs(table).max(axis=0) / np.float32(127)).astype(np.float32)
        safe = np.where(scale == 0, np.float32(1), scale)
        out[tensor.path] = np.clip(np.rint(table / safe), -127, 127).astype(np.int8).reshape(tensor.shape)
        out[tensor.path + SCALE_SUFFIX] = scale
    return save(out)


def dequantize_weights(data: bytes, tensors: Sequence[TensorPlace], parameters: int) -> npt.NDArray[np.float32]:
    """Return f32[parameters] from the bytes of ``quantize_weights``, 0 where there is none of ``tensors``.

    Raises:
        UsageError: ``bad-weights`` if tensors are missing or have other shapes or types.
    """
    try:
        arrays = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UsageError("bad-weights", "The weights are not a readable safetensors file.") from error
    weights = np.zeros(parameters, dtype=np.float32)
    for tensor in tensors:
        values, scale = arrays.get(tensor.path), arrays.get(tensor.path + SCALE_SUFFIX)
        if values is None or values.shape != tuple(tensor.shape):
            raise UsageError("bad-weights", f"The weights do not fit the bundle at {tensor.path}.")
        if scale is not None:
            if values.dtype != np.int8 or scale.dtype != np.float32 or scale.shape != values.shape[-1:]:
                raise UsageError("bad-weights", f"The scales do not fit the bundle at {tensor.path}.")
            values = values.astype(np.float32) * scale
        elif values.dtype != np.float32:
            raise UsageError("bad-weights", f"{tensor.path} has type {values.dtype}, float32 was expected.")
        weights[tensor.offset : tensor.offset + tensor.size] = values.reshape(-1)
    return weights


def model_hash(weights: npt.NDArray[np.float32], manifest: bytes) -> bytes:
    """Return which model a cohort trained from and with which program, 32 octets.

    Without the program, whose hash is in the manifest, an aggregator could give everyone but one device a program whose
    updates are zero, and the sum would be that device's (Pasquini et al., arXiv 2111.07380).

    Args:
        weights: f32[d], from which training starts; hashed as little-endian octets.
        manifest: the bundle's, as it travels.
    """
    started = sha256(np.ascontiguousarray(weights, dtype="<f4").tobytes())
    return sha256(transcript("fedloom/1/model", started, sha256(manifest)))
