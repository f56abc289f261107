"""The form in which benchmarks report."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """One figure and what it is compared with, in the same unit."""

    name: str
    value: float
    unit: str
    reference: str
    reference_value: float

    @property
    def ratio(self) -> float:
        """Value over reference; 0 where the reference is 0."""
        return self.value / self.reference_value if self.reference_value else 0.0


def cpu_name() -> str:
    """Return the processor's name as the kernel gives it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def to_json(results: list[Result]) -> str:
    """Return the document that ``--json`` writes."""
    rows = [{**asdict(result), "ratio": result.ratio} for result in results]
    return json.dumps({"cpu": cpu_name(), "results": rows}, indent=1)


def to_text(results: list[Result]) -> str:
    """Return one line per result."""
    lines = (
        f"{result.name}: {result.value:.4g} {result.unit}, "
        f"{result.reference} {result.reference_value:.4g} (ratio {result.ratio:.2f})"
        for result in results
    )
    return "\n".join(lines)
