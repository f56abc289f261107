"""The order of the operations in a training program: each as late as it can be.

TensorFlow's converter writes an operation as soon as its operands are there. What is read or made early then waits in
memory, a copy of every weight among it. Here an operation comes right before the first one that needs it, so that
memory is given back sooner, and values are still in the cache when they are needed.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Final

from tools.convert.tf import Module, schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LARGE: Final = 1 << 14  # elements


def order_late(tree: Module) -> None:
    """Reorder the operations of every subgraph of a model (flatbuffer object tree) in place."""
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in tree.operatorCodes]
    for graph in tree.subgraphs:
        graph.operators = _ordered(graph, codes)


def read_again(tree: Module) -> None:
    """Give every operation that uses a large variable a copy of its own, so that none is kept from one to the next.

    What uses an older value, after the variable was written, keeps the copy that was read before.
    """
    names = schema.BuiltinOperator
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in tree.operatorCodes]
    for graph in tree.subgraphs:
        handles = _handles(graph, codes)
        operators = []
        again: dict[int, tuple[Module, int]] = {}  # how often a copy was used
        for op in graph.operators:
            op.inputs = list(op.inputs)
            for position, tensor in enumerate(op.inputs):
                if tensor not in again:
                    continue
                read, uses = again[tensor]
                again[tensor] = read, uses + 1
                if uses:
                    other = copy.copy(read)
                    graph.tensors.append(copy.copy(graph.tensors[tensor]))
                    other.outputs = [len(graph.tensors) - 1]
                    op.inputs[position] = other.outputs[0]
                    operators.append(other)
            operators.append(op)
            code = codes[op.opcodeIndex]
            if code == names.READ_VARIABLE and _large(graph.tensors[op.outputs[0]]):
                again[op.outputs[0]] = op, 0
            elif code == names.ASSIGN_VARIABLE:
                written = handles[op.inputs[0]]
                again = {tensor: kept for tensor, kept in again.items() if handles[kept[0].inputs[0]] != written}
        graph.operators = operators


def _handles(graph: Module, codes: Sequence[int]) -> dict[int, object]:
    """Return the variable that each handle's tensor stands for."""
    return {
        op.outputs[0]: (op.builtinOptions.container, op.builtinOptions.sharedName)
        for op in graph.operators
        if codes[op.opcodeIndex] == schema.BuiltinOperator.VAR_HANDLE
    }


def _large(tensor: Module) -> bool:
    return tensor.shape is not None and math.prod(tensor.shape) >= _LARGE


def _ordered(graph: Module, codes: list[int]) -> list[Module]:
    operators, builtin = graph.operators, schema.BuiltinOperator
    made_by = {tensor: place for place, op in enumerate(operators) for tensor in op.outputs}
    needs = [[made_by[tensor] for tensor in op.inputs if tensor in made_by] for op in operators]
    handles = _handles(graph, codes)
    # A variable is written after all that read it before, and read after what wrote it.
    reads: dict[object, list[int]] = {}
    writes: dict[object, int] = {}
    for place, op in enumerate(operators):
        code = codes[op.opcodeIndex]
        if code not in {builtin.READ_VARIABLE, builtin.ASSIGN_VARIABLE}:
            continue
        variable = handles[op.inputs[0]]
        needs[place] += [writes[variable]] if variable in writes else []
        if code == builtin.READ_VARIABLE:
            reads.setdefault(variable, []).append(place)
        else:
            needs[place] += reads.pop(variable, [])
            writes[variable] = place
    effects = [place for place, op in enumerate(operators) if codes[op.opcodeIndex] == builtin.ASSIGN_VARIABLE]
    results = [made_by[tensor] for tensor in graph.outputs if tensor in made_by]
    return [operators[place] for place in _depth_first([*effects, *results], needs)]


def _depth_first(roots: list[int], needs: list[list[int]]) -> Iterator[int]:
    """Yield every place that a root needs, after what it needs itself."""
    seen: set[int] = set()
    for root in roots:
        stack = [(root, False)]
        while stack:
            place, ready = stack.pop()
            if ready:
                yield place
            elif place not in seen:
                seen.add(place)
                stack.append((place, True))
                stack += [(need, False) for need in reversed(needs[place])]
