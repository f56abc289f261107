"""How long each signature of a .tflite file takes: ``python -m tools.convert.timing RUNTIME FILE``.

A program of its own, because two runtimes cannot share a process. Prints one JSON object, milliseconds by signature.
Signatures take turns, so that a machine that is busy for a moment does not make one of them look slow.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_client.trainer.runtime import load_interpreter

_ROUNDS = 8


def times_ms(runtime: str, model: bytes) -> dict[str, float]:
    """Return the fastest of some calls of each signature with normally distributed inputs, on one thread."""
    interpreter = load_interpreter(model, 1, runtime)
    generator = np.random.default_rng(0)
    calls = {}
    for name in sorted(interpreter.get_signature_list()):
        runner: Any = interpreter.get_signature_runner(name)
        details = runner.get_input_details()
        inputs = {key: generator.normal(size=value["shape"]).astype(np.float32) for key, value in details.items()}
        calls[name] = (runner, inputs)
    fastest = dict.fromkeys(calls, float("inf"))
    for _ in range(_ROUNDS):
        for name, (runner, inputs) in calls.items():
            began = time.perf_counter()
            runner(**inputs)
            fastest[name] = min(fastest[name], (time.perf_counter() - began) * 1e3)
    return {name: round(taken, 4) for name, taken in fastest.items()}


def main() -> int:
    """Time one file on one runtime."""
    runtime, path = sys.argv[1:3]
    print(json.dumps(times_ms(runtime, Path(path).read_bytes())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
