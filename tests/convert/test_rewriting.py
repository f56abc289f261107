"""What is done to a program after TensorFlow's converter: the same results from another order and other operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import flatbuffers
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.trainer.runtime import Interpreter, installed_runtimes, load_interpreter
from tools.convert.emit import emit_training
from tools.convert.peephole import without_broadcast_subtractions
from tools.convert.schedule import order_late, read_again
from tools.convert.tf import schema, tf

SIDE = 160  # a variable of this side is large


def _program() -> bytes:
    """Return a program that reads a variable before and after it is written, and subtracts by broadcasting."""
    variable = tf.Variable(tf.zeros([SIDE, SIDE]), name="v")
    other = tf.Variable(tf.zeros([SIDE, SIDE]), name="w")

    def put(x: Any) -> dict[str, Any]:  # noqa: ANN401 - TensorFlow has no types
        variable.assign(x)
        other.assign(1.0 - x)
        return {"count": tf.constant([1])}

    def step(row: Any) -> dict[str, Any]:  # noqa: ANN401
        before = tf.convert_to_tensor(variable)
        variable.assign(before - row)
        after = tf.convert_to_tensor(variable)
        other.assign(tf.convert_to_tensor(other) + tf.matmul(before, after))
        return {"before": before + 0.0, "after": row - after, "other": tf.convert_to_tensor(other) + 0.0}

    module = tf.Module()
    module.kept = [variable, other]
    inputs = {"put": tf.TensorSpec([SIDE, SIDE], tf.float32, name="x"), "step": tf.TensorSpec([SIDE], name="row")}
    bodies = {"put": put, "step": step}
    return emit_training(
        module, {name: tf.function(body, input_signature=[inputs[name]]) for name, body in bodies.items()}
    )


@pytest.fixture(scope="module")
def program() -> bytes:
    return _program()


def _rewritten(model: bytes, rewrite: Callable[[Any], None]) -> bytes:
    tree = schema.ModelT.InitFromPackedBuf(model)
    rewrite(tree)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _frugal(tree: Any) -> None:  # noqa: ANN401
    read_again(tree)
    order_late(tree)


def _results(runner: Interpreter) -> Iterator[dict[str, NDArray[np.float32]]]:
    generator = np.random.default_rng(1)
    runner.get_signature_runner("put")(x=generator.normal(size=(SIDE, SIDE)).astype(np.float32))
    step = runner.get_signature_runner("step")
    for _ in range(3):
        yield dict(step(row=generator.normal(size=SIDE).astype(np.float32)))


def _expected() -> Iterator[dict[str, NDArray[np.float32]]]:
    generator = np.random.default_rng(1)
    v = generator.normal(size=(SIDE, SIDE)).astype(np.float32)
    w = 1 - v
    for _ in range(3):
        row = generator.normal(size=SIDE).astype(np.float32)
        before, v = v, v - row
        w = w + before @ v
        yield {"before": before, "after": row - v, "other": w}


@pytest.mark.parametrize("rewrite", [order_late, _frugal, without_broadcast_subtractions])
def test_results_stay_the_same(program: bytes, rewrite: Callable[[Any], None]) -> None:
    # In this process one runtime only: TensorFlow is loaded, too.
    runtime = installed_runtimes()[0]
    found = _results(load_interpreter(_rewritten(program, rewrite), 1, runtime))
    for got, expected in zip(found, _expected(), strict=True):
        for name, values in expected.items():
            np.testing.assert_allclose(got[name], values, rtol=1e-4, atol=1e-3, err_msg=name)


def test_a_frugal_program_reads_large_variables_again(program: bytes) -> None:
    assert _reads(_rewritten(program, _frugal)) > _reads(_rewritten(program, order_late))


def _reads(model: bytes) -> int:
    tree = schema.ModelT.InitFromPackedBuf(model)
    codes = [code.builtinCode for code in tree.operatorCodes]
    kinds = [codes[op.opcodeIndex] for graph in tree.subgraphs for op in graph.operators]
    return kinds.count(schema.BuiltinOperator.READ_VARIABLE)


def test_no_difference_is_broadcast(program: bytes) -> None:
    tree = schema.ModelT.InitFromPackedBuf(program)
    codes = [code.builtinCode for code in tree.operatorCodes]
    for graph in tree.subgraphs:
        for op in (op for op in graph.operators if codes[op.opcodeIndex] == schema.BuiltinOperator.SUB):
            first, second = (list(graph.tensors[place].shape) for place in op.inputs)
            assert first == second
