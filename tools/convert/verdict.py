"""What a failed proof says: which runtime, which layer and operation, by how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.errors import BundleError
from tools.convert.program import input_specs
from tools.convert.prove import INT8_TOLERANCE, TOLERANCE
from tools.convert.tf import tf

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tools.convert.source import SourceModel
    from tools.convert.tf import Tensor

_PASSED_ON = ("Cast", "ExpandDims", "Identity", "Reshape", "Split", "Transpose")
_REMEDY = "the bundle was not written; try another --batch-size or layer, and report the model"


def require_passed(runtimes: Sequence[Mapping[str, Any]], source: SourceModel) -> None:
    """Refuse a bundle that some runtime does not compute as TensorFlow does.

    Raises:
        BundleError: "convert-proof", naming runtime, layer and operation.
    """
    if not runtimes:
        raise BundleError(
            "convert-proof", "no TFLite runtime is installed to prove the bundle", "pip install ai-edge-litert"
        )
    for runtime in (runtime for runtime in runtimes if not runtime["passed"]):
        raise BundleError(
            "convert-proof", f"{runtime['name']} differs from TensorFlow: {_why(runtime, source)}", _REMEDY
        )


def require_memory(runtimes: Sequence[Mapping[str, Any]], batch_size: int, limit_mib: float) -> None:
    """Refuse a bundle whose training step takes more memory than the device has.

    Raises:
        BundleError: "convert-memory", with what it takes here.
    """
    for runtime in runtimes:
        taken_mib = runtime["ram_bytes"] / 2**20
        if taken_mib > limit_mib:
            raise BundleError(
                "convert-memory",
                f"a process that trains batches of {batch_size} on {runtime['name']} takes {taken_mib:.0f} MiB here, "
                f"at most {limit_mib:g} wanted",
                f"give --batch-size {max(batch_size // 2, 1)}, or --target low-memory",
            )


def _why(runtime: Mapping[str, Any], source: SourceModel) -> str:
    # An error made in one layer reaches all before it, so the last wrong gradient is nearest to the cause.
    wrong = [
        (index, tensor["max_relative_error"], tensor["allowed"])
        for index, tensor in enumerate(runtime["tensors"])
        if not tensor["max_relative_error"] <= tensor["allowed"]
    ]
    checks = {name: error for name, error in runtime["checks"].items() if not error <= TOLERANCE}
    if wrong:
        index, error, allowed = wrong[-1]
        path = source.weights[index].path
        batches = [name for name, found in runtime["batches"].items() if not found <= TOLERANCE]
        return (
            f"the gradient of {path} (layer {path.rpartition('/')[0] or path}, operation {_operation(source, index)}) "
            f"by {error:.2g} on the batches {', '.join(batches)}, at most {allowed:.2g} expected"
        )
    if checks:
        name = max(checks, key=lambda check: checks[check])
        return f"{_CHECKS[name]} by {checks[name]:.2g}, at most {TOLERANCE:g} expected"
    return (
        f"the int8 inference file by {runtime['int8_max_relative_error']:.2g} of its largest output, "
        f"at most {INT8_TOLERANCE:g} expected"
    )


_CHECKS = {
    "steps": "the weights after several steps",
    "loss": "the loss of training steps",
    "evaluate": "the sums that evaluate returns",
    "infer": "the outputs of infer",
    "infer_file": "the outputs of the inference file",
}


def _operation(source: SourceModel, index: int) -> str:
    """Return the type of the operation that uses a weight."""
    weights = [tf.TensorSpec(weight.value.shape, tf.float32) for weight in source.weights]

    def call(*tensors: Tensor) -> Tensor:
        return source.call(tensors[: len(weights)], tensors[len(weights) :], training=False)[0]

    specs = [tf.TensorSpec(spec.shape, spec.dtype) for spec in input_specs(source, 1)]
    graph = tf.function(call).get_concrete_function(*weights, *specs).graph
    waiting = [graph.inputs[index]]
    while waiting:
        for op in waiting.pop(0).consumers():
            if op.type not in _PASSED_ON:
                return str(op.type)
            waiting += op.outputs
    return "none"
