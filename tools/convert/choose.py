"""Choose the form of every convolution by measuring it in the runtime that will train.

Which form is fastest depends on the runtime, its version and the shape, so every candidate runs here, alone, and the
fastest wins. A *target* says for which runtime; the machine that converts need not be the device.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from edge_client.trainer.runtime import installed_runtimes
from shared.errors import BundleError
from tools.convert.convolutions import Convolution, Form, Forms, Pass, filter_gradient, forward, input_gradient
from tools.convert.emit import emit_inference
from tools.convert.targets import TARGETS
from tools.convert.tf import Function, Tensor, tf

Times: TypeAlias = Mapping[str, Mapping[str, float]]  # milliseconds by runtime and form

_PASSES: Final[tuple[Pass, ...]] = ("forward", "input", "filter")
_WORTHWHILE: Final = 1_000_000  # products; below that, calling an operation costs more than what it does
_TIMEOUT_S: Final = 600
_PIECE: Final = 1 << 16  # half a mebibyte


@dataclass(frozen=True)
class Choice:
    """The form of one pass of one convolution, and what every candidate took where it was measured."""

    convolution: Convolution
    which: Pass
    form: Form
    times_ms: Times

    def describe(self) -> str:
        """Return a key for the manifest: the convolution and the pass."""
        return f"{self.convolution.describe()}: {self.which}"


def choose(convolutions: Iterable[Convolution], target: str) -> tuple[Forms, list[Choice]]:
    """Return the forms for ``target``, one of ``TARGETS``, and how they were chosen.

    Raises:
        BundleError: "convert-target" if the target's runtime is not installed, or fails.
    """
    runtimes = _runtimes(target)
    low_memory = not TARGETS[target]
    passes = [(convolution, which) for convolution in convolutions for which in _PASSES]
    worthwhile = [key for key in passes if key[0].products >= _WORTHWHILE and len(key[0].forms(key[1])) > 1]
    times = _measure(worthwhile, runtimes) if worthwhile and runtimes else {}
    choices = []
    for convolution, which in passes:
        found = times.get((convolution, which), {})
        by_rule: Form = "rows" if low_memory else convolution.probable(which)
        choices.append(
            Choice(convolution, which, _fastest(convolution.forms(which), found) if found else by_rule, found)
        )
    return Forms({(choice.convolution, choice.which): choice.form for choice in choices}), choices


def largest_piece(target: str) -> int | None:
    """Return in pieces of how many elements ``target`` keeps weights, None for whole tensors."""
    return None if TARGETS[target] else _PIECE


def _runtimes(target: str) -> list[str]:
    present = installed_runtimes()
    wanted = TARGETS[target]
    found = [runtime for runtime in wanted if runtime in present]
    if wanted and not found:
        raise BundleError(
            "convert-target",
            f"target {target} is measured on {' or '.join(wanted)}, which is not installed",
            f"pip install {wanted[0]}, or convert with --target low-memory, which measures nothing",
        )
    return found


def _fastest(forms: Sequence[Form], times: Times) -> Form:
    """Return the form that is slowed down least, over all runtimes, compared with each one's best."""

    def slowdown(form: Form) -> float:
        return sum(taken[form] / min(taken.values()) for taken in times.values())

    return min(forms, key=slowdown)


def _measure(
    passes: Sequence[tuple[Convolution, Pass]], runtimes: Sequence[str]
) -> dict[tuple[Convolution, Pass], dict[str, dict[str, float]]]:
    candidates = {
        f"c{place}_{form}": _candidate(convolution, which, form)
        for place, (convolution, which) in enumerate(passes)
        for form in convolution.forms(which)
    }
    with tempfile.TemporaryDirectory(prefix="fedloom-choose-") as folder:
        path = Path(folder) / "candidates.tflite"
        path.write_bytes(emit_inference(candidates, quantize=False))
        taken = {runtime: _timed(runtime, path) for runtime in runtimes}
    return {
        key: {
            runtime: {form: taken[runtime][f"c{place}_{form}"] for form in key[0].forms(key[1])} for runtime in runtimes
        }
        for place, key in enumerate(passes)
    }


def _candidate(convolution: Convolution, which: Pass, form: Form) -> Function:
    x, w, y = convolution.x_shape, convolution.w_shape, convolution.y_shape
    bodies: dict[Pass, tuple[Callable[[Tensor, Tensor], Tensor], list[int], list[int]]] = {
        "forward": (lambda a, b: forward(convolution, form, a, b), x, w),
        "input": (lambda a, b: input_gradient(convolution, form, a, b), w, y),
        "filter": (lambda a, b: filter_gradient(convolution, form, a, b), x, y),
    }
    body, *shapes = bodies[which]
    specs = [tf.TensorSpec(shape, tf.float32, name=name) for shape, name in zip(shapes, "ab", strict=True)]
    return tf.function(lambda a, b: {"y": body(a, b)}, input_signature=specs)


def _timed(runtime: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tools.convert.timing", runtime, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        what = f"{runtime} did not measure the candidates within {_TIMEOUT_S} s"
        raise BundleError("convert-target", what, "convert with --target low-memory, which measures nothing") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BundleError(
            "convert-target", f"{runtime} cannot run the candidates: {reason}", "convert with --target low-memory"
        )
    result: dict[str, float] = json.loads(done.stdout)
    return result
