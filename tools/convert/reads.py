"""Which weights take part in a traced model: Keras keeps variables that no output depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.convert.tf import Graph, Tensor


def weights_read(graphs: Sequence[Graph], count: int) -> list[int]:
    """Return the indices of the weights that some output depends on, also over several steps.

    Each graph has the ``count`` weights as its first inputs, and as its outputs 1 to ``count`` what they become; all
    other outputs are the model's. A weight that only moves itself, such as a counter, is not among those returned.
    """
    found: set[int] = set()
    waiting = [({*range(len(graph.outputs))} - {*range(1, count + 1)}, graph) for graph in graphs]
    while waiting:
        read = {
            index
            for outputs, graph in waiting
            for index in _inputs_of(graph, [graph.outputs[place] for place in outputs])
            if index < count
        }
        waiting = [({index + 1 for index in read - found}, graph) for graph in graphs] if read - found else []
        found |= read
    return sorted(found)


def _inputs_of(graph: Graph, outputs: Sequence[Tensor]) -> set[int]:
    """Return the places of those of the graph's inputs that ``outputs`` depend on."""
    seen: set[str] = set()
    waiting = [tensor.op for tensor in outputs]
    while waiting:
        op = waiting.pop()
        if op.name not in seen:
            seen.add(op.name)
            waiting += [tensor.op for tensor in op.inputs]
    return {place for place, tensor in enumerate(graph.inputs) if tensor.op.name in seen}
