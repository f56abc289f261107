"""One training step of a classifier in TensorFlow with one thread; run with FACTORY, BATCH and OPTIMIZER."""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from tools.convert.source import load_object
from tools.convert.tf import KerasModel, Tensor, keras, tf
from tools.inspection.memory import peak_bytes

_STEPS = 24
_RATE = 1e-3


def measure(factory: str, batch_size: int, optimizer_name: str) -> dict[str, float]:
    """Return ``step_ms``, the fastest of some steps, and ``ram_bytes``, the peak of this process."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model: KerasModel = load_object(factory, "bench-factory")()
    generator = np.random.default_rng(0)
    shape = (batch_size, *model.input_shape[1:])
    # Whole numbers may be places in a table.
    whole = not model.inputs[0].dtype.startswith("float")
    x = tf.zeros(shape, model.inputs[0].dtype) if whole else tf.constant(generator.normal(size=shape), tf.float32)
    y = tf.constant(generator.integers(0, model.output_shape[-1], (batch_size, *model.output_shape[1:-1])))
    optimizer = keras.optimizers.get({"class_name": optimizer_name, "config": {"learning_rate": _RATE}})
    optimizer.build(model.trainable_variables)

    def step(x: Tensor, y: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(y, model(x, training=True), from_logits=True)
            loss = tf.reduce_mean(losses)
        weights = [variable.value for variable in model.trainable_variables]
        optimizer.apply(tape.gradient(loss, weights), model.trainable_variables)
        return loss

    compiled = tf.function(step)
    times = []
    for _ in range(_STEPS):
        began = time.perf_counter()
        float(compiled(x, y))
        times.append(time.perf_counter() - began)
    return {"step_ms": min(times) * 1e3, "ram_bytes": peak_bytes()}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
