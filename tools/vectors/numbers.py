"""From real numbers to words: rotation, grids, rounding, lanes, and the lanes of noise."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from shared.numeric.clipping import ClippedUpdate
from shared.numeric.contribution_vector import Evaluation, Group, from_words, to_words
from shared.numeric.noise import NoiseRule, NoisyGroup, noise_for
from shared.numeric.noisy_encoding import NoisyEncoding
from shared.numeric.packing import LANES_PER_WORD, pack, pack_noised, unpack_noised_sum, unpack_sum
from shared.numeric.quantization import Grid, QuantizedUpdate, quantize
from shared.numeric.rotation import block_size, rotate, rotated_size, spread
from tools.vectors.document import DIGITS, Case, Document, Drawn, hexadecimal, octets_for, real, whole, words_to_hex

_WIDTHS: Final = tuple(LANES_PER_WORD)
_DIMENSIONS: Final = (1, 2, 3, 5, 64, 100, 1000, 4096, 5000, 62_006)


def small_numbers(count: int, name: str) -> npt.NDArray[np.float64]:
    """Return f64[count] between -1 and 1, whole multiples of 1 / 128."""
    return np.frombuffer(octets_for(name, count), np.int8) / 128.0


def rotations() -> Document:
    """Return the file's content."""
    sizes: list[Case] = [
        {"dimension": d, "block": block_size(d), "padded": rotated_size(d), "spread": spread(d)} for d in _DIMENSIONS
    ]
    vectors = [_rotation(3, 0), _rotation(3, 1), _rotation(5, 0), _rotation(64, 0), _rotation(100, 1)]
    return {"sizes": [*sizes], "rotations": [*vectors]}


def _rotation(dimension: int, group: int) -> Case:
    sid, values = octets_for("sid"), small_numbers(dimension, f"rotated {dimension}")
    rotated = rotate(values, sid, group)
    return {"sid": sid.hex(), "group": group, "values": whole(values * 128), "rotated": real(rotated * 128)}


def grids() -> Document:
    """Return the file's content."""
    return {
        "grids": [_grid(members, bits) for members in (2, 10, 64, 1000) for bits in _WIDTHS],
        "roundings": [_rounding(members, bits) for members in (5, 64) for bits in _WIDTHS],
        "packings": [_packing(bits) for bits in _WIDTHS],
        "vectors": [_vector(bits) for bits in _WIDTHS],
        "noised_packings": [_noised_packing(bits) for bits in _WIDTHS],
        "noises": [
            _noise(members, sizes, multiplier, bits)
            for members, bits in ((10, 21), (100, 16), (1000, 32))
            for sizes, multiplier in (((1000, 0), 0.5), ((5000, 40), 1.0))
        ],
        "noised_sums": [_noised_sum(bits) for bits in _WIDTHS],
    }


def _grid(members: int, lane_bits: int) -> Case:
    share = spread(1000) if lane_bits == 16 else 1.0
    grid = Grid.for_cohort(members, lane_bits=lane_bits, max_l2_norm=0.5, spread=share)
    return {"members": members, **asdict(grid), "squared_norm_bound_of_1000": grid.squared_norm_bound(1000)}


def _rounding(members: int, lane_bits: int) -> Case:
    grid = Grid.for_cohort(members, lane_bits=lane_bits, max_l2_norm=1.0)
    raw, source = small_numbers(10, "rounded"), Drawn("rounding")
    update = ClippedUpdate(raw, 0.25, 1, 1.0, clipped=False)
    steps = quantize(update, grid, source).steps
    return {
        **asdict(grid),
        "values": [float(value) for value in update.values],
        "keys": hexadecimal(source.draws),
        "steps": whole(steps),
    }


def _packing(lane_bits: int) -> Case:
    """Return three members' lanes, the largest and smallest among them."""
    grid = Grid.for_cohort(3, lane_bits=lane_bits, max_l2_norm=1.0)
    q = grid.levels
    rows = np.array([[q, -q, 0, 1, -1, q, 5], [q, -q, q, -q, 2, q, -6], [q, -q, 1, 0, -q, q, 7]], dtype=np.int32)
    words = [pack([row], levels=q, lane_bits=lane_bits) for row in rows]
    total = np.sum(words, axis=0, dtype=np.uint64)
    sums = unpack_sum(total, dimension=7, levels=q, lane_bits=lane_bits, survivors=3)
    return {
        "lane_bits": lane_bits,
        "levels": q,
        "rows": [whole(row) for row in rows],
        "words": [words_to_hex(one) for one in words],
        "sum": words_to_hex(total),
        "sums": whole(sums),
    }


