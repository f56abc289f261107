"""The TFLite runtime of this device: whichever of the two packages is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edge_client.trainer.protocol import go_on
from shared.errors import BundleError, FedloomError, UsageError

LITERT = "ai-edge-litert"
TFLITE_RUNTIME = "tflite-runtime"
_MODULES = {LITERT: "ai_edge_litert.interpreter", TFLITE_RUNTIME: "tflite_runtime.interpreter"}

Signature = Callable[..., dict[str, NDArray[Any]]]


class Interpreter(Protocol):
    """The part of both packages' interpreters that is used here."""

    def get_signature_list(self) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Return input and output names by signature."""
        ...

    def get_signature_runner(self, signature_key: str) -> Signature:
        """Return the function of one signature: arrays by name in, arrays by name out."""
        ...


def installed_runtimes() -> list[str]:
    """Return the names of the installed runtimes, the preferred one first."""
    return [name for name, module in _MODULES.items() if importlib.util.find_spec(module.partition(".")[0])]


def load_interpreter(model: bytes, num_threads: int = 1, runtime: str | None = None) -> Interpreter:
    """Load a .tflite file from memory.

    Raises:
        UsageError: "runtime-missing" if no runtime (or not the named one) is installed.
        BundleError: "bundle-not-loadable" if the runtime refuses the file.
    """
    available = installed_runtimes()
    chosen = runtime or next(iter(available), None)
    if chosen not in available:
        raise UsageError(
            "runtime-missing",
            f"no TFLite runtime: {chosen or 'neither ai-edge-litert nor tflite-runtime'} is installed",
            "pip install 'fedloom[edge]'",
        )
    module = importlib.import_module(_MODULES[chosen])
    try:
        return cast("Interpreter", module.Interpreter(model_content=model, num_threads=num_threads))
    except (ValueError, RuntimeError) as error:
        raise BundleError(
            "bundle-not-loadable",
            f"{chosen} cannot load the model: {error}",
            "convert it again for this runtime",
        ) from error


class InferenceModel:
    """An inference twin: predictions for one example at a time, as ``infer.tflite`` has batch 1."""

    def __init__(self, model: bytes, num_threads: int = 1, runtime: str | None = None) -> None:
        self._interpreter = load_interpreter(model, num_threads, runtime)
        self._inputs = sorted(self._interpreter.get_signature_list()["infer"]["inputs"])
        self._infer = self._interpreter.get_signature_runner("infer")

    def predict(
        self, x: NDArray[Any] | Mapping[str, NDArray[Any]], before_each: Callable[[], None] = go_on
    ) -> NDArray[np.float32]:
        """Return the outputs f32[n, ...] for n examples; several inputs go by their signature names.

        ``before_each`` of them is told that the work goes on.

        Raises:
            FedloomError: "inference-failed" if the runtime cannot run the model.
        """
        inputs = x if isinstance(x, Mapping) else {self._inputs[0]: x}
        count = len(next(iter(inputs.values())))
        outputs = []
        try:
            for i in range(count):
                before_each()
                outputs.append(self._infer(**{name: values[i : i + 1] for name, values in inputs.items()})["y"])
            return np.concatenate(outputs)
        except (ValueError, RuntimeError) as error:
            raise FedloomError("inference-failed", f"the runtime cannot run the model: {error}") from error
