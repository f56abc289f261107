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
    except Exception as error:  # Keras has no common class for a file that it cannot read
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError("task-model", f"{path} is no Keras file: {reason}", "save it with model.save(path)") from error
    if len(model.inputs) != 1 or len(model.outputs) != 1 or None in model.inputs[0].shape[1:]:
        shapes = [list(tensor.shape) for tensor in model.inputs]
        raise UsageError(
            "task-model",
            f"{path} has inputs {shapes} and {len(model.outputs)} outputs.",
            "`fedloom task` takes one input of a fixed shape and one output; `fedloom convert` takes more",
        )
    outputs = model.outputs[0].shape
    if len(outputs) != 2 or outputs[1] < 2:
        raise UsageError(
            "task-model", f"{path} has outputs {list(outputs)}.", "end it with keras.layers.Dense(number of classes)"
        )
    return tuple(int(size) for size in model.inputs[0].shape[1:]), int(outputs[1])