def _vector(lane_bits: int) -> Case:
    """Return a whole vector: an update, statistics and counts, one of them of a device whose loss is NaN."""
    grid = Grid.for_cohort(5, lane_bits=lane_bits, max_l2_norm=0.5)
    update = QuantizedUpdate(np.array([3, -4, 0, 5], np.int32), grid, 7, clipped=False)
    statistics = QuantizedUpdate(np.array([-1, 2, 3], np.int32), replace(grid, max_l2_norm=2.0), 7, clipped=True)
    words = to_words(update, Evaluation(12.3456, 8, 10), statistics)
    worst = to_words(update, Evaluation(math.nan, 8, 10), statistics)
    total = from_words(
        words + worst,
        dimension=4,
        grid=grid,
        survivors=2,
        max_weight=10,
        statistics=Group(3, statistics.grid),
    )
    return {
        **asdict(grid),
        "statistics_max_l2_norm": 2.0,
        "max_weight": 10,
        "steps": whole(update.steps),
        "statistics_steps": whole(statistics.steps),
        "weight": 7,
        "clipped": True,
        "loss_sum": 12.3456,
        "correct": 8,
        "evaluated": 10,
        "words": words_to_hex(words),
        "words_with_loss_nan": words_to_hex(worst),
        "sum_of_both": {
            "values": [float(value) for value in total.values],
            "statistics": [float(value) for value in total.statistics],
            "weight": total.weight_sum,
            "loss_sum": total.evaluation.loss_sum,
            "correct": total.evaluation.correct,
            "evaluated": total.evaluation.count,
            "clipped": total.clipped,
        },
    }


def _noised_packing(lane_bits: int) -> Case:
    """Return two members' lanes, some below 0 and some beyond a lane, whose sum is in range."""
    wide = 2**lane_bits
    rows = np.array([[-1, 5, wide + 7, -wide, 3, 0, 9], [4, -2, -wide, wide + 1, -20, 0, 1]], dtype=np.int64)
    words = [pack_noised(row, lane_bits=lane_bits) for row in rows]
    total = np.sum(words, axis=0, dtype=np.uint64)
    sums = unpack_noised_sum(total, dimension=7, lowest=-100, lane_bits=lane_bits)
    return {
        "lane_bits": lane_bits,
        "lowest": -100,
        "rows": [whole(row) for row in rows],
        "words": [words_to_hex(one) for one in words],
        "sum": words_to_hex(total),
        "sums": whole(sums),
    }


def _noised_sum(lane_bits: int) -> Case:
    """Return the sum of nine survivors of ten: five coordinates, two statistics, four measurements."""
    sizes, norms, survivors = (5, 2), (1.0, 0.5), 9
    groups = tuple(NoisyGroup(size, norm, 1.0) for size, norm in zip(sizes, norms, strict=True))
    rule = NoiseRule(0.5, 0.15, lane_bits)
    noise = noise_for(10, groups, rule)
    most = noise.measure_levels
    steps = np.array(
        [40, -3, 0, 7, -noise.tail, 6, -5, 2 * most, 9 * most + 3, 6 * most, 5 * most // 2], dtype=np.int64
    )
    words = pack_noised(steps + survivors * noise.offset, lane_bits=lane_bits)
    total = NoisyEncoding(sizes, rotated=False, noise=noise).decode(words, survivors=survivors, sid=octets_for("sid"))
    return {
        "members": 10,
        "survivors": survivors,
        "groups": [asdict(group) for group in groups],
        **asdict(rule),
        "offset": noise.offset,
        "measure_levels": most,
        "steps": whole(steps),
        "sum": words_to_hex(words),
        "values": real(total.values),
        "statistics": real(total.statistics),
        "clipped": total.clipped,
        "evaluated": total.evaluation.count,
        "correct": total.evaluation.correct,
        "loss_sum": round(total.evaluation.loss_sum, DIGITS),
    }


def _noise(members: int, sizes: tuple[int, int], multiplier: float, lane_bits: int) -> Case:
    padded = [rotated_size(size) for size in sizes]
    groups = tuple(
        NoisyGroup(size, norm, spread(plain)) for size, plain, norm in zip(padded, sizes, (1.0, 2.0), strict=True)
    )
    rule = NoiseRule(multiplier, 0.15, lane_bits)
    noise = noise_for(members, groups, rule)
    return {
        "members": members,
        "groups": [asdict(group) for group in groups],
        **asdict(rule),
        "levels": [grid.levels for grid in noise.grids],
        "measure_levels": noise.measure_levels,
        "offset": noise.offset,
        "tail": noise.tail,
        "device_variance": noise.device_variance,
    }
