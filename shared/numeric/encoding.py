"""Between a device's numbers and the words that it masks: everything that a cohort's members do alike.

    rotate (where levels are few) -> round onto the grid -> pack

and back on the server. Sizes and grids follow from plan, model and roster alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from shared.numeric.clipping import ClippedUpdate
from shared.numeric.contribution_vector import (
    AggregateSum,
    Evaluation,
    Group,
    from_words,
    to_words,
    vector_words,
)
from shared.numeric.quantization import Grid, QuantizedUpdate, quantize
from shared.numeric.rotation import rotate_back, rotated_size, rotated_update

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Encoding:
    """How the members of one cohort write their numbers.

    Attributes:
        update: how many coordinates an update has, and their grid.
        statistics: the same of statistics; perhaps none.
        max_weight: of the plan.
        rotated: whether both are rotated before rounding.
    """

    update: Group
    statistics: Group
    max_weight: int
    rotated: bool

    @property
    def groups(self) -> tuple[Group, Group]:
        """Update and statistics as they lie in lanes."""
        return self._lanes(self.update), self._lanes(self.statistics)

    def _lanes(self, group: Group) -> Group:
        return replace(group, dimension=rotated_size(group.dimension)) if self.rotated else group

    @property
    def words(self) -> int:
        """How many 64-bit words a vector has."""
        return vector_words(sum(group.dimension for group in self.groups), self.update.grid.lane_bits)

    def encode(
        self,
        update: ClippedUpdate,
        statistics: ClippedUpdate,
        evaluation: Evaluation,
        *,
        sid: bytes,
        random_bytes: Callable[[int], bytes],
    ) -> Words:
        """Return u64[words], ready to be masked.

        Args:
            update: the device's, f64[d].
            statistics: the change of its statistics, f64[s].
            evaluation: of the weights that training started from.
            sid: of the session, for the rotation.
            random_bytes: cryptographic source, for rounding.
        """
        parts = [
            self._quantize(values, group.grid, number, sid, random_bytes)
            for number, (values, group) in enumerate(((update, self.update), (statistics, self.statistics)))
        ]
        return to_words(parts[0], evaluation, parts[1])

    def _quantize(
        self, update: ClippedUpdate, grid: Grid, number: int, sid: bytes, random_bytes: Callable[[int], bytes]
    ) -> QuantizedUpdate:
        if self.rotated:
            update = rotated_update(update, sid, number)
        return quantize(update, grid, random_bytes)

    def decode(self, total: Words, *, survivors: int, sid: bytes) -> AggregateSum:
        """Return what the plain sum of ``survivors`` vectors, u64[words], says.

        Raises:
            UnmaskingFailed: for a sum that honest devices cannot have produced, see ``from_words``.
        """
        update, statistics = self.groups
        decoded = from_words(
            total,
            dimension=update.dimension,
            grid=update.grid,
            survivors=survivors,
            max_weight=self.max_weight,
            statistics=statistics,
        )
        if not self.rotated:
            return decoded
        return replace(
            decoded,
            values=rotate_back(decoded.values, self.update.dimension, sid, 0),
            statistics=rotate_back(decoded.statistics, self.statistics.dimension, sid, 1),
        )
