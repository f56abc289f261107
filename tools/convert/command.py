"""``fedloom convert``."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from tools.convert.prove import TOLERANCE
from tools.convert.targets import TARGETS

if TYPE_CHECKING:
    from shared.bundle import BundleManifest

_LARGEST_BATCH = 4096


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("source", metavar="SRC", help="model.keras, a SavedModel folder, or package.module:factory")
    parser.add_argument("--out", metavar="BUNDLE", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--batch-size", metavar="B", type=_batch_size, default=16, help="examples in a training step (16)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--loss", metavar="NAME", help="a Keras loss, or package.module:callable (from the last layer)")
    parser.add_argument(
        "--label-smoothing",
        metavar="S",
        type=_share,
        default=0.0,
        help="part of the labels' mass that goes to all classes alike, 0 to 1 (0)",
    )
    parser.add_argument(
        "--class-weights", metavar="W,W,...", type=_weights, default=(), help="factor on the loss of each class"
    )
    parser.add_argument(
        "--optimizer",
        choices=("sgd", "momentum", "adam"),
        default="sgd",
        help="of the device; its inputs can be set in the plan (sgd)",
    )
    parser.add_argument(
        "--max-gradient-norm", metavar="C", type=_positive, help="clip each batch's gradient to this L2 norm (no)"
    )
    parser.add_argument(
        "--max-memory-mib", metavar="M", type=_positive, help="refuse a model whose training takes more memory (no)"
    )
    parser.add_argument(
        "--local",
        metavar="GLOB",
        action="append",
        default=[],
        help="tensors that stay on the device; may be repeated",
    )
    parser.add_argument(
        "--representative",
        metavar="FILE.npz",
        type=Path,
        help="examples (x, or x_<input> for each) by which infer_int8.tflite becomes full-integer",
    )
    parser.add_argument(
        "--target",
        choices=TARGETS,
        default="portable",
        help="where training is to be fast: on every runtime, on one, or with little memory (portable)",
    )


def _batch_size(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= _LARGEST_BATCH):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to {_LARGEST_BATCH}")
    return int(text)


def _share(text: str) -> float:
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to below 1")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _weights(text: str) -> tuple[float, ...]:
    values = tuple(_number(part) for part in text.split(","))
    if any(math.isnan(value) for value in values):
        raise argparse.ArgumentTypeError(f"{text} is not a list of numbers, such as 1,0.5,3")
    return values


def _number(text: str) -> float:
    """Return a number, or one that is in no range."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def run(arguments: argparse.Namespace) -> int:
    """Convert, then say what was made and how well each runtime agrees with TensorFlow."""
    # TensorFlow takes seconds to start; a wrong option should not have to wait for it.
    from tools.convert.convert import Options, convert  # noqa: PLC0415
    from tools.convert.losses import LossOptions  # noqa: PLC0415

    loss = LossOptions(arguments.loss, arguments.label_smoothing, arguments.class_weights)
    options = Options(
        arguments.batch_size,
        loss,
        arguments.optimizer,
        arguments.max_gradient_norm,
        tuple(arguments.local),
        arguments.target,
        arguments.representative,
        arguments.max_memory_mib,
    )
    converted = convert(arguments.source, arguments.out, options)
    manifest, proof = converted.manifest, converted.proof
    if arguments.json:
        print(
            json.dumps(
                {
                    "bundle": str(arguments.out),
                    **_summary(manifest),
                    "output": converted.output,
                    "proof": proof,
                }
            )
        )
        return 0
    print(f"{arguments.out}: {manifest.name}, {manifest.parameters:,} parameters, batch {manifest.batch_size}")
    print(f"loss {manifest.loss} on {converted.output}, metric {manifest.metric}")
    if arguments.representative:
        print(
            "infer_int8.tflite is full-integer; its activation ranges are those of these weights, so convert a trained"
            " model, and convert again after many rounds"
        )
    for runtime in proof["runtimes"]:
        worst = max(tensor["max_relative_error"] for tensor in runtime["tensors"])
        loose = max(tensor["allowed"] for tensor in runtime["tensors"])
        own = f" (up to {loose:.1e} allowed: rounding errors alone change them)" if worst > TOLERANCE else ""
        print(
            f"{runtime['name']} {runtime['version']}: gradients within {worst:.1e} of TensorFlow's{own}, "
            f"int8 outputs within {runtime['int8_max_relative_error']:.1e}, "
            f"{runtime['step_ms']:.2f} ms a step (TensorFlow {proof['reference']['step_ms']:.2f}), "
            f"{runtime['ram_bytes'] / 2**20:.0f} MiB"
        )
    return 0


def _summary(manifest: BundleManifest) -> dict[str, object]:
    return {
        "name": manifest.name,
        "parameters": manifest.parameters,
        "loss": manifest.loss,
        "metric": manifest.metric,
    }
