"""Weights on their way down: int8 with one scale per output channel, the same floats on every machine."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from shared.errors import UsageError
from shared.numeric.wire_weights import SCALE_SUFFIX, dequantize_weights, model_hash, quantize_weights
from tests.shared.cohort_simulation import Randomness
from tests.shared.refusals import refused


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in the flat vector."""

    path: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


KERNEL, BIAS, CONVOLUTION = Place("a/kernel", (5, 4), 0), Place("a/bias", (4,), 20), Place("c/kernel", (3, 3, 2, 4), 24)
PLACES = (KERNEL, BIAS, CONVOLUTION)
PARAMETERS = 24 + 72


def weights_of(seed: str, factor: float = 1.0) -> npt.NDArray[np.float32]:
    octets = Randomness(seed)(4 * PARAMETERS)
    return (np.frombuffer(octets, dtype="<i4").astype(np.float32) / np.float32(2**31) * np.float32(factor)).astype(
        np.float32
    )


@given(st.integers(0, 2**32).map(str), st.sampled_from([1e-20, 1e-3, 1.0, 1e20]))
def test_each_weight_moves_by_half_a_step_of_its_channel_and_vectors_stay_exact(seed: str, factor: float) -> None:
    weights = weights_of(seed, factor)
    restored = dequantize_weights(quantize_weights(weights, PLACES), PLACES, PARAMETERS)
    for place in PLACES:
        part = slice(place.offset, place.offset + place.size)
        before, after = weights[part].reshape(place.shape), restored[part].reshape(place.shape)
        if before.ndim < 2:
            np.testing.assert_array_equal(before, after)
            continue
        channels = before.reshape(-1, place.shape[-1]).astype(np.float64)
        half_step = np.abs(channels).max(axis=0) / 127 / 2
        error = np.abs(after.reshape(channels.shape) - channels)
        assert (error <= half_step * (1 + 1e-4)).all()


def test_a_channel_of_zeros_stays_zero_beside_others() -> None:
    weights = np.ones(PARAMETERS, dtype=np.float32)
    weights[:20].reshape(5, 4)[:, 2] = 0
    restored = dequantize_weights(quantize_weights(weights, PLACES), PLACES, PARAMETERS)
    np.testing.assert_array_equal(restored, weights)


def test_the_largest_weight_of_a_channel_is_127_steps() -> None:
    weights = np.zeros(PARAMETERS, dtype=np.float32)
    weights[:20].reshape(5, 4)[:, 1] = [2.54, -2.54, 1.27, 0.009, 0.011]
    arrays = load(quantize_weights(weights, PLACES))
    assert arrays["a/kernel"].dtype == np.int8
    assert arrays["a/kernel"][:, 1].tolist() == [127, -127, 64, 0, 1]
    assert set(arrays) == {"a/kernel", "a/kernel" + SCALE_SUFFIX, "a/bias", "c/kernel", "c/kernel" + SCALE_SUFFIX}


def test_dequantizing_is_one_single_precision_product_per_weight() -> None:
    data = quantize_weights(weights_of("product"), PLACES)
    arrays = load(data)
    restored = dequantize_weights(data, PLACES, PARAMETERS)[:20].reshape(5, 4)
    for row in range(5):
        for channel in range(4):
            exact = float(arrays["a/kernel"][row, channel]) * float(arrays["a/kernel#scale"][channel])
            assert restored[row, channel] == struct.unpack("<f", struct.pack("<f", exact))[0]


def test_the_wire_form_is_about_a_quarter_of_the_floats() -> None:
    place = Place("big", (256, 256), 0)
    data = quantize_weights(np.ones(256 * 256, dtype=np.float32), [place])
    assert len(data) < 0.27 * 4 * 256 * 256


def tampered(**changes: npt.NDArray[np.generic] | None) -> bytes:
    arrays: dict[str, npt.NDArray[np.generic]] = dict(load(quantize_weights(weights_of("tampered"), PLACES)))
    for name, value in changes.items():
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value
    return save(arrays)


KERNEL_VALUES = np.zeros((5, 4), dtype=np.int8)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff" * 100, id="no header"),
        pytest.param(tampered()[:-1], id="cut"),
        pytest.param(tampered() + b"\0", id="longer"),
        pytest.param(tampered(**{"a/bias": None}), id="missing vector"),
        pytest.param(tampered(**{"a/kernel": None}), id="missing matrix"),
        pytest.param(tampered(**{"a/kernel#scale": None}), id="missing scale"),
        pytest.param(tampered(**{"a/kernel": KERNEL_VALUES.T.copy()}), id="other shape"),
        pytest.param(tampered(**{"a/kernel": KERNEL_VALUES.astype(np.uint8)}), id="other integers"),
        pytest.param(tampered(**{"a/kernel": KERNEL_VALUES.astype(np.float32)}), id="floats with a scale"),
        pytest.param(tampered(**{"a/kernel#scale": np.ones(5, dtype=np.float32)}), id="scale of another size"),
        pytest.param(tampered(**{"a/kernel#scale": np.ones(4, dtype=np.float64)}), id="double scale"),
        pytest.param(tampered(**{"a/kernel#scale": np.ones(1, dtype=np.float32)}), id="broadcast scale"),
        pytest.param(tampered(**{"a/bias": np.zeros(4, dtype=np.float64)}), id="double vector"),
        pytest.param(tampered(**{"a/bias": np.zeros(3, dtype=np.float32)}), id="short vector"),
    ],
)
def test_files_that_do_not_fit_the_bundle_are_refused(data: bytes) -> None:
    with refused("bad-weights", UsageError):
        dequantize_weights(data, PLACES, PARAMETERS)


@given(st.integers(0, 7), st.integers(0, 400))
def test_a_flipped_bit_gives_a_refusal_or_other_weights_but_no_other_error(bit: int, place: int) -> None:
    data = bytearray(tampered())
    data[place % len(data)] ^= 1 << bit
    outcome: str | tuple[int, ...]
    try:
        outcome = dequantize_weights(bytes(data), PLACES, PARAMETERS).shape
    except UsageError as error:
        outcome = error.code
    assert outcome in {(PARAMETERS,), "bad-weights"}


def test_the_model_hash_is_over_little_endian_floats_in_order_and_the_manifest() -> None:
    values, manifest = [1.5, -0.0, 3.25], b"{}"
    weights = np.array(values, dtype=np.float32)
    parts = b"fedloom/1/model", hashlib.sha256(struct.pack("<3f", *values)), hashlib.sha256(manifest)
    octets = [part if isinstance(part, bytes) else part.digest() for part in parts]
    expected = hashlib.sha256(b"".join(struct.pack(">Q", len(part)) + part for part in octets)).digest()
    assert model_hash(weights, manifest) == expected
    assert model_hash(weights.astype(">f4"), manifest) == expected
    assert model_hash(np.repeat(weights, 2)[::2], manifest) == expected
    assert model_hash(np.array([1.5, 0.0, 3.25], dtype=np.float32), manifest) != expected
    assert model_hash(weights, b"{ }") != expected
