"""What a Keras model must be before it is traced; each refusal names the layer or input and a way out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from shared.errors import BundleError
from tools.convert.tf import KerasModel, keras

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.convert.source import ModelInput, Weight

_TABLES = (keras.layers.IntegerLookup, keras.layers.StringLookup, keras.layers.TextVectorization)
_DTYPES = ("float32", "int32", "int8", "uint8")  # as in the manifest


def require_model(model: KerasModel, name: str) -> None:
    """Refuse a model whose inputs, output or layers cannot have a training program.

    Raises:
        BundleError: "convert-inputs", "convert-outputs", "convert-dtype" or "convert-unsupported-op".
    """
    if not model.built or not getattr(model, "inputs", None):
        raise BundleError(
            "convert-inputs",
            f"{name} does not know its input shape",
            "start the model with keras.Input(shape=...), or wrap it: keras.Model(inputs, model(inputs))",
        )
    if len(model.outputs) != 1:
        raise BundleError(
            "convert-outputs",
            f"{name} has {len(model.outputs)} outputs, expected 1",
            "give a model with one output",
        )
    for layer in model._flatten_layers():  # noqa: SLF001 - Keras' only list of nested layers
        _require_layer(layer)
    for variable in model.variables:
        require_float32(f"weight {variable.path} is", variable.dtype)


def _require_layer(layer: KerasModel) -> None:
    if isinstance(layer, _TABLES):
        raise BundleError(
            "convert-unsupported-op",
            f"layer {layer.name} looks its inputs up in a table, which devices do not have",
            'look them up before the model, which then starts with keras.Input(shape, dtype="int32")',
        )
    if not isinstance(layer, (keras.Model, keras.layers.InputLayer)):
        require_float32(f"layer {layer.name} computes in", str(layer.compute_dtype))


def require_unbound(model: KerasModel, name: str) -> None:
    """Refuse constraints on weights.

    Raises:
        BundleError: "convert-constraint".
    """
    bound = [variable.path for variable in model.trainable_variables if getattr(variable, "constraint", None)]
    if bound:
        raise BundleError(
            "convert-constraint",
            f"{name} has a constraint on {', '.join(bound)}, which a training step on a device does not apply",
            "build the layer without kernel_constraint and the like; weight decay or a regularizer keeps weights small",
        )


def require_float32(what: str, dtype: str) -> None:
    """Refuse numbers of another width.

    Raises:
        BundleError: "convert-dtype".
    """
    if "float" in dtype and dtype != "float32":
        raise BundleError(
            "convert-dtype",
            f"{what} {dtype}, and devices train in float32",
            "build the model after keras.config.set_floatx('float32') and "
            "keras.mixed_precision.set_global_policy('float32')",
        )


def require_inputs(inputs: Sequence[ModelInput]) -> None:
    """Refuse inputs whose names or types a program cannot have.

    Raises:
        BundleError: "convert-inputs".
    """
    for spec in inputs:
        if spec.dtype not in _DTYPES:
            wanted = "float32" if "float" in spec.dtype else "int32"
            raise BundleError(
                "convert-inputs",
                f"input {spec.name} is {spec.dtype}, which devices do not feed ({', '.join(_DTYPES)})",
                f'use {wanted}: keras.Input(shape, dtype="{wanted}")',
            )
        # The name of an only input does not matter: it is x.
        if len(inputs) > 1 and not re.fullmatch(r"\w+", spec.name, re.ASCII):
            raise BundleError(
                "convert-inputs",
                f"input {spec.name!r} has a name that a program cannot have: only letters, digits and _ are allowed",
                f'name it {re.sub(r"[^A-Za-z0-9_]", "_", spec.name)}: keras.Input(shape, name="...")',
            )


def require_trained(weights: Sequence[Weight], name: str) -> None:
    """Refuse a model of which nothing would be trained.

    Raises:
        BundleError: "convert-tensors".
    """
    if not weights:
        raise BundleError(
            "convert-tensors", f"{name} has no weights that its output depends on", "give a model to train"
        )
    if not any(weight.trainable for weight in weights):
        raise BundleError(
            "convert-tensors",
            f"nothing of {name} is trained: every weight that its output depends on is frozen",
            "set trainable = True on a layer",
        )
