"""``fedloom task``: new, check, build and try."""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import UsageError
from tools.task.own import (
    PLAN_FILE,
    TASK_FILE,
    OwnTask,
    load_task,
    missing_classes,
    read_task,
    require_licence,
    write_devices,
)

if TYPE_CHECKING:
    from tools.task.own import Owned

BUNDLE = "bundle"
DEVICES = "devices"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    new = verbs.add_parser("new", help="write a task's folder from a model and a folder of examples")
    new.add_argument("name", metavar="NAME", help="of the task, and of the folder that is written")
    new.add_argument("--model", type=Path, required=True, metavar="FILE.keras")
    new.add_argument("--examples", type=Path, required=True, metavar="DIR", help="OWNER/CLASS/FILE, an example a file")
    new.add_argument("--licence", default="", metavar="TEXT", help="whose data, and what may be done with them")
    helps = {
        "check": "read every example and say who has what",
        "build": "convert the model, and write each device's examples",
        "try": "train federated and each owner alone, in this process, and compare them",
    }
    for verb, text in helps.items():
        command = verbs.add_parser(verb, help=text)
        command.add_argument("folder", metavar="FOLDER", type=Path)
        if verb == "try":
            command.add_argument("--rounds", type=int, default=5, metavar="N", help="of training (5)")


def run(arguments: argparse.Namespace) -> int:
    """Run one verb."""
    if arguments.verb == "new":
        _new(arguments)
        return 0
    task = read_task(arguments.folder)
    owned = load_task(task)
    _show(task, owned)
    require_licence(task)
    if arguments.verb == "build":
        _build(task, owned)
    elif arguments.verb == "try":
        from tools.task.compare import compare  # noqa: PLC0415 - loads a TFLite runtime

        print(compare(task, owned, arguments.rounds))
    return 0


def _new(arguments: argparse.Namespace) -> None:
    from tools.task.keras_file import input_and_outputs  # noqa: PLC0415 - loads TensorFlow
    from tools.task.new import Found, write_task  # noqa: PLC0415

    shape, outputs = input_and_outputs(arguments.model)
    found = Found(arguments.model, arguments.examples, shape, outputs)
    folder = write_task(arguments.name, Path.cwd(), found, arguments.licence)
    classes = tomllib.loads((folder / TASK_FILE).read_text("utf-8"))["classes"]
    print(f"wrote {folder.name}/task.toml, plan.toml and card.md")
    print("the model's outputs are read as " + ", ".join(f"{i}: {name}" for i, name in enumerate(classes)))
    if not arguments.licence:
        print(f"write into licence in {folder.name}/task.toml whose data these are and what may be done with them")
    print(f"next: fedloom task check {folder.name}")


def _show(task: OwnTask, owned: Owned) -> None:
    for name, (train, held) in (owned.devices | owned.strangers).items():
        part = "" if name in owned.devices else "; takes no part: the model is tested on it"
        print(f"{name}: {len(train)} examples to train on, {len(held)} held out{part}")
    for line in missing_classes(task, owned):
        print(f"note: {line}", file=sys.stderr)


def _build(task: OwnTask, owned: Owned) -> None:
    from tools.convert.convert import Options, convert  # noqa: PLC0415 - loads TensorFlow
    from tools.convert.losses import LossOptions  # noqa: PLC0415

    out = task.folder / BUNDLE
    made = convert(task.model, out, Options(batch_size=task.batch_size, loss=LossOptions(task.loss)))
    shapes = [spec.shape[1:] for spec in made.manifest.inputs]
    if made.outputs != len(task.classes):
        raise UsageError(
            "task-labels",
            f"The model has {made.outputs} outputs, {TASK_FILE} names {len(task.classes)} classes.",
            "give the last layer as many units as there are classes",
        )
    if shapes != [task.input_shape]:
        raise UsageError("task-shape", f"input_shape is {list(task.input_shape)}, the model takes {shapes}.")
    write_devices(task.folder / DEVICES, owned)
    print(
        f"wrote {out.name}/ (proven on {', '.join(each['name'] for each in made.proof['runtimes'])}) and"
        f" {DEVICES}/OWNER/examples.npz; next:\n"
        f"  fedloom-server task create --data server --bundle {task.name}/{BUNDLE} --plan {task.name}/{PLAN_FILE}"
    )
