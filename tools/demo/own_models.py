"""What the federated model, a copy trained further, and a model of one's own are worth on each owner's own examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

KINDS = ("federated", "personalised", "local_only")


@dataclass(frozen=True)
class OwnModels:
    """Of one device, on its owner's held-out examples: accuracies, shares from 0 to 1, and losses in nats per label."""

    owner: str
    examples: int
    accuracy_federated: float
    accuracy_personalised: float
    accuracy_local_only: float
    loss_federated: float
    loss_personalised: float
    loss_local_only: float


def of_device(owner: str, personal: Mapping[str, Any], alone: tuple[float, float]) -> OwnModels:
    """Join what a device says of itself (``fedloom-agent status``) with the model trained on its examples alone."""
    count = personal["count"]
    return OwnModels(
        owner,
        count,
        personal["correct_before"] / count,
        personal["correct"] / count,
        alone[0],
        personal["loss_before"] / count,
        personal["loss"] / count,
        alone[1],
    )


def means(rows: Sequence[OwnModels]) -> dict[str, float]:
    """Return the mean over devices of every column, as the report calls it."""
    return {
        f"{measure}_own_{kind}": mean(asdict(row)[f"{measure}_{kind}"] for row in rows)
        for measure in ("accuracy", "loss")
        for kind in KINDS
    }


def table(rows: Sequence[OwnModels]) -> str:
    """Return the table that the demo prints."""
    width = max(len(row.owner) for row in rows)
    lines = [f"{'':{width}}  held out  federated  trained further here  trained here alone"]
    lines += [
        f"{row.owner:{width}} {row.examples:9d} {row.accuracy_federated:10.1%} {row.accuracy_personalised:21.1%}"
        f" {row.accuracy_local_only:19.1%}"
        for row in rows
    ]
    total = means(rows)
    numbers = [total[f"accuracy_own_{kind}"] for kind in KINDS]
    lines.append(f"{'mean':{width}} {'':9} {numbers[0]:10.1%} {numbers[1]:21.1%} {numbers[2]:19.1%}")
    return "\n".join(lines)
