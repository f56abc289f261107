"""Patching a full-integer twin: what is stored means what the weights were, and what cannot be stored is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from shared.bundle import INFER_INT8_FILE, Patch, TensorSpec, patch_model
from shared.errors import BundleError
from shared.full_integer import (
    BiasPatch,
    Fold,
    Quantized,
    constant_values,
    quantize_asymmetric,
    quantize_operation,
)
from tests.shared.refusals import refused

F32: TypeAlias = NDArray[np.float32]

LARGEST_BIAS_LEVEL = (2**31 - 1) // 2  # half of int32, as TensorFlow leaves room for the sum
SMALLEST = 5e-7  # TensorFlow treats a kernel that is smaller as if its largest weight were this
TINY, HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
ROUNDING = 2.0**-22  # of some f32 operations, relative

ordinary = st.floats(-1e4, 1e4, width=32)
extreme = [float(np.float32(value)) for value in (0.0, -0.0, 2.0**-149, -TINY, 1e-7, -5e-7, 1e-3, 1e20, -1e25)]
weight = st.one_of(ordinary, st.sampled_from(extreme))
input_scales = st.floats(2.0**-28, 64.0, width=32)


@st.composite
def operations(draw: st.DrawFn) -> tuple[F32, int, int, F32, float]:
    """A kernel in stored order with channels and inner, its bias and its input's scale."""
    outer, channels, inner = (draw(st.integers(1, 4)) for _ in range(3))
    kernel = draw(arrays(np.float32, outer * channels * inner, elements=weight))
    bias = draw(arrays(np.float32, channels * draw(st.sampled_from([1, 1, 3])), elements=weight))
    return kernel, channels, inner, bias, draw(input_scales)


def quantized(operation: tuple[F32, int, int, F32, float]) -> Quantized:
    kernel, channels, inner, bias, input_scale = operation
    for array in (kernel, bias):
        array.setflags(write=False)
    return quantize_operation("layer/kernel", kernel, channels, inner, bias, input_scale)


def channel_of(count: int, channels: int, inner: int) -> NDArray[np.int64]:
    return np.arange(count) // inner % channels


def expected_scales(largest: float, bias: float, input_scale: float) -> tuple[float, float]:
    """Return what TensorFlow's rules say of one channel, in Python's own float64."""
    exact = max(largest, SMALLEST) / 127
    product = float(np.float32(exact)) * input_scale
    if bias >= LARGEST_BIAS_LEVEL * product:
        exact, product = bias / LARGEST_BIAS_LEVEL / input_scale, bias / LARGEST_BIAS_LEVEL
    return float(np.float32(exact)), float(np.float32(product))


@given(operations())
def test_scales_are_those_of_the_largest_weight_of_each_channel(operation: tuple[F32, int, int, F32, float]) -> None:
    kernel, channels, inner, bias, input_scale = operation
    found = quantized(operation)
    of = channel_of(kernel.size, channels, inner)
    for channel in range(channels):
        largest = float(np.abs(kernel[of == channel]).max())
        own_bias = float(np.abs(bias.reshape(channels, -1)[channel]).max())
        got = (float(found.scales[channel]), float(found.bias_scales[channel]))
        assert got == expected_scales(largest, own_bias, input_scale)


@given(operations())
def test_levels_are_the_nearest_to_the_weights(operation: tuple[F32, int, int, F32, float]) -> None:
    kernel, channels, inner, _, _ = operation
    found = quantized(operation)
    assert found.levels.dtype == np.int8
    assert np.abs(found.levels.astype(int)).max() <= 127
    scales = found.scales.astype(np.float64)[channel_of(kernel.size, channels, inner)]
    assert (np.abs(found.levels * scales - kernel) <= scales * 0.5 + np.abs(kernel) * ROUNDING).all()


