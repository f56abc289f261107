"""Operations that a runtime does slowly, written with ones that it does fast and that give equal numbers."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

from tools.convert.tf import Module, schema

if TYPE_CHECKING:
    from collections.abc import Callable


def without_broadcast_subtractions(tree: Module) -> None:
    """Write a - b as a + (-b) where shapes differ: tflite-runtime broadcasts sums many times faster than differences.

    The smaller operand is the one to be negated, unless that is a: then the difference is -(b + (-a)), bit for bit
    but for the sign of a zero, which is -0.0 where a equals b.
    """
    names = schema.BuiltinOperator
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in tree.operatorCodes]
    for graph in tree.subgraphs:
        operators = []
        for op in graph.operators:
            if codes[op.opcodeIndex] == names.SUB and _broadcast_f32(graph, op):
                operators += _as_sum(graph, op, lambda name: _code(tree, codes, name))
            else:
                operators.append(op)
        graph.operators = operators


def _shape(tensor: Module) -> list[int]:
    return [] if tensor.shape is None else list(tensor.shape)


def _size(tensor: Module) -> int:
    return math.prod(_shape(tensor))


def _broadcast_f32(graph: Module, op: Module) -> bool:
    first, second = (graph.tensors[index] for index in op.inputs)
    plain = op.builtinOptions.fusedActivationFunction == schema.ActivationFunctionType.NONE
    return plain and first.type == schema.TensorType.FLOAT32 and _shape(first) != _shape(second)


def _as_sum(graph: Module, op: Module, code: Callable[[int], int]) -> list[Module]:
    names = schema.BuiltinOperator
    first, second = op.inputs
    mirrored = _size(graph.tensors[first]) < _size(graph.tensors[second])
    small, large = (first, second) if mirrored else (second, first)
    opposite = _like(graph, small)
    negation = _operator(code(names.NEG), [small], [opposite], "NegOptions")
    total = _like(graph, op.outputs[0]) if mirrored else op.outputs[0]
    addition = _operator(code(names.ADD), [large, opposite], [total], "AddOptions")
    if not mirrored:
        return [negation, addition]
    return [negation, addition, _operator(code(names.NEG), [total], list(op.outputs), "NegOptions")]


def _like(graph: Module, index: int) -> int:
    tensor = copy.copy(graph.tensors[index])
    tensor.buffer = 0
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(code: int, inputs: list[int], outputs: list[int], options: str) -> Module:
    op = schema.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = code, inputs, outputs
    op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
    op.builtinOptions = getattr(schema, f"{options}T")()
    return op


def _code(tree: Module, codes: list[int], name: int) -> int:
    if name not in codes:
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = name, min(name, 127), 1
        tree.operatorCodes.append(entry)
        codes.append(name)
    return codes.index(name)
