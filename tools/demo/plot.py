"""The demo's picture: accuracy over rounds, for strangers and for the participants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from tools.baselines import Curve

INK, FEDERATED, LOCAL, CENTRAL = "#1f2933", "#0b6e69", "#c26a1b", "#6b7280"


def draw(
    path: Path, strangers: Sequence[float], participants: Sequence[float], local: Curve, central: Curve, title: str
) -> None:
    """Write a PNG with two panels; accuracies are shares from 0 to 1, element i after round i."""
    mpl.rcParams.update({"font.size": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": "#9aa5b1"})
    figure = Figure(figsize=(10, 4.4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    panels = (
        (left, "People who never took part", strangers, local.accuracy, central.accuracy),
        (
            right,
            "Held-out windows of those who did",
            participants,
            local.accuracy_participants,
            central.accuracy_participants,
        ),
    )
    for axes, heading, federated, alone, together in panels:
        rounds = range(len(federated))
        axes.plot(rounds, federated, color=FEDERATED, linewidth=2.4, marker="o", markersize=3.5, label="federated")
        axes.plot(range(1, len(together) + 1), together, color=CENTRAL, linestyle="--", label="all data in one place")
        axes.plot(range(1, len(alone) + 1), alone, color=LOCAL, linestyle=":", linewidth=2, label="each device alone")
        axes.set_title(heading, loc="left", fontsize=11)
        axes.set_xlabel("round")
        axes.set_ylim(0, 1)
        axes.set_xlim(0, max(1, len(federated) - 1))
        axes.grid(visible=True, color="#e4e7eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("share of windows recognised")
    right.legend(loc="lower right", frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    figure.savefig(path)