@given(operations())
def test_bias_is_nearest_too_and_leaves_room_for_the_sum(operation: tuple[F32, int, int, F32, float]) -> None:
    _, channels, _, bias, input_scale = operation
    found = quantized(operation)
    assert found.bias_levels.dtype == np.int32
    assert np.abs(found.bias_levels.astype(np.int64)).max() <= LARGEST_BIAS_LEVEL * (1 + ROUNDING)
    scales = np.repeat(found.bias_scales.astype(np.float64), bias.size // channels)
    assert (np.abs(found.bias_levels * scales - bias) <= scales * 0.5 + np.abs(bias) * ROUNDING).all()
    # Sums of products have the scale of input times kernel, and the bias is added to them as it is.
    products = found.scales.astype(np.float64) * input_scale
    np.testing.assert_allclose(found.bias_scales, products, rtol=ROUNDING)


@given(operations())
def test_signs_do_not_matter(operation: tuple[F32, int, int, F32, float]) -> None:
    kernel, channels, inner, bias, input_scale = operation
    one, other = quantized(operation), quantized((-kernel, channels, inner, -bias, input_scale))
    assert (other.levels == -one.levels).all()
    assert (other.bias_levels == -one.bias_levels).all()
    assert (other.scales == one.scales).all()


@given(operations(), weight)
def test_channels_do_not_touch_each_other(operation: tuple[F32, int, int, F32, float], other: float) -> None:
    kernel, channels, inner, bias, input_scale = operation
    assume(channels > 1)
    of = channel_of(kernel.size, channels, inner)
    changed = np.where(of == 0, np.float32(other), kernel)
    one, two = quantized(operation), quantized((changed, channels, inner, bias, input_scale))
    assert (one.levels[of != 0] == two.levels[of != 0]).all()
    assert (one.scales[1:] == two.scales[1:]).all()
    assert (one.bias_scales[1:] == two.bias_scales[1:]).all()


@given(st.floats(2.0**-30, 1e6, width=32), input_scales, st.integers(-3, 3))
@example(1.3102271556854248, 0.027708884328603745, 0)
def test_a_bias_at_the_limit_is_judged_alike_by_every_numpy(largest: float, input_scale: float, steps: int) -> None:
    """NumPy 1 and 2 give a product of an f32 array and a number different types, and so different bytes once."""
    product = float(np.float32(max(largest, SMALLEST) / 127)) * input_scale
    bias = np.float32(LARGEST_BIAS_LEVEL * product)
    for _ in range(abs(steps)):
        bias = np.nextafter(bias, np.float32(math.copysign(np.inf, steps)))
    found = quantized((np.array([largest], np.float32), 1, 1, np.array([bias], np.float32), input_scale))
    assert (found.scales[0], found.bias_scales[0]) == expected_scales(largest, float(bias), input_scale)


def test_a_channel_of_zeros_is_zero_and_keeps_its_bias() -> None:
    kernel = np.array([0.0, 0.5, 0.0, -1.0], np.float32)
    found = quantized((kernel, 2, 1, np.array([0.25, 0.0], np.float32), 0.5))
    assert found.levels.tolist() == [0, 64, 0, -127]  # 63.5 is rounded away from zero
    assert found.bias_levels[0] * float(found.bias_scales[0]) == pytest.approx(0.25)
    assert found.bias_levels[1] == 0


def test_halves_are_rounded_away_from_zero() -> None:
    kernel = np.array([127.0, 0.5, -0.5, 1.5, -2.5], np.float32)
    bias = np.array([0.5, -0.5, 1.5, np.nextafter(np.float32(0.5), np.float32(0)), 2.5], np.float32)
    found = quantized((kernel, 1, 1, bias, 1.0))
    assert found.levels.tolist() == [127, 1, -1, 2, -3]
    assert found.bias_levels.tolist() == [1, -1, 2, 0, 3]


@pytest.mark.parametrize(
    ("kernel", "bias", "input_scale"),
    [
        (HUGE, 0.0, 1e3),  # the bias's scale is beyond f32
        (1.0, HUGE, 1e-30),  # the kernel's, made coarser, is
        (0.0, 0.0, TINY),  # the bias's is no normal number
        (1e-3, TINY, TINY),
    ],
)
def test_an_operation_without_f32_scales_is_refused_by_name(kernel: float, bias: float, input_scale: float) -> None:
    with pytest.raises(BundleError, match=r"layer/kernel .*\[bundle-weights\] Try: "):
        quantized((np.array([kernel], np.float32), 1, 1, np.array([bias], np.float32), input_scale))


@given(arrays(np.float32, st.integers(1, 20), elements=weight))
def test_constants_with_a_zero_point_keep_zero_and_come_near_everything(values: F32) -> None:
    values.setflags(write=False)
    levels, scale, zero_point = quantize_asymmetric("norm/gamma", values)
    assert levels.dtype == np.int8
    assert -128 <= zero_point <= 127
    assert (levels[values == 0] == zero_point).all()
    got = (levels.astype(np.float64) - zero_point) * float(scale)
    # Half a step, and half a step more at the ends, since the zero point is rounded.
    assert np.abs(got - values).max() <= float(scale) * (1 + 1e-4)
    width = float(values.max(initial=0)) - float(values.min(initial=0))
    assert float(scale) * 255 <= max(width * (1 + ROUNDING), 3 * SMALLEST)


def test_a_range_beyond_f32_is_refused_by_name() -> None:
    with pytest.raises(BundleError, match=r"norm/gamma .*\[bundle-weights\] Try: "):
        quantize_asymmetric("norm/gamma", np.array([-HUGE, HUGE], np.float32))


moments = st.floats(-100, 100, width=32)
variances = st.floats(0, 100, width=32)


@st.composite
def norms(draw: st.DrawFn) -> tuple[Fold, dict[str, F32], F32]:
    """A fold of a kernel along some of its axes, the batch norm's tensors, and the kernel."""
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=2, max_size=4)))
    last = len(shape) - 1
    axes = draw(st.sampled_from([(last,), (last - 1,), (last - 1, last)]))
    length = math.prod(shape[axis] for axis in axes)
    tensors = {"mean": draw(arrays(np.float32, length, elements=moments))}
    tensors["variance"] = draw(arrays(np.float32, length, elements=variances))
    present = {name: name if draw(st.booleans()) else None for name in ("gamma", "beta", "bias")}
    for name in filter(None, present.values()):
        tensors[name] = draw(arrays(np.float32, length, elements=moments))
    epsilon = draw(st.sampled_from([1e-5, 1e-3, 1.0]))
    kernel = draw(arrays(np.float32, shape, elements=moments))
    for array in (kernel, *tensors.values()):
        array.setflags(write=False)
    return Fold("product", "mean", "variance", epsilon, axes=axes, **present), tensors, kernel


