"""TensorFlow and Keras as the converter sees them: imported quietly, in one place, with names for types.

Neither ships type information, so everything that comes from here is dynamically typed. The aliases say what
is meant. The converter's functions take and return them, and nothing outside ``tools/convert`` imports this
module.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def quiet() -> Iterator[None]:
    """Keep from the reader what TensorFlow's C++ parts write to standard error: every error as a dump."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # otherwise every start prints hints about GPUs
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["KERAS_BACKEND"] = "tensorflow"

with quiet():
    import absl.logging
    import keras
    import tensorflow as tf
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.python.convert import mlir_quantize
    from tensorflow.lite.python.optimize import calibrator
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2 as freeze,  # TensorFlow's only inliner of functions
    )
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

Tensor: TypeAlias = Any
Graph: TypeAlias = Any
GraphDef: TypeAlias = Any
Operation: TypeAlias = Any
Variable: TypeAlias = Any
Function: TypeAlias = Any
Module: TypeAlias = Any
KerasModel: TypeAlias = Any

absl.logging.set_verbosity(absl.logging.ERROR)
tf.get_logger().setLevel("ERROR")

__all__ = [
    "Function",
    "Graph",
    "GraphDef",
    "KerasModel",
    "Module",
    "Operation",
    "Tensor",
    "Variable",
    "calibrator",
    "freeze",
    "function_def_to_graph",
    "keras",
    "mlir_quantize",
    "quiet",
    "schema",
    "tf",
]
