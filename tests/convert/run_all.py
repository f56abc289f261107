"""Run many conversions in one process, because TensorFlow takes seconds to start: FOLDER, then JSON on stdout.

Every case is a ``fedloom convert --json`` command line; the answer is its exit code and what it printed.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np

from tools.cli import main

NETWORKS = "tests.convert.networks:"
ODD_NETWORKS = "tests.convert.odd_networks:"
ODD = (
    "subclassed", "failing", "leaving", "needing", "double", "mixed", "long_tokens", "words", "spaced", "frozen",
    "weightless", "spectral", "cropped", "truncated", "scaled", "upsampled", "spectrum",
)  # fmt: skip
# The largest value of representative examples, in float64.
EXAMPLES = {"beyond_float32": 1e300, "overflowing": 3e38, "empty": 0.0}


def cases(folder: Path) -> dict[str, list[str]]:
    """Return the command lines by name."""

    def of(name: str, *options: str) -> list[str]:
        return [NETWORKS + name, "--out", str(folder / name), "--batch-size", "4", *options]

    def odd(name: str, factory: str, *options: str) -> list[str]:
        return [ODD_NETWORKS + factory, "--out", str(folder / name), "--batch-size", "4", *options]

    names = (
        "window_of_other_weights", "image", "pools", "two_inputs", "normalized", "erf", "random", "grouped",
        "tokens", "tokens_of_other_weights",
    )  # fmt: skip
    odd_ones = ("unread", "dictionaries", *ODD)
    refused = ("open_length", "not_a_model", "channels_first", "untraceable")
    other = {
        "window": of("window", "--local", "network/dense_1/*"),
        # A conversion takes seconds, so this one proves three things: a file, a loss of one's own, and the model.
        "upsampling": [
            str(folder / "network.keras"), "--out", str(folder / "upsampling"), "--batch-size", "4",
            "--loss", NETWORKS + "squared",
        ],
        "saved_model": [str(folder / "exported"), "--out", str(folder / "saved_model")],
        "unknown_loss": of("window", "--loss", "nonsense"),
        "occupied": [NETWORKS + "window", "--out", str(folder / "occupied")],
        "missing": ["no-such-model", "--out", str(folder / "missing")],
        "wrong_class_weights": of("window", "--class-weights", "1,2"),
        "too_large": of("window", "--max-memory-mib", "5"),
        "no_smoothing": of("two_inputs", "--label-smoothing", "0.1"),
        "no_such_tensor": of("window", "--local", "nothing/*"),
        "failing_loss": odd("failing_loss", "summing", "--loss", ODD_NETWORKS + "failing_loss"),
        "no_place": [ODD_NETWORKS + "summing", "--out", str(folder / "occupied" / "notes.txt" / "bundle")],
        "broken_module": ["tests.convert.no_such_module:model", "--out", str(folder / "broken_module")],
        "text_file": [str(folder / "text.keras"), "--out", str(folder / "text_file")],
        "old_file": [str(folder / "old.h5"), "--out", str(folder / "old_file")],
        "no_number": of("window", "--batch-size", "abc"),
        **{
            f"examples_{name}": odd(
                f"examples_{name}", "summing", "--representative", str(folder / f"{name}.npz")
            )
            for name in EXAMPLES
        },
    }  # fmt: skip
    return {name: of(name) for name in (*names, *refused)} | {name: odd(name, name) for name in odd_ones} | other


def prepare(folder: Path) -> None:
    """Write the sources that are files."""
    from tests.convert.networks import upsampling, window  # noqa: PLC0415 - after tools has set TensorFlow up
    from tools.convert.tf import quiet  # noqa: PLC0415

    (folder / "text.keras").write_text("not a model")
    (folder / "old.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    for name, value in EXAMPLES.items():
        np.savez(folder / f"{name}.npz", x=np.full((5, 8), value) * np.linspace(0.5, 1.0, 8))
    (folder / "occupied").mkdir()
    (folder / "occupied" / "notes.txt").write_text("not a bundle")
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        upsampling().save(folder / "network.keras")
        window().export(str(folder / "exported"), verbose=False)


def run(folder: Path) -> dict[str, tuple[int, str]]:
    """Run every case."""
    prepare(folder)
    results = {}
    for name, words in cases(folder).items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = main(["convert", *words, "--json"])
        results[name] = (code, printed.getvalue())
    return results


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(Path(sys.argv[1]))))
