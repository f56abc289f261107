"""Run many conversions in one process, because TensorFlow takes seconds to start: FOLDER, then JSON on stdout.

Every case is a ``fedloom convert --json`` command line; the answer is its exit code and what it printed.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

from tools.cli import main

NETWORKS = "tests.convert.networks:"


def cases(folder: Path) -> dict[str, list[str]]:
    """Return the command lines by name."""

    def of(name: str, *options: str) -> list[str]:
        return [NETWORKS + name, "--out", str(folder / name), "--batch-size", "4", *options]

    names = (
        "window_of_other_weights", "image", "pools", "two_inputs", "normalized", "erf", "random", "grouped",
        "tokens", "tokens_of_other_weights",
    )  # fmt: skip
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
    }  # fmt: skip
    return {name: of(name) for name in (*names, *refused)} | other


def prepare(folder: Path) -> None:
    """Write the sources that are files."""
    from tests.convert.networks import upsampling, window  # noqa: PLC0415 - after tools has set TensorFlow up
    from tools.convert.tf import quiet  # noqa: PLC0415

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
