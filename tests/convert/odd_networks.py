"""Models and factories that the converter refuses, each for one reason, and two that only look hard."""

from __future__ import annotations

from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

L = keras.layers
Model: TypeAlias = Any  # Keras has no types
IMAGE = (4, 4, 3)


def _network(shape: tuple[int, ...], *parts: Any, dtype: str = "float32") -> Model:  # noqa: ANN401
    return keras.Sequential([L.Input(shape, dtype=dtype), *parts], name="network")


class Unread(keras.layers.Layer):  # type: ignore[misc] # Keras has no types
    """A layer with weights that its output does not depend on."""

    def build(self, _shape: Any) -> None:  # noqa: ANN401
        """Add one that nothing reads, one without elements, and a counter."""
        self.add_weight(shape=(4,), name="unread")
        self.nothing = self.add_weight(shape=(0,), name="nothing")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x: Any, training: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002
        """Return x, and count."""
        if training:
            self.calls.assign_add(1.0)
        return x + tf.reduce_sum(self.nothing)


def unread() -> Model:
    """Weights that take no part: those above, and the mean and variance of adapted normalisation."""
    known = L.Normalization()
    known.adapt(np.arange(24, dtype=np.float32).reshape(3, 8))
    return _network((8,), known, Unread(), L.Dense(3))


def dictionaries() -> Model:
    """Inputs and the one output in dictionaries, in an order that is not the alphabet's."""
    right, left = L.Input((4,), name="right"), L.Input((3,), name="left")
    both = L.Concatenate()([L.Dense(2)(left), right])
    return keras.Model({"right": right, "left": left}, {"class": L.Dense(3)(both)}, name="network")


class Own(keras.Model):  # type: ignore[misc]
    """A subclassed model, which has a shape only inside another one."""

    def __init__(self) -> None:
        super().__init__(name="own")
        self.dense = L.Dense(3)

    def call(self, x: Any) -> Any:  # noqa: ANN401
        """Apply a dense layer."""
        return self.dense(x)


def subclassed() -> Model:
    """A subclassed model that was built."""
    model = Own()
    model.build((None, 8))
    return model


def failing() -> Model:
    """A factory that fails."""
    raise ValueError("the file of names is missing")


def leaving() -> Model:
    """A factory that ends the process."""
    raise SystemExit("no models today")


def needing(width: int) -> Model:
    """A factory with an argument."""
    return _network((width,), L.Dense(3))


def double() -> Model:
    """A model of 64-bit numbers."""
    return _network((8,), L.Dense(3, name="wide", dtype="float64"))


def mixed() -> Model:
    """A layer that computes in 16 bits."""
    return _network((8,), L.Dense(4, name="half", dtype="mixed_float16"), L.Dense(3))


def long_tokens() -> Model:
    """Tokens as 64-bit integers."""
    return _network((6,), L.Embedding(9, 4), L.Flatten(), L.Dense(3), dtype="int64")


def words() -> Model:
    """Words that are looked up in the model."""
    lookup = L.IntegerLookup(vocabulary=[3, 5], name="vocabulary")
    return _network((1,), lookup, L.Embedding(4, 3), L.Flatten(), L.Dense(2), dtype="int32")


def spaced() -> Model:
    """An input whose name is two words."""
    one, other = L.Input((4,), name="user id"), L.Input((4,), name="item")
    return keras.Model([one, other], L.Dense(3)(L.Concatenate()([one, other])), name="network")


def frozen() -> Model:
    """A model of which nothing is trained."""
    model = _network((8,), L.Dense(3))
    model.trainable = False
    return model


def weightless() -> Model:
    """A model without weights."""
    return _network((8,), L.Softmax())


def spectral() -> Model:
    """A layer that branches on its weights."""
    return _network((8,), L.SpectralNormalization(L.Dense(6), name="bounded"), L.Dense(3))


def cropped() -> Model:
    """A crop at a random place."""
    return _network((6, 6, 3), L.RandomCrop(4, 4, name="crop"), L.Conv2D(2, 3), L.GlobalAveragePooling2D(), L.Dense(3))


class Truncated(keras.layers.Layer):  # type: ignore[misc]
    """Noise from a truncated normal distribution."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(3)

    def call(self, x: Any, training: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002
        """Add noise in training."""
        return x + keras.random.truncated_normal(keras.ops.shape(x), seed=self.seed) if training else x


class Scaled(Truncated):
    """A random whole number as a factor."""

    def call(self, x: Any, training: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002
        """Multiply in training."""
        factor = keras.random.randint((), 1, 4, seed=self.seed)
        return x * keras.ops.cast(factor, "float32") if training else x


def truncated() -> Model:
    """Random numbers that devices do not have."""
    return _network((8,), L.Dense(4), Truncated(name="noise"), L.Dense(3))


def scaled() -> Model:
    """Random whole numbers, which devices do not have."""
    return _network((8,), L.Dense(4), Scaled(name="scale"), L.Dense(3))


def upsampled() -> Model:
    """Two transposed convolutions, of which TFLite lacks the second."""
    plain = L.Conv2DTranspose(2, 3, strides=2, name="plain")
    return _network(IMAGE, plain, L.Conv2DTranspose(2, 2, dilation_rate=2, name="dilated"), L.Flatten(), L.Dense(3))


def _spectrum(x: Any) -> Any:  # noqa: ANN401
    return tf.math.real(tf.signal.fft(tf.cast(x, tf.complex64)))


def spectrum() -> Model:
    """A Fourier transform of complex numbers."""
    return _network((8,), L.Lambda(_spectrum, name="waves"), L.Dense(3))


def summing() -> Model:
    """A sum that overflows where inputs are large."""
    return _network((8,), L.Dense(4, kernel_initializer="ones", name="sum"), L.ReLU(6.0), L.Dense(3))


def failing_loss(y: Any, output: Any) -> Any:  # noqa: ANN401, ARG001
    """A loss that fails."""
    raise ValueError("this loss is not written yet")
