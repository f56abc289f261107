"""What an examples folder holds, for its owner: counts, shapes, classes, and what is wrong; nothing of it is sent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_client.examples.reading import find_examples
from shared.errors import FedloomError
from shared.examples import Examples

MOST_CLASSES: Final = 1000  # shown; more of them are no classes
Report = dict[str, Any]


def describe(folder: Path, now_s: float) -> Report:
    """Return what is in ``folder`` at a time: ``wrong`` keeps this device from training, ``remarks`` do not."""
    report: Report = {"folder": str(folder), "bytes": _bytes_in(folder), "wrong": [], "remarks": []}
    try:
        found = find_examples(folder, now_s)
    except FedloomError as error:
        return report | {"examples": 0, "held_out": 0, "inputs": {}, "classes": None, "wrong": [error.to_json()]}
    examples, held_out = found.train, found.held_out
    inputs = examples.inputs()
    shapes = {name: {"shape": list(values.shape[1:]), "dtype": str(values.dtype)} for name, values in inputs.items()}
    classes, unseen = _classes(examples), _classes(held_out)
    for name, values in inputs.items():
        if values.dtype.kind == "f" and (odd := int((~np.isfinite(values)).sum())):
            message = f"{name} holds {odd} values that are infinite or not a number."
            report["wrong"].append(_problem("examples-values", message, "remove those examples"))
    report["remarks"] += [_problem("file-left-out", one, "mend the file, or take it away") for one in found.problems]
    report["remarks"] += _remarks(classes, unseen, len(held_out))
    counts = {"reader": found.reader, "examples": len(examples), "held_out": len(held_out)}
    return report | counts | {"inputs": shapes, "classes": classes, "held_out_classes": unseen}


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _classes(examples: Examples) -> dict[str, int] | None:
    """Return how many examples each class has, None for labels that are no classes."""
    labels = examples.y
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        return None
    counted = Counter(int(label) for label in labels)
    return {str(label): counted[label] for label in sorted(counted)} if len(counted) <= MOST_CLASSES else None


def _remarks(classes: dict[str, int] | None, unseen: dict[str, int] | None, held_out: int) -> list[dict[str, str]]:
    found = []
    if not held_out:
        message = "No example is held out: models are not judged on this device."
        found.append(_problem("nothing-held-out", message, "mark some of them in held_out"))
    if classes is not None and len(classes) == 1:
        found.append(
            _problem("one-class", "All examples have one class.", "that is fine where other devices have others")
        )
    if missing := sorted(set(unseen or {}) - set(classes or {}), key=int):
        message = f"Held-out examples have classes that none to train on has: {', '.join(missing[:10])}."
        found.append(_problem("class-only-held-out", message, "hold out examples of every class"))
    return found


def _problem(code: str, message: str, remedy: str) -> dict[str, str]:
    return {"code": code, "message": message, "try": remedy}


def to_text(report: Report) -> str:
    """Return a description for people."""
    lines = [
        f"folder    {report['folder']}, {report['bytes'] / 1e6:.1f} megabytes",
        f"examples  {report['examples']} to train on, {report['held_out']} held out",
    ]
    lines += [f"input     {name}: {value['dtype']}{value['shape']}" for name, value in report["inputs"].items()]
    if report["classes"] is not None:
        rest = report["held_out_classes"] or {}
        for label, count in report["classes"].items():
            lines.append(f"class     {label}: {count} to train on, {rest.get(label, 0)} held out")
    for kind in ("wrong", "remarks"):
        name = "WRONG" if kind == "wrong" else "remark"
        lines += [f"{name:<9} {one['message']} [{one['code']}] Try: {one['try']}" for one in report[kind]]
    return "\n".join(lines)
