"""One SGD step of a classifier in TensorFlow with one thread: ``python -m tools.bench.keras_step FACTORY BATCH``."""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from tools.convert.source import load_object
from tools.convert.tf import KerasModel, Tensor, keras, tf
from tools.inspection.memory import peak_bytes

_STEPS = 24
_RATE = 0.05


def measure(factory: str, batch_size: int) -> dict[str, float]:
    """Return ``step_ms``, the fastest of some steps, and ``ram_bytes``, the peak of this process."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model: KerasModel = load_object(factory, "bench-factory")()
    generator = np.random.default_rng(0)
    x = tf.constant(generator.normal(size=(batch_size, *model.input_shape[1:])), tf.float32)
    y = tf.constant(generator.integers(0, model.output_shape[-1], batch_size))
    weights = [variable.value for variable in model.trainable_variables]

    def step(x: Tensor, y: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(y, model(x, training=True), from_logits=True)
            loss = tf.reduce_mean(losses)
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(_RATE * gradient)
        return loss

    compiled = tf.function(step)
    times = []
    for _ in range(_STEPS):
        began = time.perf_counter()
        float(compiled(x, y))
        times.append(time.perf_counter() - began)
    return {"step_ms": min(times) * 1e3, "ram_bytes": peak_bytes()}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
