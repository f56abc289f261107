"""Sums of masked vectors as files beside those vectors, named by their hash, gone with their cohort."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from cloud_server.aggregation.running_sum import VectorsLost
from cloud_server.settings import write_private
from shared.secagg.masking import Words
from shared.wire.canonical import sha256

_PREFIX: Final = "sum-"  # no device's name begins so


@dataclass(frozen=True)
class PartialSums:
    """The sums of running cohorts.

    Attributes:
        folder: has a folder for each cohort.
    """

    folder: Path

    def write(self, cohort: str, total: Words) -> str:
        """Write a sum durably and return its hexadecimal SHA-256."""
        data = np.ascontiguousarray(total, "<u8").tobytes()
        digest = sha256(data).hex()
        write_private(self._path(cohort, digest), data)
        return digest

    def read(self, cohort: str, digest: str, words: int) -> Words:
        """Return a sum, u64[words].

        Raises:
            VectorsLost: ``sum-damaged``.
            OSError: if the disk cannot read now.
        """
        try:
            data = self._path(cohort, digest).read_bytes()
        except FileNotFoundError as error:
            raise VectorsLost("sum-damaged", f"The sum of cohort {cohort} is gone.") from error
        if sha256(data).hex() != digest or len(data) != 8 * words:
            raise VectorsLost("sum-damaged", f"The sum of cohort {cohort} is not what was written.")
        return np.frombuffer(data, "<u8").astype(np.uint64)

    def remove(self, cohort: str, digest: str) -> None:
        """Delete a sum; those that killed drivers left go with the cohort's folder."""
        self._path(cohort, digest).unlink(missing_ok=True)

    def _path(self, cohort: str, digest: str) -> Path:
        return self.folder / cohort / f"{_PREFIX}{digest}"
