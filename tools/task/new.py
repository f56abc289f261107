"""``fedloom task new``: look at a model and a folder of examples, and write the task's folder."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.errors import UsageError
from shared.ids import require_name
from shared.plan import Plan
from tools.task.files import folders
from tools.task.own import CARD_FILE, PLAN_FILE, TASK_FILE, TODO

_DEFAULT_SMALLEST: Final = 10  # devices that a sum hides one among, where there are as many

_TASK: Final = """# Task {name}: what `fedloom task` reads. Paths are relative to this folder.
model = {model}
# OWNER/CLASS/FILE: .npy, .csv, .png, .jpg or .wav, one example each
examples = {examples}
# In the order of the model's outputs.
classes = {classes}
# Of one example.
input_shape = {shape}
# Of each owner's examples of each class, to judge models on.
held_out_share = 0.2
# Take no part: the model is tested on them.
test_owners = {strangers}
loss = "sparse_categorical_crossentropy"
batch_size = 16
licence = {licence}
"""
_PLAN: Final = """# The plan of task {name}; every key and its unit is described in docs/plan.md.
task = "{name}"

[training]
epochs = 2
learning_rate = 0.05

[update]
# A larger change is scaled down to this norm.
max_l2_norm = 5.0
# So many examples count at most for one device.
max_weight = 400

[cohort]
# No sum of fewer devices is ever revealed.
min_survivors = {smallest}
largest = {largest}
corrupt_share = 0.05
dropout_share = {dropout}

[deadlines]
forming_s = 10

[stop]
rounds = 10

# Once the task is done, each device trains a copy of its own further.
[personalisation]
epochs = 2
learning_rate = 0.02
"""
_CARD: Final = """# Model card: {name}

| | |
|---|---|
| Task | {todo}: what is recognised, from what |
| Data | {owners} owners; licence: {licence} |
| Model | {model} |
| Accuracy | {todo}: `fedloom task try {name}` |
| Seconds and memory of a step | {todo}: `fedloom inspect` |
| Intended use and limits | {todo} |
"""


@dataclass(frozen=True)
class Found:
    """What the model and the examples say.

    Attributes:
        model: a .keras file.
        examples: a folder ``OWNER/CLASS/FILE``.
        shape: of the model's input.
        outputs: of the model.
    """

    model: Path
    examples: Path
    shape: tuple[int, ...]
    outputs: int


def _in_order(name: str) -> tuple[int, str]:
    """Sort numbers as numbers: class 10 comes after 9."""
    return (int(name) if name.isdecimal() else 0), name


def write_task(name: str, parent: Path, found: Found, licence: str) -> Path:
    """Write the folder ``parent/name`` and return it.

    Raises:
        UsageError: ``task-exists``, ``examples-missing``, ``task-labels`` if there are not as many classes as outputs,
            ``task-owners``.
    """
    require_name(name, "the task")
    folder = parent.absolute() / name
    if folder.exists():
        raise UsageError("task-exists", f"{folder} exists already.", f"edit {TASK_FILE} in it, or choose another name")
    if not found.examples.is_dir():
        raise UsageError(
            "examples-missing", f"There is no folder {found.examples}.", "give --examples OWNER/CLASS/FILE"
        )
    owners = [path.name for path in folders(found.examples)]
    classes = sorted({path.name for owner in folders(found.examples) for path in folders(owner)}, key=_in_order)
    if len(classes) != found.outputs:
        raise UsageError(
            "task-labels",
            f"The model has {found.outputs} outputs, the folders are {len(classes)} classes:"
            f" {', '.join(classes) or 'none'}.",
            "each OWNER folder holds one folder per class; give the last layer as many units as there are classes",
        )
    strangers = owners[-max(len(owners) // 5, 1) :]
    devices = len(owners) - len(strangers)
    if devices < 3:
        raise UsageError("task-owners", f"{found.examples} has {len(owners)} owners.", "4 or more are needed")
    smallest = min(_DEFAULT_SMALLEST, max(devices - devices // 4, 3))
    written = {
        "name": name,
        "model": json.dumps(os.path.relpath(found.model.absolute(), folder)),
        "examples": json.dumps(os.path.relpath(found.examples.absolute(), folder)),
        "classes": json.dumps(classes, ensure_ascii=False),
        "shape": json.dumps(list(found.shape)),
        "strangers": json.dumps(strangers, ensure_ascii=False),
        "licence": json.dumps(licence or f"{TODO}: whose data, under which licence", ensure_ascii=False),
        "smallest": str(smallest),
        "largest": str(devices),
        "dropout": f"{1 - smallest / devices:.2f}",
        "owners": str(len(owners)),
        "todo": TODO,
    }
    plan = _PLAN.format(**written)
    Plan.from_toml(plan)
    folder.mkdir(parents=True)
    (folder / TASK_FILE).write_text(_TASK.format(**written), "utf-8")
    (folder / PLAN_FILE).write_text(plan, "utf-8")
    (folder / CARD_FILE).write_text(_CARD.format(**written | {"licence": licence or TODO}), "utf-8")
    return folder
