"""The demo's pictures: accuracy or loss over rounds, for strangers and for the participants."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, FEDERATED, LOCAL, CENTRAL = "#1f2933", "#0b6e69", "#c26a1b", "#6b7280"
_HEADING = 44  # characters in a line


@dataclass(frozen=True)
class Panel:
    """One panel: element i of ``federated`` is after round i, of the others after round i + 1."""

    heading: str
    federated: Sequence[float]
    alone: Sequence[float]
    together: Sequence[float]


def draw(path: Path, panels: tuple[Panel, Panel], title: str, unit: str, highest: float) -> None:
    """Write a PNG with two panels; values are from 0 to ``highest`` in ``unit``."""
    mpl.rcParams.update({"font.size": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": "#9aa5b1"})
    figure = Figure(figsize=(10, 4.4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, panel in zip((left, right), panels, strict=True):
        federated, alone, together = panel.federated, panel.alone, panel.together
        axes.plot(
            range(len(federated)),
            federated,
            color=FEDERATED,
            linewidth=2.4,
            marker="o",
            markersize=3.5,
            label="federated",
        )
        axes.plot(range(1, len(together) + 1), together, color=CENTRAL, linestyle="--", label="all data in one place")
        axes.plot(range(1, len(alone) + 1), alone, color=LOCAL, linestyle=":", linewidth=2, label="each device alone")
        axes.set_title(textwrap.fill(panel.heading, _HEADING), loc="left", fontsize=11)
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0, highest)
        axes.set_xlim(0, max(1, len(federated) - 1))
        axes.grid(visible=True, color="#e4e7eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel(unit)
    right.legend(loc="lower right", frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    figure.savefig(path)
