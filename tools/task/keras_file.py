"""What a Keras file says of its model, without converting it."""

from __future__ import annotations

from pathlib import Path

from shared.errors import UsageError
from tools.convert.tf import keras


def input_and_outputs(path: Path) -> tuple[tuple[int, ...], int]:
    """Return the shape of one example and the number of outputs.

    Raises:
        UsageError: ``task-model`` for what is no Keras file of a classifier with one input of a fixed shape.
    """
    try:
        model = keras.saving.load_model(path, compile=False)
        inputs, outputs = model.inputs, model.outputs
    except Exception as error:  # Keras has no common class for a file that it cannot read, or a model without inputs
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError("task-model", f"{path} is no Keras file: {reason}", "save it with model.save(path)") from error
    if len(inputs) != 1 or len(outputs) != 1 or None in inputs[0].shape[1:]:
        shapes = [list(tensor.shape) for tensor in inputs]
        raise UsageError(
            "task-model",
            f"{path} has inputs {shapes} and {len(outputs)} outputs.",
            "`fedloom task` takes one input of a fixed shape and one output; `fedloom convert` takes more",
        )
    if inputs[0].dtype != "float32":
        raise UsageError(
            "task-model",
            f"{path} takes {inputs[0].dtype}, and examples from files are float32.",
            "begin it with a float32 input, or write a task in Python as models/shakespeare.py is",
        )
    shape = outputs[0].shape
    if len(shape) != 2 or shape[1] < 2:
        raise UsageError(
            "task-model", f"{path} has outputs {list(shape)}.", "end it with keras.layers.Dense(number of classes)"
        )
    return tuple(int(size) for size in inputs[0].shape[1:]), int(shape[1])
