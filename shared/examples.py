"""Labelled examples in memory and in the file that a device reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathlib import Path

Inputs: TypeAlias = NDArray[Any] | Mapping[str, NDArray[Any]]

EXAMPLES_FILE = "examples.npz"


@dataclass(frozen=True)
class Examples:
    """Labelled examples.

    ``x`` is f32[n, ...] (or the model's dtype); a model with several inputs takes one array per signature
    name. ``y`` is an integer array [n] for sparse labels, else f32[n, ...].
    """

    x: Inputs
    y: NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)

    def inputs(self) -> Mapping[str, NDArray[Any]]:
        """Return the inputs by signature name."""
        return self.x if isinstance(self.x, Mapping) else {"x": self.x}


def concatenate(parts: list[Examples]) -> Examples:
    """Return the examples of all parts, in order; the parts have the same inputs."""
    names = parts[0].inputs()
    x = {name: np.concatenate([part.inputs()[name] for part in parts]) for name in names}
    return Examples(x["x"] if list(x) == ["x"] else x, np.concatenate([part.y for part in parts]))


def write_examples(folder: Path, train: Examples, held_out: Examples) -> None:
    """Write a device's ``examples.npz``: its arrays of x, ``y``, and ``held_out`` bool[n]."""
    folder.mkdir(parents=True, exist_ok=True)
    both = concatenate([train, held_out])
    flags = np.arange(len(both)) >= len(train)
    np.savez_compressed(folder / EXAMPLES_FILE, y=both.y, held_out=flags, **both.inputs())