def reference(fold: Fold, tensors: Mapping[str, F32], index: int) -> tuple[float, float]:
    """Return factor and shift of one channel in Python's float64."""
    read = {name: float(values[index]) for name, values in tensors.items()}
    factor = read.get("gamma", 1.0) / math.sqrt(read["variance"] + fold.epsilon)
    return factor, (read.get("bias", 0.0) - read["mean"]) * factor + read.get("beta", 0.0)


@given(norms())
def test_folds_are_float64_formulas_rounded_once(norm: tuple[Fold, dict[str, F32], F32]) -> None:
    fold, tensors, kernel = norm
    held = {**tensors, "kernel": kernel}
    expected = [reference(fold, tensors, index) for index in range(tensors["mean"].size)]
    factors = constant_values("mean", replace(fold, term="factor"), held.__getitem__)
    shifts = constant_values("mean", replace(fold, term="shift"), held.__getitem__)
    product = constant_values("kernel", fold, held.__getitem__)
    assert factors.dtype == shifts.dtype == product.dtype == np.float32
    assert product.shape == kernel.shape
    assert factors.tolist() == [float(np.float32(factor)) for factor, _ in expected]
    assert shifts.tolist() == [float(np.float32(shift)) for _, shift in expected]
    for place, value in np.ndenumerate(kernel):
        along = int(np.ravel_multi_index([place[a] for a in fold.axes], [kernel.shape[a] for a in fold.axes]))
        assert product[place] == np.float32(float(value) * expected[along][0])


@given(norms(), st.integers(0, 2**32 - 1))
def test_a_folded_layer_computes_what_layer_and_batch_norm_do(
    norm: tuple[Fold, dict[str, F32], F32], seed: int
) -> None:
    fold, tensors, kernel = norm
    assume(fold.axes == (kernel.ndim - 1,))
    held = {**tensors, "kernel": kernel}
    flat = kernel.reshape(-1, kernel.shape[-1]).astype(np.float64)
    x = np.random.default_rng(seed).normal(size=len(flat))
    factor, offset = np.array([reference(fold, tensors, index) for index in range(flat.shape[1])]).T
    folded = constant_values("kernel", fold, held.__getitem__).reshape(flat.shape)
    shift = constant_values("mean", replace(fold, term="shift"), held.__getitem__)
    magnitude = np.abs(x) @ np.abs(flat * factor) + np.abs(offset)
    smallest = np.finfo(np.float32).smallest_subnormal * (1 + np.abs(x).sum())  # below it float32 has no relative bound
    assert (np.abs(x @ folded + shift - (x @ flat * factor + offset)) <= 1e-6 * magnitude + smallest).all()


