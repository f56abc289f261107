"""Convert every ``PARTS``-th case of the matrix in one process: FOLDER and part number, then JSON on stdout."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from tools.cli import main

PARTS = 2


def run(folder: Path, part: int) -> dict[str, Any]:
    """Return the converter's answers by case."""
    from tests.convert.matrix import CASES  # noqa: PLC0415 - after tools has set TensorFlow up

    answers = {}
    for name, (_, options) in sorted(CASES.items())[part::PARTS]:
        words = ["convert", f"tests.convert.matrix:{name}", "--out", str(folder / name), "--batch-size", "4", "--json"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            main([*words, *options])
        answers[name] = json.loads(printed.getvalue())
    return answers


if __name__ == "__main__":
    import tools.convert.tf  # noqa: F401 - sets TensorFlow up quietly

    sys.stdout.write(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]))))
