"""Random numbers from operators that every TFLite runtime has, the same on all of them.

TFLite's own random operators keep a state that cannot be set. Here a number is a hash of (seed, step, draw, element),
so training with dropout can be repeated and proven. All arithmetic is on whole numbers below 2^24, which f32 holds
exactly: modulo a prime p < 4096 with p = 2 mod 3, cubing is a permutation. Two primes give about 16.7 million different
values. This is for layers that draw while training; never use it where an attacker must not guess a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tools.convert.tf import Tensor, tf

_PRIMES = ((4091.0, 1741.0), (4079.0, 2903.0))  # and a multiplier for each
_LIMB = 4096.0

# Operations that draw, and the distribution that each draws from.
DRAWS = {
    "RandomStandardNormal": "normal",
    "RandomUniform": "uniform",
    "StatelessRandomNormal": "normal",
    "StatelessRandomNormalV2": "normal",
    "StatelessRandomUniform": "uniform",
    "StatelessRandomUniformV2": "uniform",
}
# Operations that draw in a way that is not written here; with a constant seed they would be folded to constants.
OTHER_DRAWS = frozenset(
    (
        "Multinomial", "ParameterizedTruncatedNormal", "RandomCrop", "RandomGamma", "RandomIndexShuffle",
        "RandomPoisson", "RandomPoissonV2", "RandomShuffle", "RandomUniformInt", "RngReadAndSkip",
        "StatefulRandomBinomial", "StatefulStandardNormal", "StatefulStandardNormalV2", "StatefulTruncatedNormal",
        "StatefulUniform", "StatefulUniformFullInt", "StatefulUniformInt", "StatelessMultinomial",
        "StatelessParameterizedTruncatedNormal", "StatelessRandomBinomial", "StatelessRandomGammaV2",
        "StatelessRandomGammaV3", "StatelessRandomPoisson", "StatelessRandomUniformFullInt",
        "StatelessRandomUniformFullIntV2", "StatelessRandomUniformInt", "StatelessRandomUniformIntV2",
        "StatelessShuffle", "StatelessTruncatedNormal", "StatelessTruncatedNormalV2", "TruncatedNormal",
    )
)  # fmt: skip


@dataclass
class Randomness:
    """A source of draws: ``seed`` and ``step`` are whole numbers below 2^24 in f32[1]."""

    seed: Tensor
    step: Tensor
    draws: int = 0

    def draw(self, kind: str, shape: Sequence[int]) -> Tensor:
        """Return f32[shape]: "uniform" in [0, 1), or "normal" by Box and Muller's transform."""
        if kind == "uniform":
            return self._uniform(shape)
        radius = tf.sqrt(-2.0 * tf.math.log(1.0 - self._uniform(shape)))
        return radius * tf.cos(2.0 * math.pi * self._uniform(shape))

    def _uniform(self, shape: Sequence[int]) -> Tensor:
        self.draws += 1
        columns = shape[-1] if len(shape) else 1
        rows = math.prod(shape[:-1])
        parts = [self._stream(prime, factor, rows, columns) / prime for prime, factor in _PRIMES]
        total = parts[0] + parts[1]
        # The sum of two rounded quotients may be 1 after the floor is taken off; no dropout rate is that high.
        return tf.reshape(tf.minimum(total - tf.floor(total), 1.0 - 2.0**-24), shape)

    def _stream(self, prime: float, factor: float, rows: int, columns: int) -> Tensor:
        key = tf.constant([float(self.draws)])
        for word in (self.seed, self.step):
            high = tf.floor(word / _LIMB)
            key = _mix(key * factor + (word - high * _LIMB), prime)
            key = _mix(key * factor + high, prime)
        row = _mix(_modulo(_counter(rows, 1, prime) * factor, prime) + key, prime)
        column = _mix(_modulo(_counter(columns, 0, prime) * (factor - 2.0), prime) + _mix(key + 1.0, prime), prime)
        return _mix(_mix(row * factor + column, prime), prime, after=column)


def _counter(count: int, axis: int, prime: float) -> Tensor:
    return tf.constant(np.expand_dims(np.arange(count, dtype=np.float32) % np.float32(prime), axis))


def _modulo(value: Tensor, prime: float) -> Tensor:
    """Return whole numbers below 2^24 modulo ``prime``, up to one prime off where the quotient was rounded."""
    return value - tf.floor(value * (1.0 / prime)) * prime


def _mix(value: Tensor, prime: float, after: Tensor | None = None) -> Tensor:
    """Return (value + after)^3 modulo ``prime``."""
    base = _modulo(value if after is None else value + after, prime)
    return _modulo(_modulo(base * base, prime) * base, prime)
