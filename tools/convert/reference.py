"""What TensorFlow says the training program must compute.

The gradients come from TensorFlow's own rules, the losses and the optimizers from Keras: nothing of the lowered
program is used.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tools.convert.kinks import Kink, bias_of
from tools.convert.losses import per_example_mean
from tools.convert.random_numbers import Randomness
from tools.convert.replay import Manner
from tools.convert.tf import Tensor, keras, tf

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tools.convert.program import Learning
    from tools.convert.source import SourceModel

Array: TypeAlias = NDArray[Any]

_TIMED_STEPS = 12


class Reference:
    """A model and how it learns, in TensorFlow; weights and batches are arrays in the program's order."""

    def __init__(self, source: SourceModel, learning: Learning) -> None:
        self._source = source
        self._learning = learning
        self._gradient = tf.function(self._differentiated)
        self._forward = tf.function(self._evaluated)
        self._decides = tf.function(self._decided)
        self._kinks: list[tuple[Sequence[float], int | None]] = []

    def gradients(self, weights: Sequence[Array], batch: Sequence[Array]) -> list[Array]:
        """Return the gradient of the mean loss in a first training step, by weight."""
        return [np.asarray(part) for part in self._gradient(weights, batch, _number(0))[1]]

    def train(
        self, weights: Sequence[Array], batches: Sequence[Sequence[Array]], values: Mapping[str, float]
    ) -> tuple[Array, list[Array]]:
        """Take one step per batch; return each step's loss before it, f32[steps], and the weights after all.

        ``values`` are the inputs of the training step: ``lr``, ``mu`` and those of the optimizer.
        """
        trained = [index for index, spec in enumerate(self._source.weights) if spec.trainable]
        variables = [keras.Variable(weights[index]) for index in trained]
        optimizer = _keras_optimizer(self._learning.optimizer.name, values)
        current, losses = list(weights), []
        for number, batch in enumerate(batches):
            loss, gradients, moved = self._gradient(current, batch, _number(number))
            losses.append(float(loss))
            wanted = [gradients[index] for index in trained]
            if "max_gradient_norm" in values:
                wanted, _ = tf.clip_by_global_norm(wanted, values["max_gradient_norm"])
            pulled = [
                gradient + values["mu"] * (current[index] - weights[index])
                for index, gradient in zip(trained, wanted, strict=True)
            ]
            optimizer.apply(pulled, variables)
            current = [np.asarray(after) for after in moved]
            for index, variable in zip(trained, variables, strict=True):
                current[index] = np.asarray(variable)
        return np.array(losses), current

    def evaluate(self, weights: Sequence[Array], batch: Sequence[Array]) -> tuple[list[float], Array]:
        """Return loss sum, metric sum and count over a batch, and the outputs."""
        loss, metric, output = self._forward(weights, batch)
        return [float(loss), float(metric), float(batch[-1].sum())], np.asarray(output)

    def tensors(self, arrays: Sequence[Array]) -> list[Tensor]:
        """Return arrays as ``decides`` takes them: to convert hundreds takes longer than to run many a model."""
        return [tf.constant(array) for array in arrays]

    def decides(
        self, weights: Sequence[Tensor], batch: Sequence[Tensor]
    ) -> list[tuple[Array, Sequence[float], int | None]]:
        """Return for each kink of a training pass what decides, where it jumps, and the index of the bias before it."""
        found = self._decides(weights, batch)
        return [(np.asarray(array), *kink) for array, kink in zip(found, self._kinks, strict=True)]

    def step_ms(self, weights: Sequence[Array], batch: Sequence[Array]) -> float:
        """Return the fastest of some passes in milliseconds."""
        values, tensors, first = [tf.constant(w) for w in weights], [tf.constant(part) for part in batch], _number(0)
        times = []
        for _ in range(_TIMED_STEPS):
            began = time.perf_counter()
            self._gradient(values, tensors, first)
            times.append(time.perf_counter() - began)
        return round(min(times) * 1e3, 3)

    def _randomness(self, step: Tensor) -> Randomness | None:
        return Randomness(tf.zeros([1]), step) if self._source.draws else None

    def _differentiated(self, weights: Sequence[Tensor], batch: Sequence[Tensor], step: Tensor) -> Tensor:
        *x, y, mask = batch
        values = [tf.convert_to_tensor(weight) for weight in weights]
        manner = Manner(self._randomness(step), penalties=[])
        output, moved = self._source.reference(values, x, training=True, manner=manner)
        loss = self._learning.loss
        losses = loss.weighted(y, loss.reference(y, output)) * mask
        mean = tf.reduce_sum(losses) / tf.maximum(tf.reduce_sum(mask), 1.0)
        mean = tf.add_n([mean, *manner.penalties]) if manner.penalties else mean
        # A GradientTape would not see the operations of an imported SavedModel.
        gradients = tf.gradients(mean, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return mean, [tf.convert_to_tensor(gradient) for gradient in gradients], moved

    def _evaluated(self, weights: Sequence[Tensor], batch: Sequence[Tensor]) -> Tensor:
        *x, y, mask = batch
        values = [tf.convert_to_tensor(weight) for weight in weights]
        output = self._source.reference(values, x, training=False)[0]
        loss = self._learning.loss
        losses = per_example_mean(loss.reference(y, output)) * mask
        return tf.reduce_sum(losses), tf.reduce_sum(loss.metric_per_example(y, output) * mask), output

    def _decided(self, weights: Sequence[Tensor], batch: Sequence[Tensor]) -> list[Tensor]:
        values = [tf.identity(weight) for weight in weights]
        kinks: list[Kink] = []
        self._source.call(values, batch[:-2], training=True, manner=Manner(self._randomness(_number(0)), kinks=kinks))
        self._kinks = [(kink.at, bias_of(kink, values)) for kink in kinks]
        return [kink.decides for kink in kinks]


def _number(step: int) -> Tensor:
    return tf.fill([1], float(step))


def _keras_optimizer(name: str, values: Mapping[str, float]) -> Any:  # noqa: ANN401 - Keras has no types
    common = {"learning_rate": values["lr"], "weight_decay": values["weight_decay"]}
    if name == "adam":
        own = {key: values[key] for key in ("beta_1", "beta_2", "epsilon")}
        return keras.optimizers.Adam(**common, **own)
    return keras.optimizers.SGD(**common, momentum=values.get("momentum", 0.0))
