"""Find the tables of the model's embeddings in its inference graph: weights of which rows are looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tools.convert.batch_norms import weight_of
from tools.convert.tf import Graph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_LOOKUPS = ("Gather", "GatherV2", "GatherNd")


def embedding_tables(graph: Graph, marks: Mapping[str, NDArray[np.float32]]) -> list[str]:
    """Return the paths of the tables; ``marks`` are the weights in the graph."""
    lookups = [op for op in graph.get_operations() if op.type in _LOOKUPS]
    return [path for op in lookups if (path := weight_of(op.inputs[0], marks))]
