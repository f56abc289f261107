"""Peak memory of an aggregator that adds and unmasks one cohort: ``python -m tools.bench.secagg_memory MEMBERS``.

A program of its own, because a peak belongs to the whole process. Prints octets.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from cloud_server.aggregation.running_sum import RunningSum
from shared.secagg.masking import WORD_BYTES
from shared.secagg.parameters import CohortRules, thresholds
from shared.wire.canonical import sha256
from tools.bench.secagg_scene import make_scene
from tools.inspection.memory import peak_bytes

_WORDS = 250_000  # a million coordinates in lanes of 16 bits


def main() -> None:
    """Add a vector per survivor, recover the secrets, and take the masks off."""
    members = int(sys.argv[1])
    scene = make_scene(members, members // 10, thresholds(members, CohortRules(10, members, 0.05, 0.1)))
    running = RunningSum(_WORDS)
    with tempfile.TemporaryDirectory(prefix="fedloom-bench-") as folder:
        vector = Path(folder) / "vector"
        data = os.urandom(_WORDS * WORD_BYTES)
        vector.write_bytes(data)
        for index in scene.fates.survivors:
            running.add(index, vector, sha256(data).hex())
    scene.unmask(running.total, 1)
    print(peak_bytes())


if __name__ == "__main__":
    main()