@pytest.mark.parametrize(
    ("variance", "epsilon", "gamma"),
    [(-1.0, 1e-3, 1.0), (-1e-3, 0.0, 1.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (1e-30, 0.0, 1e30), (TINY, 0.0, HUGE)],
)
def test_a_batch_norm_that_leaves_f32_is_refused_by_name(variance: float, epsilon: float, gamma: float) -> None:
    held = {
        "norm/mean": np.zeros(1, np.float32),
        "norm/variance": np.array([variance], np.float32),
        "norm/gamma": np.array([gamma], np.float32),
    }
    fold = Fold("factor", "norm/mean", "norm/variance", epsilon, gamma="norm/gamma")
    with pytest.raises(BundleError, match=r"norm/variance .*\[bundle-weights\] Try: "):
        constant_values("norm/mean", fold, held.__getitem__)


TENSORS = (
    TensorSpec("layer/kernel", (2, 2), 0, 4, "shared"),
    TensorSpec("layer/bias", (2,), 4, 2, "shared"),
    TensorSpec("norm/mean", (2,), 6, 2, "statistic"),
    TensorSpec("norm/variance", (2,), 8, 2, "statistic", 0.0),
)
SHIFT = Fold("shift", "norm/mean", "norm/variance", 1e-3, bias="layer/bias")
PATCHES = (
    Patch(
        INFER_INT8_FILE,
        "layer/kernel",
        8,
        "int8",
        (1, 0),
        channels=2,
        inner=2,
        scale_offset=16,
        fold=Fold("product", "norm/mean", "norm/variance", 1e-3, axes=(1,)),
        bias=BiasPatch(24, 32, 0.05, "layer/bias", SHIFT),
    ),
    Patch(INFER_INT8_FILE, "layer/bias", 40, "int8", (0,), inner=2, scale_offset=44, zero_point_offset=48),
)
MODEL = bytes(range(100, 160))


def read_only(values: Sequence[float]) -> F32:
    weights = np.array(values, np.float32)
    weights.setflags(write=False)
    return weights


def test_a_patched_file_holds_the_folded_layer_and_nothing_else_has_changed() -> None:
    weights = read_only([1.0, -2.0, 3.0, 4.0, 0.5, -0.25, 0.1, 0.2, 1.0, 4.0])
    patched = patch_model(MODEL, PATCHES, weights, TENSORS)
    factor = 1 / np.sqrt(np.array([1.0, 4.0]) + 1e-3)
    kernel = np.frombuffer(patched, np.int8, 4, 8).reshape(2, 2) * np.frombuffer(patched, "<f4", 2, 16)[:, None]
    np.testing.assert_allclose(kernel, np.array([[1.0, 3.0], [-2.0, 4.0]]) * factor[:, None], atol=0.012)
    bias = np.frombuffer(patched, "<i4", 2, 24) * np.frombuffer(patched, "<f4", 2, 32).astype(np.float64)
    np.testing.assert_allclose(bias, np.array([0.4, -0.45]) * factor, atol=6e-4)
    zero_point = int.from_bytes(patched[48:56], "little", signed=True)
    other = (np.frombuffer(patched, np.int8, 2, 40).astype(int) - zero_point) * np.frombuffer(patched, "<f4", 1, 44)
    np.testing.assert_allclose(other, [0.5, -0.25], atol=3e-3)
    places = {*range(8, 12), *range(16, 42), *range(44, 56)}
    assert all(patched[i] == MODEL[i] for i in range(len(MODEL)) if i not in places)
    assert len(patched) == len(MODEL)


@pytest.mark.parametrize(
    "values",
    [
        [1.0, -2.0, 3.0, 4.0, 0.5, -0.25, 0.1, 0.2, 1.0, -1.0],  # a variance below 0
        [1.0, -2.0, 3.0, 4.0, HUGE, -HUGE, 0.1, 0.2, 1.0, 1.0],  # a range beyond f32
        [HUGE, -2.0, 3.0, 4.0, 0.5, -0.25, 0.1, 0.2, 0.0, 1.0],  # a product beyond f32
        [1.0, -2.0, 3.0, 4.0, 0.5, -0.25, 0.1, 0.2, 1.0, math.inf],
    ],
)
def test_weights_that_cannot_be_stored_are_refused_by_name(values: list[float]) -> None:
    weights = read_only(values)
    with refused("bundle-weights", BundleError):
        patch_model(MODEL, PATCHES, weights, TENSORS)
    assert weights.tolist() == np.array(values, np.float32).tolist()
