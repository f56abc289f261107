"""How fast durable uploads become new weights, beside NumPy's additions alone, and how much memory that takes."""

from __future__ import annotations

import json
from typing import Any, Final

from shared.limits import MIB
from tools.bench.aggregate_sum import PARAMETERS
from tools.bench.child import child
from tools.bench.report import Result

UPDATES: Final = (10, 100, 1000)
TIMED: Final = 100


def measure() -> list[Result]:
    """Add up cohorts of three sizes, each in a process of its own."""
    runs: dict[int, Any] = {
        updates: json.loads(child("tools.bench.aggregate_sum", str(updates)).splitlines()[-1]) for updates in UPDATES
    }
    timed, smallest = runs[TIMED], runs[UPDATES[0]]["bytes"] / MIB
    what = f"aggregate/{TIMED} updates of {PARAMETERS} parameters, durable uploads to new weights"
    return [
        Result(what, timed["seconds"], "s", "NumPy additions of the same vectors", timed["numpy_seconds"]),
        *(
            Result(
                f"aggregate/memory for {updates} updates",
                runs[updates]["bytes"] / MIB,
                "MiB",
                f"for {UPDATES[0]} updates",
                smallest,
            )
            for updates in UPDATES[1:]
        ),
    ]
