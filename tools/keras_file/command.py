"""``fedloom keras``: write a Keras file with the weights of a version, where TensorFlow and the model's source are."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from shared.errors import UsageError


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("source", metavar="SRC", help="model.keras or package.module:factory, as it was converted")
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        metavar="FILE",
        help="from `fedloom-server model download --as safetensors`",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL.keras")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Write the file.

    Raises:
        UsageError: ``bad-out``, ``wrong-weights``.
        BundleError: ``convert-source``.
    """
    from tools.convert.source import load_keras  # noqa: PLC0415  # TensorFlow takes seconds

    if arguments.out.suffix != ".keras":
        raise UsageError("bad-out", f"{arguments.out} does not end in .keras.", "give a name that does")
    try:
        arrays = load(arguments.weights.read_bytes())
    except (OSError, SafetensorError) as error:
        raise UsageError("wrong-weights", f"{arguments.weights} cannot be read as safetensors: {error}.") from error
    if not arrays:
        raise UsageError("wrong-weights", f"{arguments.weights} holds no tensors.")
    model = load_keras(arguments.source)
    variables = {variable.path: variable for variable in model.variables}
    for path, values in arrays.items():
        variable = variables.get(path)
        if variable is None or tuple(variable.shape) != values.shape:
            got = "nothing" if variable is None else list(variable.shape)
            raise UsageError(
                "wrong-weights",
                f"{path} is {list(values.shape)} in the weights and {got} in {arguments.source}.",
                "give the source that the task's bundle was converted from",
            )
        variable.assign(values.astype(np.float32))
    model.save(arguments.out)
    if arguments.json:
        print(json.dumps({"file": str(arguments.out), "tensors": sorted(arrays)}))
    else:
        print(f"{arguments.out}: {len(arrays)} tensors", file=sys.stderr)
    return 0
