"""The encoding of a cohort whose devices add noise: every lane of a vector has some, and there is nothing but lanes.

Counts that travel as whole words elsewhere become four measurements between 0 and 1: whether the device clipped,
whether it evaluated, its accuracy, and its mean loss over 10 nats. All devices weigh alike, so weights are not sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.errors import UnmaskingFailed
from shared.limits import MAX_NOISED_LOSS
from shared.numeric.clipping import ClippedUpdate, check_sum_norm
from shared.numeric.contribution_vector import AggregateSum, Evaluation
from shared.numeric.noise import MEASURES, Noise, noise_l2_norm
from shared.numeric.packing import Steps, pack_noised, unpack_noised_sum, words_for
from shared.numeric.quantization import dequantize, quantize
from shared.numeric.rotation import rotate_back, rotated_size, rotated_update
from shared.numeric.skellam import table_for

Words = npt.NDArray[np.uint64]
Sums = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NoisyEncoding:
    """How the members of one cohort write their numbers with noise; the interface is ``Encoding``'s.

    Attributes:
        dimensions: coordinates of an update, and of its statistics.
        rotated: whether both are rotated before rounding.
        noise: grids and noise.
    """

    dimensions: tuple[int, int]
    rotated: bool
    noise: Noise

    @property
    def sizes(self) -> tuple[int, ...]:
        """Lanes of the update, of statistics, and of measurements."""
        sizes = [rotated_size(size) if self.rotated else size for size in self.dimensions]
        return *sizes, MEASURES

    @property
    def lane_bits(self) -> int:
        """Bits per coordinate of the sum."""
        return self.noise.grids[0].lane_bits

    @property
    def words(self) -> int:
        """How many 64-bit words a vector has."""
        return words_for(sum(self.sizes), self.lane_bits)

    def encode(
        self,
        update: ClippedUpdate,
        statistics: ClippedUpdate,
        evaluation: Evaluation,
        *,
        sid: bytes,
        random_bytes: Callable[[int], bytes],
    ) -> Words:
        """Return u64[words] with this device's share of the noise, ready to be masked; see ``Encoding.encode``."""
        steps: list[Steps] = []
        for number, (part, grid) in enumerate(zip((update, statistics), self.noise.grids, strict=True)):
            spread = rotated_update(part, sid, number) if self.rotated else part
            steps.append(quantize(spread, grid, random_bytes).steps)
        steps.append(self._measure(evaluation, random_bytes, clipped=update.clipped or statistics.clipped))
        lanes: Sums = np.concatenate(steps, dtype=np.int64)
        lanes += table_for(self.noise.device_variance).draw(lanes.size, random_bytes)
        return pack_noised(lanes + self.noise.offset, lane_bits=self.lane_bits)

    def _measure(self, evaluation: Evaluation, random_bytes: Callable[[int], bytes], *, clipped: bool) -> Sums:
        """Return i64[4], each from 0 to the levels of a measurement."""
        values = np.array([clipped, evaluation.count > 0, evaluation.accuracy or 0.0, _loss_share(evaluation)])
        threshold = np.frombuffer(random_bytes(4 * MEASURES), dtype="<u4") / 2.0**32
        return np.floor(np.clip(values, 0.0, 1.0) * self.noise.measure_levels + threshold).astype(np.int64)

    def decode(self, total: Words, *, survivors: int, sid: bytes) -> AggregateSum:
        """Return what the plain sum of ``survivors`` vectors, u64[words], says.

        Measurements are brought into their range after the fact; ``evaluation`` counts devices, not examples.

        Raises:
            UnmaskingFailed: ``implausible-lanes`` or ``implausible-norm`` for a sum that honest devices and their
                noise cannot have produced.
        """
        noise = self.noise
        sums = unpack_noised_sum(total, dimension=sum(self.sizes), lowest=-noise.tail, lane_bits=self.lane_bits)
        sums -= survivors * noise.offset
        update, statistics, measures = np.split(sums, np.cumsum(self.sizes)[:-1])
        values = [self._values(steps, number, survivors, sid) for number, steps in enumerate((update, statistics))]
        if measures.min() < -noise.tail or measures.max() > survivors * noise.measure_levels + noise.tail:
            raise _implausible_lanes()
        clipped, evaluated, accuracy, loss = np.clip(measures / noise.measure_levels, 0.0, survivors)
        count = round(evaluated)
        evaluation = Evaluation(float(loss) * MAX_NOISED_LOSS, min(round(accuracy), count), count)
        return AggregateSum(values[0], survivors, round(clipped), evaluation, survivors, values[1])

    def _values(self, steps: Sums, number: int, survivors: int, sid: bytes) -> npt.NDArray[np.float64]:
        grid, noise = self.noise.grids[number], self.noise
        if steps.size and int(np.abs(steps).max()) > survivors * grid.levels + noise.tail:
            raise _implausible_lanes()
        values = dequantize(steps, grid)
        variance = noise.device_variance * survivors
        check_sum_norm(
            values,
            survivors=survivors,
            l2_norm_bound=grid.l2_norm_bound(steps.size),
            noise_l2_norm=noise_l2_norm(variance, steps.size, noise.tail) * grid.step,
            what=("The sum of updates", "The sum of statistics")[number],
        )
        return rotate_back(values, self.dimensions[number], sid, number) if self.rotated else values


def _loss_share(evaluation: Evaluation) -> float:
    # A model that diverged on this device gives NaN: the worst there is.
    share = (evaluation.mean_loss or 0.0) / MAX_NOISED_LOSS
    return 1.0 if math.isnan(share) else share


def _implausible_lanes() -> UnmaskingFailed:
    return UnmaskingFailed(
        "implausible-lanes",
        "A lane of the sum is larger than its members and their noise can make it.",
        "a member sent a malformed vector; the round goes on with a new cohort",
    )
